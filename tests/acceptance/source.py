# SPDX-License-Identifier: Apache-2.0
"""An HTTP server for imports that waits, stalls and breaks off as a test wants."""

import itertools
import threading
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.acceptance.client import IDENTITY, TOKEN
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
        self._held, self._released = threading.Event(), threading.Event()
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


class Front:
    """What stands before another Glance's API: keystone's middleware, and a network that stalls.

    :param url: of the API
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._next: Download | None = None

    def expect(self, hold: int | None = None, abort: int | None = None) -> Download:
        """How the next image data is sent; see `Download`."""
        self._next = Download(b"", hold=hold, abort=abort)
        return self._next

    def answer(self, handler: BaseHTTPRequestHandler, path: str) -> None:
        """Serve one request."""
        if handler.headers.get("X-Auth-Token") != TOKEN:
            handler.send_error(401)
            return
        request = urllib.request.Request(self._url + path, headers=IDENTITY)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            data = answer.read()
        download = Download(data)
        if path.endswith("/file") and self._next:
            download, self._next = self._next, None
            download.data = data
        download.answer(handler)


class Source:
    """The server."""

    def __init__(self) -> None:
        self.port = free_port()
        self._downloads: dict[str, Download] = {}
        self._fronts: dict[str, Front] = {}
        self._numbers = itertools.count()
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                first, slash, rest = self.path[1:].partition("/")
                with suppress(ConnectionError):
                    if slash:
                        source.front(first).answer(self, slash + rest)
                    else:
                        source.download(self.path).answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def download(self, path: str) -> Download:
        """What a path answers."""
        return self._downloads.pop(path)

    def front(self, name: str) -> Front:
        """What stands before another Glance."""
        return self._fronts[name]

    def stand_before(self, glance: str) -> tuple[Front, str]:
        """Stand before another Glance's API; the URL to ask instead."""
        name = f"glance-{next(self._numbers)}"
        self._fronts[name] = Front(glance)
        return self._fronts[name], f"http://{LOOPBACK}:{self.port}/{name}"

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
