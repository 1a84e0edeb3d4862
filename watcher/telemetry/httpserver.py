# SPDX-License-Identifier: Apache-2.0
"""A small HTTP server beside the work: it costs nothing between requests, and no client of it
can hold up another, the work, or the program's end."""

import contextlib
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any

from oslo_log import log

LOG = log.getLogger(__name__)

MAX_CONNECTIONS = 20  # the oldest gives way to one more
ACCEPT_PAUSE = 1.0  # seconds; when no more descriptors are to be had


class Server(socketserver.ThreadingTCPServer):
    """Listens as soon as it is made; answers once it is started.

    :raises OSError: the address is unknown, or in use
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = info[0]
        self._lock = threading.Lock()
        self._open: dict[Any, None] = {}  # connections, the oldest first
        self._stopping = threading.Event()
        super().__init__((host, port), handler)

    def start(self) -> None:
        """Answer in threads of its own; returns at once."""
        threading.Thread(target=self._run, name="http", daemon=True).start()

    def stop(self) -> None:
        """Listen no more; returns at once."""
        self._stopping.set()
        with contextlib.suppress(OSError):  # wakes who waits for a connection
            self.socket.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        # Not serve_forever: it wakes up twice a second to see whether it should end.
        with self:
            while not self._stopping.is_set():
                self.handle_request()

    def get_request(self) -> tuple[Any, Any]:
        """Wait for a connection."""
        try:
            return super().get_request()
        except OSError:
            self._stopping.wait(ACCEPT_PAUSE)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread."""
        with self._lock:
            self._open[request] = None
            if len(self._open) > MAX_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread closes it
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The connection was answered, or failed."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client's fault is no reason for a trace."""
        LOG.debug("A request from %s failed", client_address)
