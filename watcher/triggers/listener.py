# SPDX-License-Identifier: Apache-2.0
"""Notifications: image.delete on the message bus → an image id on the queue.

One line when notifications can't be received, one when they can again, and then a sweep, since
what was sent meanwhile may be lost. "Listening" is what the broker says of the queue: that it has
a consumer.
"""

import contextlib
import gc
import math
import queue
import threading
import time
from datetime import datetime, timezone
from typing import Any, NamedTuple

from oslo_config import cfg
from oslo_log import log

from watcher import backoff
from watcher.conditions import Condition
from watcher.conf import GROUP
from watcher.staging.names import canonical_id
from watcher.stats import Stats
from watcher.threads import ENDED, RENEW_INTERVAL, STALL_TIMEOUT
from watcher.triggers import broker
from watcher.triggers.connection_log import ConnectionLog, Event, cause_of, is_poller
from watcher.triggers.transport import messaging, new_transport, parse_url
from watcher.workqueue import Image, Sweep, WorkQueue

LOG = log.getLogger(__name__)

EVENT_TYPE = "image.delete"


# A broker that was away is back for all hosts at the same moment. Seconds over which they spread
# their sweeps after it, and their tries to connect.
SWEEP_SPREAD = 8.0
RECONNECT_SPREAD = 3.0

CONSUMER_INTERVAL = 300.0  # seconds between questions whether the queue has a consumer still
LOOK_INTERVAL = 5.0  # seconds between looks at the threads of oslo.messaging
REFUSAL_TIME = 10.0  # seconds; more than oslo.messaging takes for a try that is refused
CONSUME_TIME = 5.0  # seconds in which oslo.messaging, once connected, consumes its queue

MAX_LAG = 7 * 86400.0  # seconds; what claims to be farther from now has no true timestamp

_RECREATE = (
    "the exchange is older than the options in Glance's file: delete it while all who use it are "
    "stopped"
)

# drivers of notifications that send to the bus
_SENDING = {"messaging", "messagingv2", "routing"}
_SILENT = {"noop", "log", "test"}

_DURABLE_QUEUES = (
    "set [oslo_messaging_rabbit] amqp_durable_queues or rabbit_quorum_queue in Glance's file"
)


class Endpoint:
    """What oslo.messaging calls for each notification of priority INFO."""

    def __init__(self, queue: WorkQueue, stats: Stats) -> None:
        self._queue, self._stats = queue, stats

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
            self._stats.notifications += 1
            if (lag := lag_of(metadata)) is not None:
                self._stats.lag.add(lag)


def lag_of(metadata: object) -> float | None:
    """Seconds since a notification was sent, by the sender's clock; None if that isn't known."""
    sent = metadata.get("timestamp") if isinstance(metadata, dict) else None
    if not isinstance(sent, str):
        return None
    try:
        moment = datetime.fromisoformat(sent)
    except ValueError:
        return None
    if moment.tzinfo is None:  # oslo.messaging sends UTC, without saying so
        moment = moment.replace(tzinfo=timezone.utc)
    lag = time.time() - moment.timestamp()
    return lag if abs(lag) <= MAX_LAG else None


class Report(NamedTuple):
    """What the thread that supervises the listener learns from others."""

    event: Event | str  # of the connection, or one of those below
    cause: str = ""


_STARTED = "started"
_FAILED = "failed"  # to start
_STOP = "stop"


class NotificationListener:
    """Listens in threads of oslo.messaging, one of its own supervises, and starts it again after
    every fault.

    :raises ConfigError: the transport URL can't be used
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        queue: WorkQueue,
        stats: Stats,
    ) -> None:
        self._conf, self._queue = conf, queue
        # One transport for the whole life: it reads the options, it doesn't connect.
        self._transport = new_transport(conf)
        self._url = parse_url(conf)
        _spread_reconnects(conf)
        options = conf[GROUP]
        topics = options.topics or conf.oslo_messaging_notifications.topics
        self._targets = [
            messaging.Target(exchange=options.exchange or conf.control_exchange, topic=topic)
            for topic in topics
        ]
        self._endpoint = Endpoint(queue, stats)
        self._pool = options.pool
        self._brokers = _brokers(self._url)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._started = False
        self._looked = 0.0  # when at its threads
        self._try = _Try()
        self._log = ConnectionLog(lambda event, cause: self._try.put(Report(event, cause)))
        self._attempt = 0
        self._listening = self._listened = False
        self._worked = False  # the current listener, at some time
        self._missed = True  # notifications may have been sent that nobody heard
        self._fault = Condition(
            LOG,
            "Notification listener disconnected; sweeps and file events continue: %s",
            "Notification listener connected again",
        )

    @property
    def condition(self) -> str | None:
        """Why no notifications are received; None while they are."""
        if self._fault.cause is None and self._listening:
            return self.failure
        return self._fault.cause or self.failure or "not connected yet"

    @property
    def failure(self) -> str | None:
        """What is wrong with the thread that supervises it; None while it runs or isn't to run."""
        thread = self._thread
        if not self._started or self._stopping.is_set():
            return None
        if thread is None or not thread.is_alive():
            return ENDED
        silent = time.monotonic() - self._looked
        # While it connects it waits for as long as the broker is away.
        if self._try.consumption is None or silent < STALL_TIMEOUT:
            return None
        return f"no progress for {silent:.0f} s"

    def start(self) -> None:
        """Connect, and log when Glance sends nothing."""
        if (reason := why_not_sent(self._conf)) is not None:
            LOG.warning("%s; %s", *reason)
        self.read_driver_log()
        self._started = True
        self.supervise()

    def supervise(self) -> None:
        """Start the thread again if it ended. Any thread may call it, again and again."""
        with self._starting:
            alive = self._thread is not None and self._thread.is_alive()
            if alive or not self._started or self._stopping.is_set():
                return
            if self._thread is not None:
                self._lose(ENDED)
            thread = threading.Thread(target=self._run, name="notifications", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._lose(str(error))
            else:
                self._thread = thread

    def read_driver_log(self) -> None:
        """Read oslo.messaging's log, which reports on its connection; again after the log was
        set up again."""
        self._log.attach()

    def stop(self) -> None:
        """Listen no more. Returns at once, for a listener in search of a broker can't be
        stopped; all threads are daemons."""
        self._stopping.set()
        self._try.put(Report(_STOP))

    def _run(self) -> None:
        while not self._stopping.is_set():
            began, self._worked = time.monotonic(), False
            try:
                self._listen()
            except Exception as error:  # noqa: BLE001 - the next try may succeed
                self._lose(cause_of(str(error)) or type(error).__name__)
            long = time.monotonic() - began > RENEW_INTERVAL and self._worked
            self._listening = False
            self._attempt = 0 if long else self._attempt + 1
            self._stopping.wait(backoff.retry_delay(self._attempt) if self._attempt else 0)

    def _listen(self) -> None:
        """Start a listener and supervise it until another must take its place."""
        self._looked = time.monotonic()
        self._try = current = _Try()
        # A listener whose start failed can't be started again: a new one for each attempt.
        current.start(
            messaging.get_notification_listener(
                self._transport,
                self._targets,
                [self._endpoint],
                executor="threading",
                pool=self._pool,
            )
        )
        try:
            while not self._stopping.is_set():
                report = current.get()
                self._looked = time.monotonic()
                if report is not None and not self._handle(report, current):
                    return
                if current.consumption is not None and not self._look(current.consumption):
                    return
        finally:
            self._missed = True
            if current.consumption is not None:
                self._log.ignore(*current.consumption.threads)
            current.retire()

    def _handle(self, report: Report, current: "_Try") -> bool:
        """Take note of a report; False when this listener is to be replaced."""
        event, cause = report
        if event == _FAILED:
            LOG.debug("Attempt %i to listen failed: %s", self._attempt + 1, cause)
            self._lose(current.conflict or cause)
            return False
        if event is Event.BROKEN:
            if cause:
                self._lose(cause)
            return False
        if event == _STARTED:
            current.begin_consumption()
        elif event is Event.RECONNECTED:
            self._listening, self._missed = False, True
            if current.consumption is not None:
                current.consumption.begin()
        elif event is Event.CONFLICT:
            current.conflict = f"{cause}; {_RECREATE}"
        elif event is Event.REFUSED:
            current.refused = time.monotonic()
            self._lose(self._not_consumed(f"{cause}; {_DURABLE_QUEUES}"))
        elif event is Event.LOST and time.monotonic() - current.refused > REFUSAL_TIME:
            self._lose(cause)  # else the refusal closed the connection
        return True

    def _look(self, consumption: "_Consumption") -> bool:
        """Look whether messages are consumed; False when this listener is to be replaced."""
        self._log.attach()
        if not consumption.is_polled:
            self._lose("the thread that polls for messages ended")
            return False
        if not consumption.is_due:
            return True
        try:
            count = self._consumers()
        except Exception as error:  # noqa: BLE001 - drivers raise what their libraries raise
            consumption.retry()
            self._lose(cause_of(str(error)) or type(error).__name__)
            return True
        if count:
            consumption.succeed()
            self._receive()
            return True
        consumption.retry()
        if consumption.lasted > CONSUME_TIME:
            self._lose(self._not_consumed("it has no consumer"))
        return consumption.lasted < RENEW_INTERVAL

    def _consumers(self) -> int:
        """Number of consumers of our queue; another bus than RabbitMQ can't be asked."""
        if not broker.is_rabbit(self._transport):
            return 1
        return broker.consumers(self._transport, self._url, self._pool)

    def _not_consumed(self, cause: str) -> str:
        return f"connected, but the queue {self._pool} can't be consumed: {cause}"

    def _lose(self, cause: str) -> None:
        self._listening, self._missed = False, True
        named = broker.unusable(self._transport) or cause
        self._fault.begin(f"broker {self._brokers}: {named}")

    def _receive(self) -> None:
        again = self._fault.end()
        if not (again or self._listened):
            LOG.info("Listening for notifications in queue %s", self._pool)
        again = again or self._listened
        self._listening = self._listened = self._worked = True
        if self._missed:
            self._missed = False
            if again:
                self._queue.put(Sweep(), delay=backoff.within(SWEEP_SPREAD), replace=True)
            else:
                self._queue.put(Sweep())


class _Try:
    """One listener of oslo.messaging, and what other threads report of it."""

    def __init__(self) -> None:
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._listener: Any = None
        self._starter = threading.Thread(target=self._start, daemon=True)
        self._before: set[threading.Thread] = set()
        #: of its queue; None until it is started
        self.consumption: _Consumption | None = None
        #: what the broker had against the first of two declarations, of which it reports the last
        self.conflict: str | None = None
        self.refused = -math.inf  # when

    def start(self, listener: Any) -> None:
        """Start a listener in a thread of its own: it blocks while no broker can be reached."""
        self._listener, self._before = listener, set(threading.enumerate())
        self._starter.start()

    def put(self, report: Report) -> None:
        """Report; any thread may."""
        self._reports.put(report)

    def get(self) -> Report | None:
        """Wait for a report; None when it is time to look at the consumption."""
        timeout = None if self.consumption is None else self.consumption.wait()
        try:
            return self._reports.get(timeout=timeout)
        except queue.Empty:
            return None

    def begin_consumption(self) -> None:
        """Take note that it was started."""
        pollers = {thread for thread in threading.enumerate() if is_poller(thread)}
        self.consumption = _Consumption(pollers - self._before)

    def retire(self) -> None:
        """End it, in the background: that may take as long as the broker is away."""
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=self._retire, daemon=True).start()

    def _start(self) -> None:
        try:
            self._listener.start(override_pool_size=1)
        except Exception as error:  # noqa: BLE001 - drivers raise what their libraries raise
            self._listener = None
            self.put(Report(_FAILED, broker.why_not_connected(error)))
        else:
            self.put(Report(_STARTED))

    def _retire(self) -> None:
        if self._starter.ident is not None:
            self._starter.join()
        if self._listener is None:
            gc.collect()  # its connection, if it had one, is held by a reference cycle
            return
        with contextlib.suppress(Exception):  # its connection is broken
            self._listener.stop()
            self._listener.wait()


class _Consumption:
    """When to ask whether the queue is consumed.

    :param threads: that poll for messages
    """

    def __init__(self, threads: set[threading.Thread]) -> None:
        self.threads = threads
        self.begin()

    def begin(self) -> None:
        """Ask from now on: the connection was made."""
        self._since: float | None = time.monotonic()
        self._due, self._attempt = self._since, 0

    def succeed(self) -> None:
        """It is consumed; ask again after a while."""
        self._since, self._attempt = None, 0
        self._due = time.monotonic() + backoff.around(CONSUMER_INTERVAL, 0.1)

    def retry(self) -> None:
        """It isn't, or nobody answered: ask again soon."""
        if self._since is None:
            self._since = time.monotonic()
        self._attempt += 1
        self._due = time.monotonic() + (
            0.1 if self._attempt < 10 else backoff.retry_delay(self._attempt - 9)
        )

    def wait(self) -> float:
        """Seconds until the next look."""
        return min(max(0.0, self._due - time.monotonic()), LOOK_INTERVAL)

    @property
    def is_due(self) -> bool:
        """Whether to ask now."""
        return time.monotonic() >= self._due

    @property
    def lasted(self) -> float:
        """Seconds for which it wasn't consumed."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    @property
    def is_polled(self) -> bool:
        """Whether all its threads run."""
        return all(thread.is_alive() for thread in self.threads)


def _spread_reconnects(conf: cfg.ConfigOpts) -> None:
    """Wait longer than oslo.messaging does before a broker is tried again, each process for a time
    of its own, unless the operator set that."""
    group, name = broker.RABBIT_GROUP, "kombu_reconnect_delay"
    if group in conf:  # else it is another driver's broker
        delay = conf[group][name] + backoff.within(RECONNECT_SPREAD)
        conf.set_default(name, delay, group=group)
        # Round-robin, it steps on three times for each try that fails: of three nodes always to
        # the one that is dead, until its time limit, doubled each time, is longer than the delay.
        conf.set_default("kombu_failover_strategy", "shuffle", group=group)


def _brokers(url: Any) -> str:
    # A / or , in a password makes its pieces look like hosts.
    if "@" in (url.virtual_host or ""):
        return str(url.virtual_host.rpartition("@")[2].partition("/")[0])
    hosts = [host for host in url.hosts if host.username is not None] or url.hosts
    names = (f"{host.hostname}:{host.port}" if host.port else host.hostname for host in hosts)
    return ", ".join(names) or "localhost"


def why_not_sent(conf: cfg.ConfigOpts) -> tuple[str, str] | None:
    """Why Glance sends nothing that helps, and the remedy; None when it does."""
    remedy = "to have residue removed at once"
    drivers = [driver for driver in conf.oslo_messaging_notifications.driver if driver]
    if not _SENDING & set(drivers):
        unknown = [driver for driver in drivers if driver not in _SILENT]
        found = "is not set"
        if drivers:
            found = f"= {', '.join(drivers)}" + (" is unknown" if unknown else " sends none")
        return (
            f"Glance sends no notifications: [oslo_messaging_notifications] driver {found}",
            f"set it to messagingv2 {remedy}",
        )
    if {EVENT_TYPE, EVENT_TYPE.partition(".")[0]} & set(conf.disabled_notifications):
        return (
            f"Glance sends no {EVENT_TYPE} notifications: [DEFAULT] disabled_notifications is set",
            f"take it off there {remedy}",
        )
    return None
