# SPDX-License-Identifier: Apache-2.0
"""Notifications: image.delete on the message bus → an image id on the queue.

One line when the broker is lost, one when it is back, and then a sweep, since what was sent
meanwhile may be lost.
"""

import contextlib
import gc
import re
import threading
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from oslo_config import cfg
from oslo_log import log

from watcher import backoff as jitter
from watcher.backoff import backoff
from watcher.conditions import Condition
from watcher.conf import DISTRIBUTION, GROUP
from watcher.errors import ConfigError
from watcher.staging.names import canonical_id
from watcher.stats import Stats
from watcher.triggers.connection_log import DriverLog, cause_of
from watcher.triggers.transport import InPlaceExecutor, messaging
from watcher.workqueue import Image, Sweep, WorkQueue

LOG = log.getLogger(__name__)

EVENT_TYPE = "image.delete"

RENEW_INTERVAL = 60.0  # seconds; a listener that broke earlier is replaced after a wait only

# A broker that was away is back for all hosts at the same moment. Seconds over which they spread
# their sweeps after it, and their tries to connect.
SWEEP_SPREAD = 8.0
RECONNECT_SPREAD = 3.0

BIND_TIME = 2.0  # seconds in which oslo.messaging, once connected, has its queue bound again

MAX_LAG = 7 * 86400.0  # seconds; what claims to be farther from now has no true timestamp

_REFUSAL = re.compile(r"\((4\d\d|530)\) ")


class Endpoint:
    """What oslo.messaging calls for each notification of priority INFO.

    :param delay: asked for each image: seconds until it is looked at
    """

    def __init__(
        self, queue: WorkQueue, stats: Stats, delay: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._queue, self._stats, self._delay = queue, stats, delay

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
            self._queue.put(Image(key), delay=self._delay())
            self._stats.notifications += 1
            if (lag := lag_of(metadata)) is not None:
                self._stats.lag.add(lag)


def lag_of(metadata: object) -> float | None:
    """Seconds since a notification was sent, by the sender's clock; None if that can't be told."""
    sent = metadata.get("timestamp") if isinstance(metadata, dict) else None
    if not isinstance(sent, str):
        return None
    try:
        moment = datetime.fromisoformat(sent)
    except ValueError:
        return None
    if moment.tzinfo is None:  # oslo.messaging sends UTC, without saying so
        moment = moment.replace(tzinfo=UTC)
    lag = time.time() - moment.timestamp()
    return lag if abs(lag) <= MAX_LAG else None


class NotificationListener:
    """Listens in a thread of its own, and comes back after every fault of the broker.

    :param delay: as for `Endpoint`
    :raises ConfigError: the transport URL can't be used
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        queue: WorkQueue,
        stats: Stats,
        delay: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._conf, self._queue = conf, queue
        # One transport for the whole life: its driver reads the options, it doesn't connect.
        self._transport = new_transport(conf)
        _spread_reconnects(conf)
        options = conf[GROUP]
        topics = options.topics or conf.oslo_messaging_notifications.topics
        self._targets = [
            messaging.Target(exchange=options.exchange or conf.control_exchange, topic=topic)
            for topic in topics
        ]
        self._endpoint = Endpoint(queue, stats, delay)
        self._pool = options.pool
        self._brokers = _brokers(conf)
        self._stopping = threading.Event()
        self._broken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifications", daemon=True)
        self._lock = threading.Lock()
        self._told: set[str] = set()
        self._listened = False
        self._reconnects = 0
        self._driver_log = DriverLog(lost=self.lost, back=self.back, broken=self.renew)
        self._retired: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._fault = Condition(
            LOG,
            "Cannot receive notifications, sweeps and file events go on: %s",
            "Notifications can be received again",
        )
        if is_kafka(conf):
            from watcher.triggers import kafka  # noqa: PLC0415 - its library is an extra

            kafka.adopt(conf, self._transport._driver, lost=self.lost, back=self.back)

    @property
    def condition(self) -> str | None:
        """Why no notifications come in; None while they do."""
        return self._fault.cause or (None if self._listened else "not connected yet")

    def start(self) -> None:
        """Connect, and say when Glance sends nothing."""
        if (reason := why_not_sent(self._conf)) is not None:
            LOG.warning("%s; %s", *reason)
        self.read_driver_log()
        self._thread.start()

    def read_driver_log(self) -> None:
        """Hear of the connection from oslo.messaging's log; again after the log was set up anew,
        which takes every handler away."""
        self._driver_log.attach()

    def stop(self) -> None:
        """Listen no more. Returns at once, for a listener in search of a broker can't be
        stopped; all threads are daemons."""
        self._stopping.set()
        self._broken.set()

    def lost(self, cause: str) -> None:
        """The broker can't be reached, or refuses what is asked of it."""
        # What makes it unreachable changes from try to try; it is one state all the same.
        state = cause if _REFUSAL.search(cause) else "unreachable"
        with self._lock:
            if not self._is_retired() and state not in self._told:
                self._told.add(state)
                self._fault.begin(f"broker {self._brokers}: {cause}")

    def renew(self) -> None:
        """The listener whose thread calls doesn't get over it alone: another takes its place."""
        with self._lock:
            if self._is_retired():
                return
            if threading.current_thread() is not self._thread:  # which starts the next one
                self._retired.add(threading.current_thread())
            self._broken.set()

    def back(self) -> None:
        """Notifications come in; those sent meanwhile may be lost."""
        with self._lock:
            if self._is_retired():
                return
            self._told.clear()
            again = self._fault.end() or self._listened
            if not again:
                LOG.info("Listening for notifications in queue %s", self._pool)
            self._listened = True
            self._reconnects += again
        # What is sent before the queue is bound is lost: the sweep must come later.
        delay = BIND_TIME + jitter.within(SWEEP_SPREAD) if again else 0.0
        self._queue.put(Sweep(), delay=delay, replace=again)

    def _is_retired(self) -> bool:
        return threading.current_thread() in self._retired

    def _run(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            # A listener whose start failed can't be started again: a new one for each attempt.
            listener = messaging.get_notification_listener(
                self._transport, self._targets, [self._endpoint], pool=self._pool
            )
            listener._executor_cls = InPlaceExecutor
            if (cause := _start(listener)) is not None:
                # Let go of its connection, if it had one: it is held by a cycle of references.
                listener = None
                gc.collect()
                self.lost(cause)
                attempt += 1
                LOG.debug("Attempt %i to listen failed: %s", attempt, cause)
            else:
                self.back()
                since = time.monotonic()
                self._broken.wait()
                self._broken.clear()
                threading.Thread(target=_retire, args=(listener,), daemon=True).start()
                attempt = 0 if time.monotonic() - since > RENEW_INTERVAL else attempt + 1
            self._stopping.wait(backoff(attempt) if attempt else 0)


def new_transport(conf: cfg.ConfigOpts) -> Any:
    """The transport of notifications, as Glance has it; not connected yet.

    :raises ConfigError: the transport URL can't be used
    """
    messaging.set_transport_defaults(control_exchange="glance")
    try:
        transport = messaging.get_notification_transport(conf)
    except messaging.DriverLoadFailure as error:
        raise ConfigError(
            f"transport_url has the unknown scheme {error.driver!r}; expected rabbit:// or kafka://"
        ) from None
    except ImportError as error:
        raise ConfigError(
            f"transport_url can't be used: {error.name} is not installed; for kafka:// install "
            f"{DISTRIBUTION}[kafka]"
        ) from None
    except (messaging.MessagingException, cfg.Error, ValueError, RuntimeError) as error:
        # The text may hold the URL with its password.
        raise ConfigError(
            f"transport_url can't be used ({type(error).__name__}); expected "
            "rabbit://user:password@host:port/vhost or kafka://host:port/"
        ) from None
    hosts = transport._driver._url.hosts
    if is_kafka(conf) and not (hosts and all(host.port for host in hosts)):
        raise ConfigError(
            "transport_url names no port of a Kafka broker; expected kafka://host:port/"
        )
    return transport


def is_kafka(conf: cfg.ConfigOpts) -> bool:
    """Whether the bus is Kafka, once there is a transport."""
    return "oslo_messaging_kafka" in conf


def _spread_reconnects(conf: cfg.ConfigOpts) -> None:
    """Wait longer than oslo.messaging does before a broker is tried again, each process for a time
    of its own, unless the operator set that."""
    group, name = "oslo_messaging_rabbit", "kombu_reconnect_delay"
    if group in conf:  # else it is another driver's broker
        delay = conf[group][name] + jitter.within(RECONNECT_SPREAD)
        conf.set_default(name, delay, group=group)
        # Round-robin, it steps on three times for each try that fails: of three nodes always to
        # the one that is dead, until its time limit, doubled each time, is longer than the delay.
        conf.set_default("kombu_failover_strategy", "shuffle", group=group)


def _start(listener: Any) -> str | None:
    """Start a listener; the cause when it can't be. Blocks while the broker is unreachable."""
    try:
        listener.start(override_pool_size=1)
    except Exception as error:  # noqa: BLE001 - drivers raise what their libraries raise
        return why_not_connected(error)
    return None


def why_not_connected(error: Exception) -> str:
    """The cause in what oslo.messaging raised, in one line without secrets."""
    if isinstance(error, ValueError):  # by the parser of URLs; it quotes parts of a password
        return "transport_url can't be used; no user or password in it may have a /, escaped or not"
    return cause_of(str(error)) or type(error).__name__


def _retire(listener: Any) -> None:
    with contextlib.suppress(Exception):  # its connection is broken
        listener.stop()
        listener.wait()


def _brokers(conf: cfg.ConfigOpts) -> str:
    url = messaging.TransportURL.parse(conf, conf.oslo_messaging_notifications.transport_url)
    names = (f"{host.hostname}:{host.port}" if host.port else host.hostname for host in url.hosts)
    return ", ".join(names) or "localhost"


def why_not_sent(conf: cfg.ConfigOpts) -> tuple[str, str] | None:
    """Why Glance sends nothing that helps, and the remedy; None when it does."""
    remedy = "to have residue removed at once"
    if not set(conf.oslo_messaging_notifications.driver) - {"", "noop"}:
        return (
            "Glance sends no notifications: [oslo_messaging_notifications] driver is not set",
            f"set it to messagingv2 {remedy}",
        )
    if {EVENT_TYPE, EVENT_TYPE.partition(".")[0]} & set(conf.disabled_notifications):
        return (
            f"Glance sends no {EVENT_TYPE} notifications: [DEFAULT] disabled_notifications is set",
            f"take it off there {remedy}",
        )
    return None
