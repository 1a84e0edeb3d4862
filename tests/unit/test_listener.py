# SPDX-License-Identifier: Apache-2.0
import errno
import logging
import queue
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oslo_config import cfg

from tests.services import wait_for
from tests.unit.delays import DelaysQueue
from watcher import backoff, conf
from watcher.errors import ConfigError
from watcher.stats import Stats
from watcher.triggers import broker, listener
from watcher.triggers.connection_log import Event
from watcher.triggers.listener import Endpoint, NotificationListener, Report, lag_of
from watcher.triggers.transport import messaging
from watcher.workqueue import Image, Key, Sweep, WorkQueue

ID = "7f1d2c0a-5b1e-4f7e-9a67-3c5d1b2e4f60"


def keys(event_type: Any, payload: Any, metadata: Any = None) -> set[Key]:
    queue = WorkQueue()
    Endpoint(queue, Stats()).info({}, "image.host", event_type, payload, metadata)
    return set(queue.take_events())


@pytest.mark.parametrize(
    ("event_type", "payload", "expected"),
    [
        ("image.delete", {"id": ID}, {Image(ID)}),
        ("image.delete", {"id": ID.upper(), "status": "deleted"}, {Image(ID)}),
        ("image.create", {"id": ID}, set()),
        ("image.delete.end", {"id": ID}, set()),
        ("Image.Delete", {"id": ID}, set()),
        (None, {"id": ID}, set()),
        (["image.delete"], {"id": ID}, set()),
        ("image.delete", {"id": f"../{ID}"}, set()),
        ("image.delete", {"id": f"{ID}/x"}, set()),
        ("image.delete", {"id": f"{ID}\0"}, set()),
        ("image.delete", {"id": ID.replace("-", "")}, set()),
        ("image.delete", {"id": None}, set()),
        ("image.delete", {"id": [ID]}, set()),
        ("image.delete", {"id": {"id": ID}}, set()),
        ("image.delete", {}, set()),
        ("image.delete", {"image_id": ID}, set()),
        ("image.delete", [("id", ID)], set()),
        ("image.delete", ID, set()),
        ("image.delete", None, set()),
        ("image.delete", 7, set()),
        ("image.delete", {"id": ID, "more": "x" * 10**6}, {Image(ID)}),
    ],
)
def test_what_a_notification_puts_on_the_queue(
    event_type: Any, payload: Any, expected: set[Key]
) -> None:
    assert keys(event_type, payload) == expected


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(ID),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("id"), inner),
    max_leaves=20,
)


@settings(max_examples=300)
@given(
    st.just("image.delete") | anything,
    st.just({"id": ID}) | anything,
    anything | st.fixed_dictionaries({"timestamp": anything | st.datetimes().map(str)}),
)
def test_no_notification_raises_or_names_anything_but_an_image(
    event_type: Any, payload: Any, metadata: Any
) -> None:
    assert keys(event_type, payload, metadata) <= {Image(ID)}


@pytest.mark.parametrize(
    ("event_type", "payload", "counted"),
    [
        ("image.delete", {"id": ID}, 1),
        ("image.delete", {"id": "nonsense"}, 0),
        ("image.create", {"id": ID}, 0),
    ],
)
def test_notifications_that_name_an_image_are_counted_with_their_lag(
    event_type: str, payload: Any, counted: int
) -> None:
    stats = Stats()
    sent = str(datetime.now(timezone.utc).replace(tzinfo=None) - timedelta(seconds=2))
    endpoint = Endpoint(WorkQueue(), stats)
    endpoint.info({}, "image.host", event_type, payload, {"timestamp": sent})
    assert (stats.notifications, sum(stats.lag.counts)) == (counted, counted)
    assert 2 * counted <= stats.lag.total < 60
    endpoint.info({}, "image.host", event_type, payload, {"timestamp": "nonsense"})
    assert (stats.notifications, sum(stats.lag.counts)) == (2 * counted, counted)


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A host whose own time isn't UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()


NOW = datetime(2026, 11, 24, 23, 45, 26, 500000, timezone.utc)


@pytest.mark.parametrize(
    ("metadata", "lag"),
    [
        ({"timestamp": "2026-11-24 23:45:26.250000"}, 0.25),
        ({"timestamp": "2026-11-24 23:45:26"}, 0.5),  # what Python writes for a full second
        ({"timestamp": "2026-11-24T23:45:24.500+00:00"}, 2.0),
        ({"timestamp": "2026-11-25 00:45:26.500000+01:00"}, 0.0),
        ({"timestamp": "2026-11-24 23:45:27.500000"}, -1.0),  # the sender's clock is ahead
        ({"timestamp": "2026-11-20 23:45:26.500000"}, 4 * 86400.0),  # it waited for a watcher
        ({"timestamp": "1970-01-01 00:00:00"}, None),
        ({"timestamp": "9999-12-31 23:59:59.999999"}, None),
        ({"timestamp": "0001-01-01 00:00:00+23:59"}, None),
        ({"timestamp": "yesterday"}, None),
        ({"timestamp": "\ud800" * 26}, None),
        ({"timestamp": "1" * 10**6}, None),
        ({"timestamp": 1.7e9}, None),
        ({"timestamp": None}, None),
        ({}, None),
        (None, None),
        ("2026-11-24 23:45:26", None),
    ],
)
def test_the_lag_of_a_notification(
    monkeypatch: pytest.MonkeyPatch, far_east: None, metadata: Any, lag: float | None
) -> None:
    monkeypatch.setattr("watcher.triggers.listener.time", SimpleNamespace(time=NOW.timestamp))
    assert lag_of(metadata) == lag


def test_an_invalid_id_is_one_debug_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="watcher")
    keys("image.delete", {"id": "../../etc/passwd\n2026 ERROR forged"})
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "forged" not in caplog.text


def load(directory: Path, text: str) -> cfg.ConfigOpts:
    file = directory / "glance-api.conf"
    file.write_text(text)
    return conf.load(["--config-file", str(file)])


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("", {("glance", "notifications")}),
        ("[DEFAULT]\ncontrol_exchange = openstack\n", {("openstack", "notifications")}),
        ("[staging_watcher]\nexchange = images\n", {("images", "notifications")}),
        (
            "[oslo_messaging_notifications]\ntopics = a, b\n",
            {("glance", "a"), ("glance", "b")},
        ),
        (
            "[oslo_messaging_notifications]\ntopics = a\n[staging_watcher]\ntopics = c\n",
            {("glance", "c")},
        ),
    ],
)
def test_exchange_and_topics(tmp_path: Path, text: str, targets: set[tuple[str, str]]) -> None:
    made = NotificationListener(load(tmp_path, f"{text}[oslo]\n"), WorkQueue(), Stats())
    assert {(target.exchange, target.topic) for target in made._targets} == targets


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nosuch://glance:s3cr3t@host/", "unknown scheme 'nosuch'"),
        ("rabbit://glance:s3cr3t@host:port/", "can't be used"),
        ("rabbit//glance:s3cr3t@host", "can't be used|unknown scheme"),
    ],
)
def test_a_bad_transport_url(tmp_path: Path, url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        NotificationListener(
            load(tmp_path, f"[DEFAULT]\ntransport_url = {url}\n"), WorkQueue(), Stats()
        )
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("rabbit://u:s3cr3t@a:1,u:s3cr3t@b:2/v", "a:1, b:2"),
        ("rabbit://a,b:2/", "a, b:2"),
        ("rabbit:///", "localhost"),
        ("rabbit://u:s3c@r3t@a:1/", "a:1"),
        ("rabbit://u:12/34@a:1/v", "a:1"),
        ("rabbit://u:12,34@a:1/v", "a:1"),
    ],
)
def test_no_piece_of_a_password_is_named_as_a_broker(tmp_path: Path, url: str, named: str) -> None:
    made = NotificationListener(
        load(tmp_path, f"[DEFAULT]\ntransport_url = {url}\n"), WorkQueue(), Stats()
    )
    made._lose("refused")
    assert made.condition == f"broker {named}: refused"


class World:
    """A listener without a bus: starts end as the test says, questions are answered as it says."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.queue = DelaysQueue()
        self.starts: queue.Queue[Exception | None] = queue.Queue()
        self.made: list[SimpleNamespace] = []
        self.consumers: int | Exception = 1
        self.asked = threading.Event()
        self.pollers: list[threading.Thread] = []
        self._end = threading.Event()
        patch.setattr(messaging, "get_notification_listener", self._make)
        patch.setattr(broker, "is_rabbit", lambda transport: True)
        patch.setattr(broker, "consumers", self._consumers)
        patch.setattr(backoff, "retry_delay", lambda attempt: 0.01)
        conf = load(directory, "[DEFAULT]\ntransport_url = fake://\n")
        self.notifications = NotificationListener(conf, self.queue, Stats())

    def start(self, *outcomes: Exception | None) -> None:
        """Start; each try to listen ends so, further ones never end."""
        for outcome in outcomes:
            self.starts.put(outcome)
        self.notifications.start()

    def report(self, event: Event, cause: str = "") -> None:
        """What oslo.messaging's log says now."""
        self.notifications._try.put(Report(event, cause))

    def wait_condition(self, cause: str | None) -> None:
        """Wait until the condition is this cause, or has it in it."""

        def matches() -> bool:
            found = self.notifications.condition
            return found is None if cause is None else cause in (found or "")

        wait_for(matches, 10, f"condition {cause}, not {self.notifications.condition}")

    def close(self) -> None:
        self.notifications.stop()
        self._end.set()

    def _make(self, *arguments: object, **options: object) -> Any:
        made = SimpleNamespace(start=self._start, stop=lambda: None, wait=lambda: None, **options)
        self.made.append(made)
        return made

    def _start(self, override_pool_size: int) -> None:
        outcome = self.starts.get()
        if outcome is not None:
            raise outcome

        def poll() -> None:
            end.wait()

        end = threading.Event()
        thread = threading.Thread(target=poll, name="Thread-1 (_runner)", daemon=True)
        thread.end = end  # type: ignore[attr-defined]
        thread.start()
        self.pollers.append(thread)

    def _consumers(self, *arguments: object) -> int:
        self.asked.set()
        if isinstance(self.consumers, Exception):
            raise self.consumers
        return self.consumers


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, monkeypatch)
    yield made
    made.close()


BEGAN = "Notification listener disconnected; sweeps and file events continue: broker localhost: "
ENDED = "Notification listener connected again"


def test_listening_is_said_when_the_queue_has_a_consumer(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="watcher")
    world.consumers = 0
    assert world.notifications.condition == "not connected yet"
    world.start(None)
    assert world.asked.wait(10)
    assert world.notifications.condition == "not connected yet"
    assert not world.queue.delays and "Listening" not in caplog.text
    world.consumers = 1
    world.wait_condition(None)
    assert world.queue.delays == [(Sweep(), 0.0)]
    assert [m for m in caplog.messages if "Listening" in m] == [
        f"Listening for notifications in queue {world.notifications._pool}"
    ]


def test_no_consumer_is_a_fault_after_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "CONSUME_TIME", 0.05)
    world.consumers = 0
    world.start(None)
    pool = world.notifications._pool
    world.wait_condition(f"connected, but the queue {pool} can't be consumed: it has no consumer")
    world.consumers = 1
    world.wait_condition(None)
    assert [m for m in caplog.messages if m.startswith(BEGAN)], caplog.text


def test_a_queue_without_a_consumer_gets_another_listener(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "RENEW_INTERVAL", 0.05)
    world.consumers = 0
    world.start(None, None)
    wait_for(lambda: len(world.made) == 2, 10, "another")
    world.consumers = 1
    world.wait_condition(None)


def test_public_options_of_the_listener(world: World) -> None:
    world.start(None)
    world.wait_condition(None)
    assert world.made[0].executor == "threading"
    assert world.made[0].pool == world.notifications._pool


def test_a_lost_broker_and_its_return(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="watcher.triggers.listener")
    world.start(None)
    world.wait_condition(None)
    world.queue.delays.clear()
    world.consumers = ConnectionError("refused")
    for cause in ("[Errno 111] ECONNREFUSED", "[Errno 104] reset", "[Errno 111] ECONNREFUSED"):
        world.report(Event.LOST, cause)
    world.wait_condition("reset")
    world.report(Event.RECONNECTED)
    world.wait_condition("refused")
    assert not world.queue.delays, "a line of the log isn't proof"
    world.consumers = 1
    world.wait_condition(None)
    [(key, delay)] = world.queue.delays
    assert key == Sweep() and 0 <= delay <= 8
    assert world.queue.replaced == [Sweep()], "an earlier sweep may see too little"
    reported = [m for m in caplog.messages if "Listening" not in m and "driver" not in m]
    assert reported == [f"{BEGAN}[Errno 111] ECONNREFUSED", ENDED]


def test_a_reconnect_without_a_word_of_loss_is_followed_by_a_sweep(world: World) -> None:
    world.start(None)
    world.wait_condition(None)
    world.queue.delays.clear()
    world.report(Event.RECONNECTED)
    wait_for(lambda: world.queue.replaced == [Sweep()], 10, "a sweep")
    world.wait_condition(None)


def test_hosts_spread_their_sweeps(world: World) -> None:
    world.start(None)
    world.wait_condition(None)
    world.queue.delays.clear()
    for number in range(1, 51):
        world.report(Event.RECONNECTED)
        wait_for(lambda: len(world.queue.delays) == number, 10, "a sweep")  # noqa: B023
    delays = {delay for _, delay in world.queue.delays}
    assert len(delays) == 50 and max(delays) - min(delays) > 4


def test_the_first_connection_after_an_outage_is_a_reconnect_too(world: World) -> None:
    """Hosts that were started meanwhile wait for the same broker."""
    world.start()
    world.report(Event.LOST, "refused")
    world.wait_condition("refused")
    world.starts.put(None)
    world.wait_condition(None)
    assert world.queue.replaced == [Sweep()]


def test_a_refused_queue_is_one_lasting_fault(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """RabbitMQ 4.3: oslo.messaging connects and is refused in turn, within its start."""
    caplog.set_level(logging.INFO, logger="watcher.triggers.listener")
    world.start()
    text = "Queue.declare: (541) INTERNAL_ERROR - transient non-exclusive queues are not permitted"
    for _ in range(5):
        world.report(Event.REFUSED, text)
        world.report(Event.LOST, "the connection was lost")
        world.report(Event.RECONNECTED)
    remedy = "set [oslo_messaging_rabbit] amqp_durable_queues or rabbit_quorum_queue in Glance's"
    world.wait_condition(f"can't be consumed: {text}; {remedy} file")
    assert "was lost" not in str(world.notifications.condition)
    assert sum(m.startswith(f"{BEGAN}connected, but the queue") for m in caplog.messages) == 1
    assert ENDED not in caplog.messages and not world.queue.delays


def test_a_refusal_that_follows_another_declaration_names_the_first(world: World) -> None:
    world.start()
    exchange = "inequivalent arg 'durable' for exchange 'glance'"
    wait_for(lambda: bool(world.made), 10, "a listener")
    world.report(Event.CONFLICT, exchange)
    world.starts.put(RuntimeError("invalid property 'non-durable' for queue 'q'"))
    world.wait_condition(f"{exchange}; the exchange is older")
    assert "queue 'q'" not in str(world.notifications.condition)


@pytest.mark.parametrize(
    "error", [RuntimeError("can't start new thread"), OSError("refused"), ValueError("s3cr3t")]
)
def test_a_failed_start_is_tried_again_with_a_new_listener(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world.start(error)
    world.wait_condition(BEGAN.rpartition(": broker")[2].strip())
    assert "s3cr3t" not in caplog.text
    wait_for(lambda: len(world.made) == 2, 10, "another listener")
    world.starts.put(None)
    world.wait_condition(None)


@pytest.mark.parametrize(
    ("cause", "lines"), [("the thread that polls for messages fails: E", 1), ("", 0)]
)
def test_a_broken_listener_is_replaced(
    world: World, cause: str, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    world.start(None, None)
    world.wait_condition(None)
    world.queue.delays.clear()
    world.report(Event.BROKEN, cause)
    wait_for(lambda: len(world.made) == 2, 10, "another listener")
    world.wait_condition(None)
    assert world.queue.replaced == [Sweep()]
    assert sum(m.startswith(BEGAN) for m in caplog.messages) == lines


def test_a_poller_that_ended_is_a_fault_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "LOOK_INTERVAL", 0.01)
    world.start(None)
    world.wait_condition(None)
    world.pollers[0].end.set()  # type: ignore[attr-defined]
    world.wait_condition("the thread that polls for messages ended")
    assert f"{BEGAN}the thread that polls for messages ended" in caplog.messages
    world.starts.put(None)
    world.wait_condition(None)


def test_no_free_thread_is_a_fault_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as refusing:
        refusing.setattr(threading.Thread, "start", refuse)
        world.start(None)
        world.notifications.supervise()
    assert caplog.messages.count(f"{BEGAN}can't start new thread") == 1
    assert "can't start new thread" in str(world.notifications.condition)
    world.notifications.supervise()
    world.wait_condition(None)


def test_the_supervisor_survives_any_exception(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object, **options: object) -> Any:
        raise RuntimeError("no listener")

    with monkeypatch.context() as failing:
        failing.setattr(messaging, "get_notification_listener", fail)
        world.start(None)
        world.wait_condition("no listener")
    world.wait_condition(None)
    assert sum(m.startswith(BEGAN) for m in caplog.messages) == 1


def test_a_supervisor_that_ended_is_a_fault_and_started_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end() -> None:
        pass

    with monkeypatch.context() as ending:
        ending.setattr(world.notifications, "_run", end)
        world.start(None)
        thread = world.notifications._thread
        assert thread is not None
        thread.join()
    assert world.notifications.failure == "its thread has ended"
    assert world.notifications.condition == "its thread has ended"
    world.notifications.supervise()
    world.wait_condition(None)
    assert world.notifications.failure is None
    assert world.queue.replaced == [Sweep()]


def test_a_supervisor_that_hangs_is_no_longer_healthy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a question to a broker that never ends; but not while it connects."""
    assert world.notifications.failure is None, "it isn't started"
    world.start(None)
    world.wait_condition(None)
    monkeypatch.setattr(listener, "STALL_TIMEOUT", -1.0)
    assert str(world.notifications.failure).startswith("no progress for ")
    assert str(world.notifications.condition).startswith("no progress for ")
    world.notifications._try.consumption = None
    assert world.notifications.failure is None


def test_a_question_that_fails_is_a_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the log of oslo.messaging says that the broker is away."""
    monkeypatch.setattr(listener, "CONSUMER_INTERVAL", 0.01)
    monkeypatch.setattr(listener, "LOOK_INTERVAL", 0.01)
    world.start(None)
    world.wait_condition(None)
    world.queue.delays.clear()
    world.consumers = ConnectionError("host:5672: [Errno 111] refused")
    world.wait_condition("host:5672: [Errno 111] refused")
    world.consumers = 1
    world.wait_condition(None)
    assert world.queue.replaced == [Sweep()]


def test_each_process_tries_to_reconnect_at_intervals_of_its_own(tmp_path: Path) -> None:
    rabbit = "[DEFAULT]\ntransport_url = rabbit://127.0.0.1/\n"

    def delay_of(text: str) -> float:
        conf = load(tmp_path, text)
        NotificationListener(conf, WorkQueue(), Stats())
        delay: float = conf.oslo_messaging_rabbit.kombu_reconnect_delay
        return delay

    delays = {delay_of(rabbit) for _ in range(20)}
    assert len(delays) == 20
    assert all(1 <= delay <= 4 for delay in delays)
    reported = rabbit + "[oslo_messaging_rabbit]\nkombu_reconnect_delay = 0.25\n"
    assert delay_of(reported) == 0.25


def test_the_next_node_of_a_cluster_is_chosen_randomly_by_default(tmp_path: Path) -> None:
    rabbit = "[DEFAULT]\ntransport_url = rabbit://a/\n[oslo_messaging_rabbit]\n"
    for text, strategy in (
        ("", "shuffle"),
        ("kombu_failover_strategy = round-robin", "round-robin"),
    ):
        conf = load(tmp_path, rabbit + text)
        NotificationListener(conf, WorkQueue(), Stats())
        assert conf.oslo_messaging_rabbit.kombu_failover_strategy == strategy


def test_a_notification_on_the_bus_reaches_the_queue(tmp_path: Path) -> None:
    configuration = load(
        tmp_path,
        "[DEFAULT]\ntransport_url = fake://\n[oslo_messaging_notifications]\n"
        "driver = messagingv2\n[staging_watcher]\nexchange = here\n",
    )
    queue, stats = WorkQueue(), Stats()
    notifications = NotificationListener(configuration, queue, stats)
    notifications.start()
    assert queue.take().keys() == {Sweep()}, "a sweep once it is connected"
    configuration.set_override("control_exchange", "here")
    transport = messaging.get_notification_transport(configuration)
    notifier = messaging.Notifier(transport, "image.host", topics=["notifications"])
    notifier.info({}, "image.create", {"id": ID})
    notifier.error({}, "image.delete", {"id": ID})
    notifier.info({}, "image.delete", {"id": ID})
    assert queue.take().keys() == {Image(ID)}
    notifications.stop()
    assert notifications._thread is not None
    notifications._thread.join(10)
    assert not notifications._thread.is_alive()
    wait_for(lambda: sum(stats.lag.counts) == 1, 10, "the lag, by oslo.messaging's own timestamp")


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("", "driver is not set"),
        ("[oslo_messaging_notifications]\ndriver =\n", "driver is not set"),
        ("[oslo_messaging_notifications]\ndriver = noop\n", "driver = noop sends none"),
        ("[oslo_messaging_notifications]\ndriver = log\n", "driver = log sends none"),
        ("[oslo_messaging_notifications]\ndriver = test\n", "driver = test sends none"),
        ("[oslo_messaging_notifications]\ndriver = messagngv2\n", "messagngv2 is unknown"),
        ("[oslo_messaging_notifications]\ndriver = log\ndriver = messaging\n", None),
        ("[oslo_messaging_notifications]\ndriver = routing\n", None),
        (
            "[DEFAULT]\ndisabled_notifications = image.delete\n"
            "[oslo_messaging_notifications]\ndriver = messagingv2\n",
            "disabled_notifications",
        ),
        (
            "[DEFAULT]\ndisabled_notifications = task,image\n"
            "[oslo_messaging_notifications]\ndriver = messagingv2\n",
            "disabled_notifications",
        ),
        (
            "[DEFAULT]\ndisabled_notifications = image.create, task\n"
            "[oslo_messaging_notifications]\ndriver = noop\ndriver = messagingv2\n",
            None,
        ),
    ],
)
def test_a_warning_when_glance_sends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, warning: str | None
) -> None:
    configuration = load(tmp_path, f"{text}[staging_watcher]\n")
    notifications = NotificationListener(configuration, WorkQueue(), Stats())
    notifications.supervise = lambda: None  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, logger="watcher"):
        notifications.start()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == (0 if warning is None else 1)
    assert warning is None or warning in said[0]


# Waits between listeners


def attempts_of(world: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Attempts for which it waits, from now on."""
    found: list[int] = []
    others = set(threading.enumerate())  # of tests before, which end by themselves

    def noting(attempt: int) -> float:
        if threading.current_thread() not in others:
            found.append(attempt)
        return 0.001

    monkeypatch.setattr(backoff, "retry_delay", noting)
    return found


def test_listeners_that_break_soon_are_replaced_after_longer_and_longer_waits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = attempts_of(world, monkeypatch)
    world.start(None, None, None)
    for number in range(1, 4):
        wait_for(lambda number=number: len(world.pollers) == number, 10, "a poller")  # type: ignore[misc]
        world.wait_condition(None)
        world.report(Event.BROKEN, "broken")
        wait_for(lambda number=number: len(world.made) == number + 1, 10, "another")  # type: ignore[misc]
    assert attempts == [1, 2, 3]


def test_one_that_listened_for_long_is_replaced_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = attempts_of(world, monkeypatch)
    world.start(RuntimeError("first"), None, None)
    world.wait_condition(None)
    assert attempts == [1]
    monkeypatch.setattr(listener, "RENEW_INTERVAL", -1.0)
    began = world.notifications._try
    world.report(Event.BROKEN, "broken")
    wait_for(lambda: world.notifications._try is not began, 10, "another")
    assert attempts == [1]


def test_one_that_never_listened_is_not_replaced_at_once_however_long_it_took(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = attempts_of(world, monkeypatch)
    monkeypatch.setattr(listener, "RENEW_INTERVAL", -1.0)
    world.start(RuntimeError("first"), RuntimeError("second"), None)
    world.wait_condition(None)
    assert attempts == [1, 2]


def test_what_a_replaced_listener_logs_is_not_of_the_next_one(world: World) -> None:
    world.start(None, None)
    world.wait_condition(None)
    [old] = world.pollers
    world.report(Event.BROKEN, "broken")
    wait_for(lambda: len(world.pollers) == 2, 10, "another")
    assert old in world.notifications._log._ignored
    assert world.pollers[1] not in world.notifications._log._ignored


def test_after_an_answer_a_failed_question_is_repeated_soon_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "retry_delay", lambda attempt: 3600.0)
    asks = listener._Consumption(set())
    for _ in range(20):
        asks.retry()
    assert asks.wait() == listener.LOOK_INTERVAL and not asks.is_due
    asks.succeed()
    assert asks.lasted == 0.0
    asks.retry()
    assert asks.wait() <= 0.1 and asks.lasted < 60


def test_a_file_that_cannot_be_read_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ssl raises doesn't name it."""
    named = "[oslo_messaging_rabbit] ssl_ca_file = /ca: No such file or directory"
    monkeypatch.setattr(broker, "unusable", lambda transport: named)
    world.start(FileNotFoundError(errno.ENOENT, "No such file or directory"))
    world.wait_condition(f"broker localhost: {named}")


def test_another_listener_without_a_fault_is_not_worth_a_line(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a duplicate message."""
    caplog.set_level(logging.INFO, logger="watcher")
    world.start(None, None)
    world.wait_condition(None)
    world.report(Event.BROKEN)
    wait_for(lambda: len(world.pollers) == 2, 10, "another")
    world.wait_condition(None)
    wait_for(lambda: world.queue.replaced == [Sweep()], 10, "a sweep for what was missed")
    assert len([line for line in caplog.messages if line.startswith("Listening")]) == 1
