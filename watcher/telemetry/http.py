# SPDX-License-Identifier: Apache-2.0
"""Serve metrics and health by HTTP: /, /metrics, /healthz and /readyz.

Importing it raises `ConfigError` where prometheus_client isn't installed.
"""

import contextlib
import io
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from oslo_config import cfg
from oslo_log import log

from watcher.conditions import Condition
from watcher.conf import DISTRIBUTION, GROUP
from watcher.errors import ConfigError
from watcher.stats import Stats
from watcher.threads import Supervised
from watcher.workqueue import WorkQueue

try:
    from prometheus_client import MetricsHandler

    from watcher.telemetry.metrics import Metrics, new_registry
except ModuleNotFoundError as error:
    raise ConfigError(
        f"[staging_watcher] metrics_port is set, but {error.name} is not installed: "
        f"{sys.executable} -m pip install '{DISTRIBUTION}[metrics]'"
    ) from None

if TYPE_CHECKING:
    from watcher.telemetry.web_config import WebConfig

LOG = log.getLogger(__name__)

MAX_CONNECTIONS = 20  # one more closes the oldest
MAX_HEAD = 16384  # bytes of the request line and all headers
MAX_READS = 32  # pieces in which they may arrive; one byte each would cost much processor time
REQUEST_TIMEOUT = 10.0  # seconds for the whole request, and for sending the response
SLOT_TIMEOUT = 1.0  # seconds in which a closed connection's thread must end
ACCEPT_INTERVAL = 0.01  # seconds; a flood of connections leaves the processor to removals
RETRY_DELAY = 1.0  # seconds; after accept() failed, as without free descriptors

#: components that don't affect readiness: files are kept, everything else continues
ADVISORY = frozenset({"witness"})

_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_LANDING_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{DISTRIBUTION}</title></head>
<body>
<h1>{DISTRIBUTION}</h1>
<ul>
<li><a href="/metrics">/metrics</a>: metrics for Prometheus</li>
<li><a href="/readyz">/readyz</a>: whether every component is healthy</li>
<li><a href="/healthz">/healthz</a>: whether the process makes progress</li>
</ul>
</body>
</html>
"""

Causes = Callable[[], Mapping[str, str | None]]


class MetricsServer(ThreadingHTTPServer):
    """Listens once constructed, answers once started.

    Bounded: at most `MAX_CONNECTIONS` threads and `MAX_HEAD` bytes of each request; one request
    is parsed and answered at a time, so that many clients take no more than one processor's turn
    from the watcher.

    :param web: TLS and passwords; None: neither
    :raises OSError: the address is unknown, or in use
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128  # a full one makes clients wait for a second

    def __init__(
        self, host: str, port: int, handler: type["Handler"], web: "WebConfig | None" = None
    ) -> None:
        self.web = web
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = info[0]
        #: held while a request is parsed and answered
        self.turn = threading.Lock()
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._open: dict[Any, None] = {}  # connections that hold a slot, the oldest first
        self._stopping = threading.Event()
        self._thread = Supervised(
            self._run,
            "http",
            Condition(LOG, "HTTP server failed, restarting it: %s", "HTTP server works again"),
        )
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's reverse lookup of the address, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def start(self) -> None:
        """Answer in daemon threads; returns at once."""
        self._thread.start()

    def supervise(self) -> None:
        """Answer again if the thread that accepts connections ended."""
        self._thread.supervise()

    def stop(self) -> None:
        """Stop listening; returns at once."""
        self._stopping.set()
        self._thread.stop()
        with contextlib.suppress(OSError):  # wakes up accept()
            self.socket.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        # serve_forever() would wake up twice a second to see whether it should stop.
        while not self._stopping.is_set():
            try:
                self.handle_request()
                self._stopping.wait(ACCEPT_INTERVAL)
            except Exception as error:  # noqa: BLE001 - MemoryError and the like: keep serving
                LOG.debug("HTTP server: %s", error)
                self._stopping.wait(RETRY_DELAY)
        self.server_close()

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection; after a failure wait before the next try."""
        try:
            return super().get_request()
        except OSError:
            self._stopping.wait(RETRY_DELAY)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Take a slot for the connection, if need be the oldest one's; False: refuse it."""
        if not self._slots.acquire(blocking=False):
            self._close_oldest()
            if not self._slots.acquire(timeout=SLOT_TIMEOUT):
                return False
        with self._lock:
            self._open[request] = None
        return True

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that was answered, refused, or got no thread."""
        with self._lock:
            had_slot = request in self._open
            self._open.pop(request, None)
        try:
            super().shutdown_request(request)
        finally:
            if had_slot:
                self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a failed request without a traceback: clients must not fill the log."""
        LOG.debug("HTTP request from %s failed: %s", client_address, sys.exc_info()[1])

    def _close_oldest(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if oldest := next(iter(self._open), None):
                oldest.shutdown(socket.SHUT_RDWR)  # its thread ends, and frees the slot


class Handler(MetricsHandler):
    """Answers one GET or HEAD request of a connection."""

    #: by path, the components that a page reports, each with the cause of its failure
    checks: Mapping[str, Causes]

    server: MetricsServer

    def handle(self) -> None:
        """Read the request, then answer it when it's this connection's turn."""
        web = self.server.web
        context = web.context() if web is not None else None
        if context is None:
            self._exchange()
            return
        # Of a copy: the server still closes the connection by its own socket.
        with context.wrap_socket(
            self.request.dup(), server_side=True, do_handshake_on_connect=False
        ) as self.connection:
            self.connection.settimeout(REQUEST_TIMEOUT)
            self.connection.do_handshake()
            self._exchange()

    def _exchange(self) -> None:
        head = self._read_head()
        if head is None:
            return
        with self.server.turn:
            answer = self._answer(head)
        self.connection.settimeout(REQUEST_TIMEOUT)
        self.connection.sendall(answer)

    def _read_head(self) -> bytes | None:
        """Read request line and headers, up to `MAX_HEAD` bytes or little more.

        None: they arrive too slowly, or in too many pieces.
        """
        deadline = time.monotonic() + REQUEST_TIMEOUT
        head = bytearray()
        for _ in range(MAX_READS):
            if (left := deadline - time.monotonic()) <= 0:
                return None
            self.connection.settimeout(left)
            received = self.connection.recv(4096)
            start = max(0, len(head) - 3)
            head += received
            if not received or len(head) > MAX_HEAD or _END_OF_HEAD.search(head, start):
                return bytes(head)
        return None

    def _answer(self, head: bytes) -> bytes:
        self.rfile, written = io.BytesIO(head), io.BytesIO()
        self.wfile = written
        if len(head) > MAX_HEAD:
            self.requestline = self.request_version = self.command = ""
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            self.handle_one_request()
        headers, separator, body = written.getvalue().partition(b"\r\n\r\n")
        return headers + separator + (b"" if self.command == "HEAD" else body)

    def do_GET(self) -> None:  # noqa: N802
        """Answer with a page."""
        path = self.path.partition("?")[0]
        web = self.server.web
        if web is not None and not web.allows(self.headers.get("Authorization")):
            self._send(HTTPStatus.UNAUTHORIZED, "text/plain", "Unauthorized\n")
        elif path == "/metrics":
            super().do_GET()
        elif path == "/":
            self._send(HTTPStatus.OK, "text/html", _LANDING_PAGE)
        elif path in self.checks:
            components = self.checks[path]()
            text = "".join(f"{name}: {cause or 'ok'}\n" for name, cause in components.items())
            failing = any(components.values())
            status = HTTPStatus.SERVICE_UNAVAILABLE if failing else HTTPStatus.OK
            self._send(status, "text/plain", text)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_HEAD(self) -> None:  # noqa: N802
        """Answer with the headers of a page; `_answer` drops the body."""
        self.do_GET()

    def version_string(self) -> str:
        """Return the header Server, without versions: the pages need no password."""
        return DISTRIBUTION

    def _send(self, status: HTTPStatus, content_type: str, text: str) -> None:
        body = text.encode(errors="backslashreplace")
        self.send_response(status)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", f'Basic realm="{DISTRIBUTION}"')
        self.send_header("Content-Type", f"{content_type}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def new_server(
    conf: cfg.ConfigOpts,
    *,
    stats: Stats,
    queue: WorkQueue,
    conditions: Causes,
    ready: Callable[[], bool],
    sweep_interval: Callable[[], float],
    alive: Causes,
) -> MetricsServer:
    """Return the configured server; it listens, but is not started.

    :param conditions: every component, with the cause of its failure; None: healthy
    :param ready: whether the first sweep has ended
    :param sweep_interval: seconds, as configured now
    :param alive: threads without which only a restart helps, each with the cause of its failure
    :raises ConfigError: the address can't be used
    """

    def readiness() -> Mapping[str, str | None]:
        first_sweep = None if ready() else "not finished yet"
        components = {name: c for name, c in conditions().items() if name not in ADVISORY}
        return {"first_sweep": first_sweep} | components

    class ServiceHandler(Handler):
        registry = new_registry(
            Metrics(stats, queue, conditions=conditions, sweep_interval=sweep_interval)
        )
        checks = {"/healthz": alive, "/readyz": readiness}  # noqa: RUF012 - constant

    host, port = conf[GROUP].metrics_host, conf[GROUP].metrics_port
    web = None
    if path := conf[GROUP].metrics_web_config:
        from watcher.telemetry.web_config import WebConfig  # noqa: PLC0415 - only where asked for

        web = WebConfig(path)
    try:
        server = MetricsServer(host, port, ServiceHandler, web)
    except OSError as error:
        raise ConfigError(
            f"Cannot serve metrics on {host} port {port}: {error.strerror}; see [staging_watcher] "
            "metrics_host and metrics_port"
        ) from None
    LOG.info("Serving metrics and health on %s port %i", host, port)
    return server
