# SPDX-License-Identifier: Apache-2.0
"""An HTTP server for web-download that waits, stalls and breaks off as a test wants."""

import itertools
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.services.ports import LOOPBACK, free_port
from tests.services.waiting import wait_for

PATIENCE = 120.0  # seconds: a test that failed holds nobody for ever


class Download:
    """What one URL answers.

    :param hold: bytes to send before it waits for `release`; -1 is before the first header
    :param abort: bytes after which the connection breaks off
    """

    def __init__(self, data: bytes, hold: int | None = None, abort: int | None = None) -> None:
        self.data, self.hold, self.abort = data, hold, abort
        self._asked, self._held = threading.Event(), threading.Event()
        self._released = threading.Event()
        if hold is None:
            self._released.set()

    def wait_held(self) -> None:
        """Wait until the client got all it gets before `release`."""
        wait_for(self._held.is_set, 60.0, "a download that is held")

    def held(self, timeout: float) -> bool:
        """Whether the client gets that far in some seconds."""
        return self._held.wait(timeout)

    def release(self) -> None:
        """Send the rest."""
        self._released.set()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Serve one request."""
        if self.hold == -1:
            self._wait()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.data)))
        handler.end_headers()
        end = len(self.data) if self.abort is None else self.abort
        first = end if self.hold is None else max(0, self.hold)
        handler.wfile.write(self.data[:first])
        handler.wfile.flush()
        if self.hold is not None and self.hold >= 0:
            self._wait()
        handler.wfile.write(self.data[first:end])
        handler.close_connection = True

    def _wait(self) -> None:
        self._held.set()
        self._released.wait(PATIENCE)


class Source:
    """The server."""

    def __init__(self) -> None:
        self.port = free_port()
        self._downloads: dict[str, Download] = {}
        self._numbers = itertools.count()
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with suppress(ConnectionError):
                    source.download(self.path).answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def download(self, path: str) -> Download:
        """What a path answers."""
        return self._downloads.pop(path)

    def offer(self, download: Download) -> str:
        """URL that answers with this."""
        path = f"/{next(self._numbers)}"
        self._downloads[path] = download
        return f"http://{LOOPBACK}:{self.port}{path}"

    def close(self) -> None:
        """Stop serving."""
        for download in self._downloads.values():
            download.release()
        self._server.shutdown()
        self._server.server_close()
