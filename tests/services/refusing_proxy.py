# SPDX-License-Identifier: Apache-2.0
"""A RabbitMQ that refuses transient queues, as 4.3 does: a proxy before one that doesn't."""

import asyncio
import struct
import threading

from .ports import LOOPBACK, free_port

_TEXT = b"INTERNAL_ERROR - transient non-exclusive queues are not permitted"
_METHOD, _QUEUE_DECLARE, _DURABLE_OR_EXCLUSIVE = 1, (50, 10), 0b110


class RefusingProxy:
    """Closes a connection with code 541 when a queue is declared on it that is neither durable nor
    exclusive; all else passes.

    :param upstream: port of the broker
    """

    def __init__(self, upstream: int) -> None:
        self.port = free_port()
        self._upstream = upstream
        self._refuses = True
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        serving = asyncio.start_server(self._serve, LOOPBACK, self.port)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)

    def permit(self) -> None:
        """Refuse no more."""
        self._refuses = False

    def close(self) -> None:
        """End it, and all connections."""
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join()
        self._loop.close()

    def _end(self) -> None:
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_soon(self._loop.stop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, forth = await asyncio.open_connection(LOOPBACK, self._upstream)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(self._pass(back, writer), self._watch(reader, forth, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            forth.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    async def _watch(
        self,
        reader: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
    ) -> None:
        upstream.write(await reader.readexactly(8))
        while True:
            head = await reader.readexactly(7)
            kind, _, length = struct.unpack(">BHI", head)
            body = await reader.readexactly(length + 1)
            if (
                self._refuses
                and kind == _METHOD
                and struct.unpack(">HH", body[:4]) == _QUEUE_DECLARE
            ):
                flags = body[7 + body[6]]
                passive = flags & 1
                if not passive and not flags & _DURABLE_OR_EXCLUSIVE:
                    close = struct.pack(">HHHB", 10, 50, 541, len(_TEXT)) + _TEXT
                    close += struct.pack(">HH", *_QUEUE_DECLARE)
                    client.write(struct.pack(">BHI", 1, 0, len(close)) + close + b"\xce")
                    await client.drain()
                    await asyncio.sleep(0.3)
                    raise ConnectionResetError
            upstream.write(head + body)
            await upstream.drain()
