# SPDX-License-Identifier: Apache-2.0
"""Notifications: image.delete on the message bus → an image id on the queue.

oslo.messaging tries for ever to reach a broker, tells of it in its log only, and doesn't say when
it is back. So its log is read here: it becomes one line when the broker is lost, one when it is
back, and a sweep, since what was sent meanwhile may be lost.
"""

import logging
import re
import threading
from typing import Any

from oslo_config import cfg
from oslo_log import log

from watcher.bus import messaging
from watcher.conf import GROUP, ConfigError
from watcher.faults import Fault, backoff
from watcher.staging import canonical_id
from watcher.workqueue import Image, Sweep, WorkQueue

LOG = log.getLogger(__name__)

EVENT_TYPE = "image.delete"

_LOST = ("AMQP server", "Connection failed", "Unable to connect", "Failed to consume")
_BROKEN = ("Failed to consume",)
_FRAME = re.compile(r"^\[[0-9a-f-]{36}\] |[. ]*(Trying again in|\(retrying in).*$")


class Endpoint:
    """What oslo.messaging calls for each notification of priority INFO."""

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue

    def info(
        self,
        context: object,
        publisher_id: object,
        event_type: object,
        payload: object,
        metadata: object,
    ) -> None:
        """Put the deleted image on the queue; anything else is none of our business."""
        if event_type != EVENT_TYPE:
            return
        key = canonical_id(payload.get("id")) if isinstance(payload, dict) else None
        if key is None:
            LOG.debug("Notification %s without a valid image id; ignoring", EVENT_TYPE)
        else:
            self._queue.put(Image(key))


class Notifications:
    """Listens in a thread of its own, and comes back after every fault of the broker.

    :raises ConfigError: the transport URL can't be used
    """

    def __init__(self, conf: cfg.ConfigOpts, queue: WorkQueue) -> None:
        self._conf, self._queue = conf, queue
        messaging.set_transport_defaults(control_exchange="glance")
        try:
            # One transport for the whole life: its driver reads the options, it doesn't connect.
            self._transport = messaging.get_notification_transport(conf)
        except messaging.DriverLoadFailure as error:
            raise ConfigError(
                f"transport_url has the unknown scheme {error.driver!r}; expected rabbit://"
            ) from None
        except (messaging.MessagingException, cfg.Error, ValueError, RuntimeError) as error:
            # The text may hold the URL with its password.
            raise ConfigError(
                f"transport_url can't be used ({type(error).__name__}); expected "
                "rabbit://user:password@host:port/vhost"
            ) from None
        options = conf[GROUP]
        topics = options.topics or conf.oslo_messaging_notifications.topics
        self._targets = [
            messaging.Target(exchange=options.exchange, topic=topic) for topic in topics
        ]
        self._pool = options.pool
        self._stopping = threading.Event()
        self._broken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifications", daemon=True)
        self._fault = Fault(
            LOG,
            "Cannot receive notifications, sweeps and file events go on: %s",
            "Notifications can be received again",
        )

    def start(self) -> None:
        """Connect, and say when Glance sends nothing."""
        _warn_if_not_sent(self._conf)
        for name in ("oslo_messaging", "oslo_utils.excutils"):
            logger = logging.getLogger(name)
            logger.addHandler(_DriverLog(self))
            logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
            logger.propagate = False
        self._thread.start()

    def stop(self) -> None:
        """Listen no more. Returns at once, for a listener in search of a broker can't be
        stopped; all threads are daemons."""
        self._stopping.set()
        self._broken.set()

    def lost(self, cause: str, *, broken: bool) -> None:
        """The broker can't be reached; ``broken``: oslo.messaging doesn't get over it alone."""
        self._fault.begin(cause)
        if broken:
            self._broken.set()

    def back(self) -> None:
        """oslo.messaging reached the broker again by itself."""
        self._fault.end()
        self._queue.put(Sweep())

    def _run(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            self._broken.clear()
            # A listener whose start failed can't be started again: a new one for each attempt.
            listener = messaging.get_notification_listener(
                self._transport, self._targets, [Endpoint(self._queue)], pool=self._pool
            )
            try:
                listener.start(override_pool_size=1)
            except Exception as error:  # noqa: BLE001 - drivers raise what their libraries raise
                attempt += 1
                self._fault.begin(_one_line(error))
                self._stopping.wait(backoff(attempt))
                continue
            attempt = 0
            if not self._fault.end():
                LOG.info("Listening for notifications in queue %s", self._pool)
            self._queue.put(Sweep())
            self._broken.wait()
            threading.Thread(target=_retire, args=(listener,), daemon=True).start()


class _DriverLog(logging.Handler):
    """Turns what oslo.messaging logs into states; the rest goes on as DEBUG lines."""

    def __init__(self, notifications: Notifications) -> None:
        super().__init__()
        self._notifications = notifications

    def emit(self, record: logging.LogRecord) -> None:
        text = _FRAME.sub("", record.getMessage())
        LOG.debug("oslo.messaging: %s", text)
        if text.startswith("Reconnected to AMQP server"):
            self._notifications.back()
        elif record.levelno >= logging.ERROR and text.startswith(_LOST):
            self._notifications.lost(text, broken=text.startswith(_BROKEN))


def _retire(listener: Any) -> None:
    listener.stop()
    listener.wait()


def _one_line(error: Exception) -> str:
    return _FRAME.sub("", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _warn_if_not_sent(conf: cfg.ConfigOpts) -> None:
    drivers = set(conf.oslo_messaging_notifications.driver) - {"", "noop"}
    if not drivers:
        LOG.warning(
            "Glance sends no notifications: [oslo_messaging_notifications] driver is not set; "
            "set it to messagingv2 to have residue removed at once"
        )
    elif {EVENT_TYPE, EVENT_TYPE.partition(".")[0]} & set(conf.disabled_notifications):
        LOG.warning(
            "Glance sends no %s notifications: take it off [DEFAULT] disabled_notifications to "
            "have residue removed at once",
            EVENT_TYPE,
        )
