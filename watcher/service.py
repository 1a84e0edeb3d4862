# SPDX-License-Identifier: Apache-2.0
"""The service: wires triggers, queue and cleaner, and starts and stops them in order."""

import contextlib
import faulthandler
import math
import os
import signal
import threading
import time
from collections.abc import Callable

from oslo_config import cfg
from oslo_log import log

from watcher import backoff as jitter
from watcher import conf as configuration
from watcher import logs
from watcher.conf import GROUP, database_url, staging_path
from watcher.database.images import Images
from watcher.errors import ConfigError
from watcher.reconcile.cleaner import Cleaner
from watcher.reconcile.planner import Decision
from watcher.reconcile.reconciler import CHECK_INTERVAL, Reconciler
from watcher.staging.directory import Staging
from watcher.stats import Removal, Stats
from watcher.telemetry import systemd
from watcher.triggers.directory_watch import DirectoryWatch
from watcher.workqueue import WorkQueue

LOG = log.getLogger(__name__)

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2}
STALL_TIMEOUT = 120.0  # seconds; far longer than the database is waited for
STOP_TIMEOUT = 3.0  # seconds for the removal in hand
END_TIMEOUT = 4.5  # seconds for all of the stop

# Seconds over which hosts that may share a directory spread their looks at a notified image.
TURN_SPREAD = 0.5


class Service:
    """Everything that runs beside one glance-api.

    :raises ConfigError: the configuration can't be used
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        options = conf[GROUP]
        self._conf, self._limits = conf, configuration.limits(conf)
        self._manager = systemd.Manager()
        self.stats = Stats()
        self._queue = WorkQueue()
        self._staging = open_staging(conf)
        self._images = Images(database_url(conf))
        self._events = DirectoryWatch(self._queue)
        self._reconciler = Reconciler(
            queue=self._queue,
            staging=self._staging,
            images=self._images,
            cleaner=new_cleaner(
                conf,
                self._staging,
                self._images,
                stats=self.stats,
                stopping=lambda: self._queue.closed,
                audited=True,
                on_removal=self._alive,
                on_failure=self._alive,
            ),
            events=self._events,
            sweep_interval=options.sweep_interval,
            on_swept=self._swept,
            on_progress=self._progress,
            check_interval=min(CHECK_INTERVAL, (self._manager.watchdog or math.inf) / 4),
        )
        self._thread = threading.Thread(target=self._run, name="cleaner", daemon=True)
        self._ready = False
        self.failed = False
        self._notifications = None
        if options.notifications:
            from watcher.triggers.listener import NotificationListener  # noqa: PLC0415 - not for sweep

            self._notifications = NotificationListener(conf, self._queue, self.stats, self._turn)
        self._monitor = None
        if options.metrics_port:
            from watcher.telemetry.http import new_server  # noqa: PLC0415 - only where asked for

            self._monitor = new_server(
                conf,
                stats=self.stats,
                queue=self._queue,
                conditions=self.conditions,
                ready=lambda: self._ready,
                sweep_interval=lambda: self._limits.sweep_interval,
            )

    def start(self) -> None:
        """Start the threads; returns at once."""
        self._thread.start()
        if self._monitor is not None:
            self._monitor.start()
        if self._notifications is not None:
            self._notifications.start()

    def stop(self) -> None:
        """Stop the triggers, let the cleaner finish the removal in hand, close."""
        self._manager.stopping()
        if self._monitor is not None:
            self._monitor.stop()
        if self._notifications is not None:
            self._notifications.stop()
        self._queue.close()
        self._thread.join(STOP_TIMEOUT)
        if not self._thread.is_alive():
            self._events.stop()
            self._images.close()

    def conditions(self) -> dict[str, str | None]:
        """Parts of the watcher, each with the cause of its fault, None while it is in order."""
        parts = {"cleaner": self._stall()}
        parts |= {part: fault.cause for part, fault in self._reconciler.faults.items()}
        if self._notifications is not None:
            parts["notifications"] = self._notifications.condition
        return parts

    def reload(self) -> None:
        """Take over what changed in the configuration, as far as that goes without a restart."""
        self._manager.reloading()
        cause = None
        try:
            changed = configuration.reload(self._conf)
        except ConfigError as error:
            cause = str(error)
        if cause is not None:  # not above, where oslo.log would add the exception to the line
            LOG.error("%s; going on with the old values", cause)
        else:
            limits = configuration.limits(self._conf)
            if limits != self._limits:
                self._limits = limits
                self._reconciler.limit(limits)
            LOG.info("Configuration reloaded, changed: %s", ", ".join(changed) or "nothing")
        logs.quieten()
        if self._notifications is not None:
            self._notifications.read_driver_log()
        self._manager.reloaded()

    def report(self) -> None:
        """Write a Guru Meditation Report; see `watcher.telemetry.report`."""
        try:
            from watcher.telemetry import report as gmr  # noqa: PLC0415 - only where asked for

            gmr.write(
                self._conf,
                gmr.watcher_section(self.stats, self._queue, self.conditions()),
            )
        except Exception:
            LOG.exception("Cannot make the Guru Meditation Report; this is a bug")

    def _run(self) -> None:
        try:
            self._reconciler.run()
        except Exception:
            LOG.exception("The cleaner failed; this is a bug")
            self.failed = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _stall(self) -> str | None:
        if not self._thread.is_alive():
            return "its thread has ended"
        silent = time.monotonic() - self._reconciler.heartbeat
        return f"no progress for {silent:.0f} s" if silent > STALL_TIMEOUT else None

    def _alive(self, *_: object) -> None:
        # One step may hold a thousand files that take seconds each.
        self._reconciler.heartbeat = time.monotonic()
        self._manager.ping()

    def _turn(self) -> float:
        # All of them hear of it. Mostly the first does the work, and the others find no file.
        return jitter.within(TURN_SPREAD) if self._staging.network is not None else 0.0

    def _swept(self) -> None:
        self._ready = True

    def _progress(self) -> None:
        if not self._manager.is_there:  # the status would be made for nobody, twice an event
            return
        if self._ready:
            self._manager.ready()
        self._manager.ping()
        self._manager.status(systemd.status_text(self.stats, self.conditions()))


def open_staging(conf: cfg.ConfigOpts) -> Staging:
    """The staging directory of the configuration.

    :raises ConfigError: it is there but can't be used
    """
    staging = Staging(staging_path(conf))
    try:
        # It comes with the first stage.
        with contextlib.suppress(FileNotFoundError), staging:
            pass
    except OSError as error:
        raise ConfigError(
            f"Cannot use the staging directory {staging.path}: {error.strerror}; "
            "run as the user that runs glance-api"
        ) from None
    return staging


def new_cleaner(
    conf: cfg.ConfigOpts,
    staging: Staging,
    images: Images,
    *,
    stats: Stats | None = None,
    stopping: Callable[[], bool] = lambda: False,
    audited: bool = False,
    on_removal: Callable[[Removal], None] = lambda removal: None,
    on_failure: Callable[[Decision, OSError], None] | None = None,
) -> Cleaner:
    """A cleaner with the limits of the configuration.

    :param audited: write the audit, if one is configured
    :raises ConfigError: the audit can't be written
    """
    options = conf[GROUP]
    record = on_removal
    if audited and options.audit_log:
        from watcher.telemetry.audit import AuditLog  # noqa: PLC0415 - only where asked for

        audit = AuditLog(options.audit_log)

        def record(removal: Removal) -> None:
            audit.record(removal)
            on_removal(removal)

    return Cleaner(
        staging,
        images,
        absent_grace=options.absent_grace,
        max_absent_removals=options.max_absent_removals,
        stats=stats,
        on_removal=record,
        on_failure=on_failure,
        stopping=stopping,
    )


def run(conf: cfg.ConfigOpts) -> int:
    """Run in the foreground until SIGTERM or SIGINT; the process's exit code.

    SIGHUP reloads the configuration, SIGUSR2 writes a report.

    :raises ConfigError: the configuration can't be used
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    faulthandler.enable()  # the watchdog's SIGABRT tells where it hung
    service = Service(conf)
    service.start()
    while (received := signal.sigwait(SIGNALS)) not in (signal.SIGTERM, signal.SIGINT):
        if received == signal.SIGHUP:
            service.reload()
        else:
            service.report()
    # Whatever hangs then, be it the log itself, it ends.
    deadline = threading.Timer(END_TIMEOUT, os._exit, [1])
    deadline.daemon = True
    deadline.start()
    LOG.info("Stopping on %s", signal.Signals(received).name)
    service.stop()
    return 1 if service.failed else 0
