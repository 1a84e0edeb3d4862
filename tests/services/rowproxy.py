# SPDX-License-Identifier: Apache-2.0
"""Proxies before MariaDB and PostgreSQL that cut answers of many rows.

MaxScale's maxrows filter by default sends an empty answer where a query has more rows than it
lets through.
"""

import asyncio
import struct
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

from .ports import LOOPBACK, free_port

CLIENT_SSL = 0x0800

Rows = list[bytes]
Cut = Callable[[Rows], Rows]


def emptied(limit: int) -> Cut:
    """All rows are dropped when there are more than `limit`."""
    return lambda rows: [] if len(rows) > limit else rows


def shortened(limit: int) -> Cut:
    """The rows after the first `limit` are dropped."""
    return lambda rows: rows[:limit]


def without_last(rows: Rows) -> Rows:
    """The last row of several is dropped."""
    return rows[:-1] if len(rows) > 1 else rows


class RowProxy:
    """A proxy for a database server on a ``port`` of its own, in a thread of its own.

    :param kind: mariadb or postgresql
    :param cut: rows of an answer → those that are passed on
    """

    def __init__(self, kind: str, target_port: int, cut: Cut) -> None:
        self.port, self.answers_cut = free_port(), 0
        self._target_port, self._cut = target_port, cut
        self._forward = {"mariadb": self._mariadb, "postgresql": self._postgresql}[kind]
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="row-proxy", daemon=True)
        self._thread.start()
        starting = asyncio.start_server(self._serve, LOOPBACK, self.port)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()

    def close(self) -> None:
        """End the thread and all connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target = await asyncio.open_connection(LOOPBACK, self._target_port)
        copying = asyncio.ensure_future(_copy(reader, target))
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._forward(target_reader, writer)
        finally:
            copying.cancel()
            target.close()
            writer.close()

    def _kept(self, rows: Rows) -> Rows:
        kept = self._cut(rows)
        self.answers_cut += len(kept) < len(rows)
        return kept

    async def _postgresql(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rows: Rows = []
        greeted = False
        while True:
            head = await reader.readexactly(1)
            if head == b"N" and not greeted:  # no to TLS, which has no length
                writer.write(head)
                continue
            greeted = True
            head += await reader.readexactly(4)
            message = head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
            if head[:1] == b"D":  # a row
                rows.append(message)
                continue
            for row in self._kept(rows):
                writer.write(row)
            rows = []
            writer.write(message)
            await writer.drain()

    async def _mariadb(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Its greeting and the answer to the login come before any answer to a query.
        number, greeting = await _packet(reader)
        writer.write(_packed(number, _without_tls(greeting)))
        writer.write(_packed(*await _packet(reader)))
        await writer.drain()
        while True:
            number, first = await _packet(reader)
            if first[:1] in (b"\x00", b"\xff"):  # OK or an error
                writer.write(_packed(number, first))
            else:
                head = [first, *[(await _packet(reader))[1] for _ in range(first[0] + 1)]]
                rows: Rows = []
                while not _is_end(last := (await _packet(reader))[1]):
                    rows.append(last)
                for offset, packet in enumerate([*head, *self._kept(rows), last]):
                    writer.write(_packed(number + offset, packet))
            await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readexactly(4)
    return head[3], await reader.readexactly(int.from_bytes(head[:3], "little"))


def _packed(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number & 255]) + payload


def _without_tls(greeting: bytes) -> bytes:
    """A greeting by which the server has no TLS, which MariaDB has by default from 11.4 on."""
    # protocol, version, 0, thread (4), salt (8), 0, capabilities
    place = greeting.index(b"\0", 1) + 1 + 4 + 8 + 1
    flags = int.from_bytes(greeting[place : place + 2], "little") & ~CLIENT_SSL
    return greeting[:place] + flags.to_bytes(2, "little") + greeting[place + 2 :]


def _is_end(payload: bytes) -> bool:
    return payload[:1] in (b"\xfe", b"\xff") and len(payload) < 9
