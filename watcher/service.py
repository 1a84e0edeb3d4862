# SPDX-License-Identifier: Apache-2.0
"""The service: wires triggers, queue and cleaner, and starts and stops them in order."""

import contextlib
import signal
import threading
from collections.abc import Callable

from oslo_config import cfg
from oslo_log import log
from oslo_service import systemd

from watcher.account import Account
from watcher.cleaner import Cleaner
from watcher.conf import GROUP, ConfigError, database_url, staging_path
from watcher.events import FileEvents
from watcher.images import Images
from watcher.reconciler import Reconciler
from watcher.staging import Staging
from watcher.workqueue import WorkQueue

LOG = log.getLogger(__name__)

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}
STOP_TIMEOUT = 3.0  # seconds for the removal in hand


class Service:
    """Everything that runs beside one glance-api.

    :raises ConfigError: the configuration can't be used
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        options = conf[GROUP]
        self.account = Account()
        self._queue = WorkQueue()
        self._staging = open_staging(conf)
        self._images = Images(database_url(conf))
        self._events = FileEvents(self._queue)
        self._reconciler = Reconciler(
            queue=self._queue,
            staging=self._staging,
            images=self._images,
            cleaner=new_cleaner(
                conf,
                self._staging,
                self._images,
                account=self.account,
                stopping=lambda: self._queue.closed,
            ),
            events=self._events,
            sweep_interval=options.sweep_interval,
            on_swept=self._swept,
        )
        self._thread = threading.Thread(target=self._run, name="cleaner", daemon=True)
        self._ready = False
        self.failed = False
        self._notifications = None
        if options.notifications:
            from watcher.notifications import Notifications  # noqa: PLC0415 - not for sweep

            self._notifications = Notifications(conf, self._queue)

    def start(self) -> None:
        """Start the threads; returns at once."""
        self._thread.start()
        if self._notifications is not None:
            self._notifications.start()

    def stop(self) -> None:
        """Stop the triggers, let the cleaner finish the removal in hand, close."""
        if self._notifications is not None:
            self._notifications.stop()
        self._queue.close()
        self._thread.join(STOP_TIMEOUT)
        if not self._thread.is_alive():
            self._events.stop()
            self._images.close()

    def conditions(self) -> dict[str, str | None]:
        """Parts of the watcher, each with the cause of its fault, None while it is in order."""
        parts = {part: fault.cause for part, fault in self._reconciler.faults.items()}
        if self._notifications is not None:
            parts["notifications"] = self._notifications.condition
        return parts

    def _run(self) -> None:
        try:
            self._reconciler.run()
        except Exception:
            LOG.exception("The cleaner failed; this is a bug")
            self.failed = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _swept(self) -> None:
        if not self._ready:
            self._ready = True
            systemd.notify_once()


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
    account: Account | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Cleaner:
    """A cleaner with the limits of the configuration."""
    options = conf[GROUP]
    return Cleaner(
        staging,
        images,
        absent_grace=options.absent_grace,
        max_absent_removals=options.max_absent_removals,
        account=account,
        stopping=stopping,
    )


def run(conf: cfg.ConfigOpts) -> int:
    """Run in the foreground until SIGTERM or SIGINT; the process's exit code.

    :raises ConfigError: the configuration can't be used
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    service = Service(conf)
    service.start()
    received = signal.sigwait(STOP_SIGNALS)
    LOG.info("Stopping on %s", signal.Signals(received).name)
    service.stop()
    return 1 if service.failed else 0
