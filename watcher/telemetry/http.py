# SPDX-License-Identifier: Apache-2.0
"""What may be asked of the running service by HTTP: /metrics, /healthz and /readyz.

Importing it raises `ConfigError` where prometheus_client isn't installed.
"""

import io
import sys
from collections.abc import Callable, Mapping

from oslo_config import cfg
from oslo_log import log

from watcher.conf import DISTRIBUTION, GROUP
from watcher.errors import ConfigError
from watcher.stats import Stats
from watcher.telemetry.httpserver import Server
from watcher.workqueue import WorkQueue

try:
    from prometheus_client import MetricsHandler

    from watcher.telemetry.metrics import Metrics, new_registry
except ModuleNotFoundError as error:
    raise ConfigError(
        f"[staging_watcher] metrics_port is set, but {error.name} is not installed: "
        f"{sys.executable} -m pip install '{DISTRIBUTION}[metrics]'"
    ) from None

LOG = log.getLogger(__name__)

REQUEST_TIMEOUT = 10.0  # seconds in which nothing comes from a client, or goes to it

Check = Callable[[], Mapping[str, str | None]]


class Pages(MetricsHandler):
    """Answers GET and HEAD."""

    #: by path, each gives what must be in order, with its fault
    checks: Mapping[str, Check]

    timeout = REQUEST_TIMEOUT

    def do_GET(self) -> None:  # noqa: N802
        """Answer with a page."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            super().do_GET()
        elif path in self.checks:
            self._tell(self.checks[path]())
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:  # noqa: N802
        """Answer with the headers of a page."""
        self.do_GET()

    def version_string(self) -> str:
        """What the header Server says: no versions, for this needs no password."""
        return DISTRIBUTION

    def end_headers(self) -> None:
        """Send the headers; of the body nothing follows where only they were asked for."""
        super().end_headers()
        if self.command == "HEAD":
            self.wfile = io.BytesIO()

    def _tell(self, parts: Mapping[str, str | None]) -> None:
        text = "".join(f"{part}: {cause or 'ok'}\n" for part, cause in parts.items()).encode()
        self.send_response(503 if any(parts.values()) else 200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def new_server(
    conf: cfg.ConfigOpts,
    *,
    stats: Stats,
    queue: WorkQueue,
    conditions: Check,
    ready: Callable[[], bool],
    sweep_interval: Callable[[], float],
) -> Server:
    """The server of the configuration; it listens, but is not started.

    :param conditions: of all parts of the watcher
    :param ready: whether the first sweep is over
    :param sweep_interval: seconds, as configured now
    :raises ConfigError: the address can't be used
    """
    options = conf[GROUP]

    def of(*parts: str) -> dict[str, str | None]:
        causes = conditions()
        return {part: causes[part] for part in parts}

    class ServicePages(Pages):
        registry = new_registry(
            Metrics(stats, queue, conditions=conditions, sweep_interval=sweep_interval)
        )
        checks = {  # noqa: RUF012 - never changed
            "/healthz": lambda: of("cleaner"),
            "/readyz": lambda: (
                {"first_sweep": None if ready() else "not over yet"} | of("database", "directory")
            ),
        }

    host, port = options.metrics_host, options.metrics_port
    try:
        server = Server(host, port, ServicePages)
    except OSError as error:
        raise ConfigError(
            f"Cannot serve metrics on {host} port {port}: {error.strerror}; see [staging_watcher] "
            "metrics_host and metrics_port"
        ) from None
    LOG.info("Serving metrics and health on %s port %i", host, port)
    return server
