# SPDX-License-Identifier: Apache-2.0
"""The service: wires triggers, queue and reconciler, and starts and stops them in that order."""

import contextlib
import faulthandler
import gc
import math
import os
import signal
import threading
import time
from typing import Any

from oslo_config import cfg
from oslo_log import log

from watcher import backoff, logs, startup
from watcher import conf as configuration
from watcher.conditions import Condition
from watcher.conf import GROUP, STATUS_FILE, Config, database_url
from watcher.database.images import Images
from watcher.errors import ConfigError
from watcher.reconcile.budget import RemovalBudget
from watcher.reconcile.cleaner import Cleaner, Progress, Removal, Step
from watcher.reconcile.planner import Planner
from watcher.reconcile.reconciler import CHECK_INTERVAL, Reconciler
from watcher.staging.directory import Staging
from watcher.staging.places import own_staging_path
from watcher.stats import Stats
from watcher.telemetry import status_file, systemd
from watcher.telemetry.removals import Removals
from watcher.telemetry.status_file import StatusFile
from watcher.threads import ENDED, STALL_TIMEOUT, Supervised
from watcher.triggers.directory_watch import DirectoryWatch
from watcher.workqueue import Directory, WorkQueue

LOG = log.getLogger(__name__)

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2}
SUPERVISE_INTERVAL = 5.0  # seconds
STOP_TIMEOUT = 3.0  # seconds for the current removal
END_TIMEOUT = 4.5  # seconds for all of the stop


class Service:
    """Everything that runs beside one glance-api.

    :raises ConfigError: the configuration can't be used
    """

    def __init__(self, conf: Config) -> None:
        options = conf[GROUP]
        self._conf, self._limits = conf, configuration.limits(conf)
        self._manager = systemd.Manager()
        self.stats = Stats()
        self._queue = WorkQueue()
        self._staging = open_staging(conf)
        self._images = Images(database_url(conf))
        self._watch = DirectoryWatch(self._queue)
        self._audit = None
        if options.audit_log:
            from watcher.telemetry.audit import AuditLog  # noqa: PLC0415 - only where asked for

            self._audit = AuditLog(options.audit_log)
        self._removals = Removals(self._audit)
        self._status_file = StatusFile(
            options.status_file, self._report, is_default=options.status_file == STATUS_FILE
        )
        self._reconciler = Reconciler(
            queue=self._queue,
            staging=self._staging,
            images=self._images,
            cleaner=new_cleaner(conf, self._staging, self._images, self.stats),
            watch=self._watch,
            limits=self._limits,
            check_interval=min(CHECK_INTERVAL, (self._manager.watchdog or math.inf) / 4),
        )
        self._crash = Condition(
            LOG, "Reconciler failed, restarting it; this is a bug: %s", "Reconciler works again"
        )
        self._thread = Supervised(self._run, "reconciler", self._crash)
        self._closing = Condition(
            LOG,
            "Descriptors of removed files are not closed, disk space is not freed: %s",
            "Descriptors of removed files are closed again",
        )
        self._heartbeat = time.monotonic()
        self._listener = None
        if options.notifications:
            from watcher.triggers.listener import (  # noqa: PLC0415 - not for sweep
                NotificationListener,
            )

            self._listener = NotificationListener(conf, self._queue, self.stats)
        self._http = None
        if options.metrics_port:
            from watcher.telemetry.http import new_server  # noqa: PLC0415 - only where asked for

            self._http = new_server(
                conf,
                stats=self.stats,
                queue=self._queue,
                conditions=self.conditions,
                ready=lambda: self._reconciler.swept,
                sweep_interval=lambda: self._limits.sweep_interval,
                alive=self.alive,
            )

    def start(self) -> None:
        """Start the threads; returns at once."""
        self._heartbeat = time.monotonic()
        self._thread.start()
        self._status_file.start()
        if self._http is not None:
            self._http.start()
        if self._listener is not None:
            self._listener.start()

    def stop(self) -> None:
        """Stop the triggers, let the reconciler finish the current removal, close."""
        self._manager.stopping()
        if self._http is not None:
            self._http.stop()
        if self._listener is not None:
            self._listener.stop()
        self._queue.close()
        if self._thread.stop(STOP_TIMEOUT):
            self._watch.stop()
            self._images.close()
            self._status_file.close()
            self._removals.close()

    def supervise(self) -> None:
        """Start threads again that ended; to be called every `SUPERVISE_INTERVAL` seconds."""
        self._thread.supervise()
        self._status_file.supervise()
        if self._http is not None:
            self._http.supervise()
        if self._listener is not None:
            self._listener.supervise()
        self._follow_closer()
        if self._watch.failure is not None:
            self._queue.put(Directory())  # the reconciler starts the watch again

    def conditions(self) -> dict[str, str | None]:
        """Components, each with the cause of its fault, None while it is healthy."""
        causes: dict[str, str | None] = {"cleaner": None}
        causes |= {name: each.cause for name, each in self._reconciler.conditions.items()}
        causes["closer"] = self._closing.cause
        if self._listener is not None:
            causes["notifications"] = self._listener.condition
        if self._audit is not None:
            causes["audit"] = self._audit.condition.cause
        threads = self.alive()
        return {name: cause or threads.get(name) for name, cause in causes.items()}

    def alive(self) -> dict[str, str | None]:
        """Threads, each with the cause why it ended or makes no progress, None while it runs."""
        causes = {
            "cleaner": self._stall() or self._crash.cause,
            "file_events": self._watch.failure,
            "closer": self._staging.closer.failure,
        }
        if self._listener is not None:
            causes["notifications"] = self._listener.failure
        return causes

    def reload(self) -> None:
        """Apply what changed in the configuration, as far as that goes without a restart."""
        self._manager.reloading()
        cause = None
        try:
            changed = configuration.reload(self._conf)
        except ConfigError as error:
            cause = str(error)
        if cause is not None:  # not above, where oslo.log would add the exception to the line
            LOG.error("%s; keeping the old values", cause)
        else:
            limits = configuration.limits(self._conf)
            if limits != self._limits:
                self._limits = limits
                self._reconciler.reconfigure(limits)
            LOG.info("Configuration reloaded, changed: %s", ", ".join(changed) or "nothing")
        logs.quieten()
        if self._listener is not None:
            self._listener.read_driver_log()
        self._manager.reloaded()

    def report(self) -> None:
        """Write a Guru Meditation Report; see `watcher.telemetry.report`."""
        try:
            from watcher.telemetry import report  # noqa: PLC0415 - only where asked for

            report.write(
                self._conf,
                report.watcher_section(self.stats, self._queue, self.conditions()),
            )
        except Exception:
            LOG.exception("Cannot make the Guru Meditation Report; this is a bug")

    def _run(self) -> None:
        attempt = 0
        while not self._queue.closed:
            try:
                for step in self._reconciler.run():
                    self._follow_up(step)
                    if self._crash.end():
                        attempt = 0
                    if self._queue.closed:
                        break
            except BaseException as error:  # also of a library that wants to end the process
                LOG.debug("Reconciler failed", exc_info=True)
                self._crash.begin(f"{type(error).__name__}: {error}")
                attempt += 1
                self._queue.wait_closed(backoff.retry_delay(attempt))

    def _follow_up(self, step: Step) -> None:
        self._heartbeat = time.monotonic()
        if isinstance(step, Removal):
            self._removals.report(step)
        elif isinstance(step, Progress):
            self._removals.flush()
        self._status_file.update()
        if isinstance(step, Progress) and self._manager.is_there:
            if self._reconciler.swept:
                self._manager.ready()
            self._manager.status(systemd.status_text(self.stats, self.conditions()))
        self._manager.ping()

    def _follow_closer(self) -> None:
        closer = self._staging.closer
        if (cause := closer.failure) is None:
            self._closing.end()
        else:
            self._closing.begin(cause)
            closer.supervise()

    def _report(self) -> dict[str, Any]:
        return status_file.report(
            self.stats, self._queue, self._removals, self.conditions(), self._staging.path
        )

    def _stall(self) -> str | None:
        if self._thread.ended:
            return ENDED
        silent = time.monotonic() - self._heartbeat
        return f"no progress for {silent:.0f} s" if silent > STALL_TIMEOUT else None


def open_staging(conf: cfg.ConfigOpts) -> Staging:
    """The staging directory of the configuration.

    :raises ConfigError: it is there but can't be used
    """
    staging = Staging(own_staging_path(conf))
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
    conf: cfg.ConfigOpts, staging: Staging, images: Images, stats: Stats, *, trusted: bool = False
) -> Cleaner:
    """A cleaner with the limits of the configuration.

    :param trusted: the operator says that this is the right database
    """
    limits = configuration.limits(conf)
    budget = RemovalBudget(limits.max_absent_removals)
    planner = Planner(staging, images, budget, absent_grace=limits.absent_grace, trusted=trusted)
    return Cleaner(staging, planner, stats)


def run(conf: Config) -> int:
    """Run in the foreground until SIGTERM or SIGINT; the process's exit code.

    SIGHUP reloads the configuration, SIGUSR2 writes a report.

    :raises ConfigError: the configuration can't be used
    """
    awaited = {*SIGNALS, signal.SIGALRM}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    threading.excepthook = _log_end
    faulthandler.enable()  # the watchdog's SIGABRT shows where it hung
    service = Service(conf)
    startup.announce(conf)
    # What was imported stays; to look through all of it for garbage would delay events by 50 ms.
    gc.collect()
    gc.freeze()
    service.start()
    # Not by a timeout: after a longer SIGSTOP sigtimedwait() returns a signal that never came.
    signal.setitimer(signal.ITIMER_REAL, SUPERVISE_INTERVAL, SUPERVISE_INTERVAL)
    while (received := signal.sigwait(awaited)) not in (signal.SIGTERM, signal.SIGINT):
        if received == signal.SIGALRM:
            service.supervise()
        elif received == signal.SIGHUP:
            service.reload()
        else:
            service.report()
    # Even if something hangs then, such as the log itself, it ends.
    deadline = threading.Timer(END_TIMEOUT, os._exit, [1])
    deadline.daemon = True
    deadline.start()
    LOG.info("Stopping on %s", signal.Signals(received).name)
    service.stop()
    return 0


def _log_end(arguments: threading.ExceptHookArgs) -> None:
    """Log the end of a thread without a trace above DEBUG; it is supervised."""
    name = arguments.thread.name if arguments.thread is not None else "unknown"
    LOG.debug("Thread %s ended: %r", name, arguments.exc_value)
