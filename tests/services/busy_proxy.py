# SPDX-License-Identifier: Apache-2.0
"""What ProxySQL answers while the MariaDB behind it can't be reached: it greets by itself, and
refuses each login with a text that holds another number."""

import itertools
import socketserver
import threading

from .ports import LOOPBACK, free_port

_CAPABILITIES = 0x0001 | 0x0008 | 0x0200 | 0x8000 | 0x80000  # with a database, by an auth plugin
_GREETING = (
    b"\x0a8.0.30-proxy\x00" + (1).to_bytes(4, "little") + b"abcdefgh\x00"
    + (_CAPABILITIES & 0xFFFF).to_bytes(2, "little") + b"\x21\x02\x00"
    + (_CAPABILITIES >> 16).to_bytes(2, "little") + b"\x15" + bytes(10)
    + b"ijklmnopqrst\x00mysql_native_password\x00"
)  # fmt: skip
_TEXT = "Max connect timeout reached while reaching hostgroup 10 after %dms"


class BusyProxy:
    """Serves on a port of its own until it is closed."""

    def __init__(self) -> None:
        self.port = free_port()
        self.refused = 0
        numbers = itertools.count(10_001, 37)
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.sendall(_packet(0, _GREETING))
                if self.request.recv(4096):
                    text = (_TEXT % next(numbers)).encode()
                    self.request.sendall(_packet(2, b"\xff\x28\x23#HY000" + text))
                    proxy.refused += 1

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self._server = Server((LOOPBACK, self.port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


def _packet(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload
