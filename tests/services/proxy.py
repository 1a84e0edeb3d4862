# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy which makes the network fail on demand."""

import asyncio
import socket
import struct
from collections.abc import Coroutine
from contextlib import suppress
from threading import Thread
from typing import Any

from .ports import LOOPBACK, free_port


class TcpProxy:
    """A proxy for one port of the loopback interface, on another ``port`` of it.

    It runs in a thread of its own; every method returns when its effect is there.
    """

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flow = asyncio.Event()
        self._flow.set()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._thread.start()
        self.accept()

    def reset(self) -> None:
        """Close all connections with a TCP reset."""
        self._call(self._reset())

    def freeze(self) -> None:
        """Forward nothing any more, but keep all connections open."""
        self._call(self._set_flow(False))

    def thaw(self) -> None:
        """Forward again, at first what was held back."""
        self._call(self._set_flow(True))

    def refuse(self) -> None:
        """Refuse new connections; those which exist go on."""
        self._call(self._refuse())

    def accept(self) -> None:
        """Accept connections again, on the same port."""
        self._call(self._accept())

    def close(self) -> None:
        """Refuse and reset all connections and end the thread."""
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, action: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(action, self._loop).result()

    async def _set_flow(self, flow: bool) -> None:
        if flow:
            self._flow.set()
        else:
            self._flow.clear()

    async def _accept(self) -> None:
        if not self._server:
            self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)

    async def _refuse(self) -> None:
        if self._server:
            self._server.close()
            self._server = None

    async def _reset(self) -> None:
        for writer in self._writers:
            _abort(writer)
        await asyncio.sleep(0)  # asyncio closes aborted sockets in its next round

    async def _end(self) -> None:
        await self._refuse()
        await self._reset()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = {writer}
        try:
            self._writers.add(writer)
            target_reader, target = await asyncio.open_connection(LOOPBACK, self._target_port)
            pair.add(target)
            self._writers.add(target)
            await asyncio.gather(
                self._forward(reader, target, pair), self._forward(target_reader, writer, pair)
            )
        except OSError:
            _abort(writer)
        finally:
            for member in pair:
                member.close()
            self._writers -= pair

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: set[asyncio.StreamWriter],
    ) -> None:
        try:
            while data := await reader.read(65536):
                await self._flow.wait()
                writer.write(data)
                await writer.drain()
            await self._flow.wait()
            writer.write_eof()
        except OSError:  # one side has reset its connection
            await self._flow.wait()
            for member in pair:
                _abort(member)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a reset."""
    with suppress(OSError):  # closed already
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
