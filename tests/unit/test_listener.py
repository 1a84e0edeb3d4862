# SPDX-License-Identifier: Apache-2.0
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oslo_config import cfg

from tests.services import wait_for
from tests.unit.delays import DelaysQueue
from watcher import conf
from watcher.errors import ConfigError
from watcher.stats import Stats
from watcher.triggers.connection_log import DriverLog
from watcher.triggers.listener import BIND_TIME, Endpoint, NotificationListener, lag_of
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
    sent = str(datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=2))
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


NOW = datetime(2026, 11, 24, 23, 45, 26, 500000, UTC)


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


def test_a_notified_image_waits_as_long_as_is_asked_for() -> None:
    """Told again it waits no longer, and the first time counts."""
    now = [100.0]
    queue = WorkQueue(lambda: now[0])
    delays = iter([0.5, 0.3])
    endpoint = Endpoint(queue, Stats(), lambda: next(delays))
    endpoint.info({}, "image.host", "image.delete", {"id": ID}, None)
    now[0] += 0.4
    assert not queue.take_events()
    endpoint.info({}, "image.host", "image.delete", {"id": ID}, None)
    now[0] += 0.1
    taken = queue.take_events()
    assert list(taken) == [Image(ID)]
    assert (taken[Image(ID)].attempt, taken[Image(ID)].since) == (0, 100.0)
    now[0] += 10
    assert not queue.take_events()


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


class Heard(NamedTuple):
    """The driver's log, and what hears of it."""

    log: DriverLog
    notifications: NotificationListener
    queue: DelaysQueue


@pytest.fixture
def heard(tmp_path: Path) -> Heard:
    queue = DelaysQueue()
    made = NotificationListener(
        load(tmp_path, "[DEFAULT]\ntransport_url = fake://\n"), queue, Stats()
    )
    return Heard(DriverLog(lost=made.lost, back=made.back, broken=made.renew), made, queue)


def say(handler: logging.Handler, level: int, text: str, *args: object) -> None:
    record = logging.LogRecord(
        "oslo_messaging._drivers.impl_rabbit", level, "", 0, text, args, None
    )
    handler.emit(record)


def test_the_drivers_log_becomes_states(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="watcher")
    handler, queue = heard.log, heard.queue
    prefix = f"[{ID}] "
    for seconds in (1, 3, 5):
        say(
            handler,
            logging.ERROR,
            f"{prefix}AMQP server on 127.0.0.1:5672 is unreachable: [Errno 111] ECONNREFUSED. "
            f"Trying again in {seconds} seconds.",
        )
    say(handler, logging.ERROR, "The broker has blocked the connection: %s", "memory")
    say(handler, logging.WARNING, "something else")
    say(handler, logging.INFO, f"{prefix}Reconnected to AMQP server on 127.0.0.1:5672 via [amqp]")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "ERROR",
            "Cannot receive notifications, sweeps and file events go on: broker localhost: "
            "[Errno 111] ECONNREFUSED",
        ),
        ("INFO", "Notifications can be received again"),
    ]
    assert [key for key, _ in queue.delays] == [Sweep(1)]


def test_the_sweep_after_a_reconnect_is_at_any_time_of_ten_seconds_but_the_first_two(
    heard: Heard,
) -> None:
    heard.notifications.back()
    assert heard.queue.delays == [(Sweep(), 0.0)], "nothing was away, nobody comes back in step"
    del heard.queue.delays[:]
    for _ in range(200):
        say(heard.log, logging.ERROR, "AMQP server on host:5672 is unreachable: refused")
        say(heard.log, logging.INFO, "Reconnected to AMQP server on host:5672")
    delays = {delay for _, delay in heard.queue.delays}
    assert len(delays) == 200
    assert 2 <= min(delays) < 3 and 9 < max(delays) <= 10


def test_no_earlier_sweep_takes_the_place_of_that_after_a_reconnect(heard: Heard) -> None:
    """The earlier one sees nothing of what is sent until the queue is bound again."""
    for _ in range(3):
        heard.notifications.lost("refused")
        heard.notifications.back()
    now = [0.0]
    queue = WorkQueue(lambda: now[0])
    queue.put(Sweep(), delay=1)
    for key, delay in heard.queue.delays:
        queue.put(key, delay=delay)
    now[0] = BIND_TIME - 0.1
    assert queue.take().keys() == {Sweep()}
    now[0] = 10.0
    assert queue.take().keys() == {Sweep(1), Sweep(2), Sweep(3)}


def test_the_thread_that_makes_listeners_is_heard_on(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener may fail within its start, which is in that thread."""
    monkeypatch.setattr(heard.notifications, "_thread", threading.current_thread())
    heard.notifications.renew()
    assert heard.notifications._broken.is_set(), "another takes its place"
    heard.notifications.back()
    assert heard.queue.delays == [(Sweep(), 0.0)]


def test_the_first_connection_after_an_outage_is_a_reconnect_too(heard: Heard) -> None:
    """Hosts that were started meanwhile wait for the same broker."""
    heard.notifications.lost("refused")
    heard.notifications.back()
    [(_, delay)] = heard.queue.delays
    assert delay > 0


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
    told = rabbit + "[oslo_messaging_rabbit]\nkombu_reconnect_delay = 0.25\n"
    assert delay_of(told) == 0.25


def test_the_next_node_of_a_cluster_is_chosen_by_chance_unless_told(tmp_path: Path) -> None:
    rabbit = "[DEFAULT]\ntransport_url = rabbit://a/\n[oslo_messaging_rabbit]\n"
    for text, strategy in (
        ("", "shuffle"),
        ("kombu_failover_strategy = round-robin", "round-robin"),
    ):
        conf = load(tmp_path, rabbit + text)
        NotificationListener(conf, WorkQueue(), Stats())
        assert conf.oslo_messaging_rabbit.kombu_failover_strategy == strategy


def test_a_node_is_no_loss_while_others_are_left_to_be_tried(heard: Heard) -> None:
    failed = "Connection failed: [Errno 111] Connection refused (retrying in %s seconds)"
    say(heard.log, logging.ERROR, failed, 0)
    assert heard.notifications.condition == "not connected yet"
    say(heard.log, logging.ERROR, failed, 1.0)
    assert "Connection refused" in (heard.notifications.condition or "")


def test_what_makes_the_broker_unreachable_is_told_once_but_each_refusal_is(
    heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, logger="watcher")
    handler = heard.log
    for text in (
        "AMQP server on host:5672 is unreachable: <RecoverableConnectionError: unknown error>",
        "Connection failed: [Errno -2] Name or service not known (retrying in 3.0 seconds)",
        "AMQP server host:5672 closed the connection. Check login credentials: Socket closed",
        "AMQP server on host:5672 is unreachable: (0, 0): (320) CONNECTION_FORCED - shutdown",
        "Failed to consume message from queue: (0, 0): (403) ACCESS_REFUSED - Login was refused",
    ):
        say(handler, logging.ERROR, text)
    assert [record.getMessage().partition("go on: ")[2] for record in caplog.records] == [
        "broker localhost: the connection was lost",
        "broker localhost: (403) ACCESS_REFUSED - Login was refused",
    ]


def test_a_broken_listener_is_heard_no_more(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="watcher")
    handler, queue = heard.log, heard.queue

    def listener() -> None:
        say(handler, logging.ERROR, "Failed to consume message from queue: (530) NOT_ALLOWED - x")
        say(handler, logging.ERROR, "AMQP server on host:1 is unreachable: reset")
        say(handler, logging.INFO, "Reconnected to AMQP server on host:1")

    thread = threading.Thread(target=listener)
    thread.start()
    thread.join()
    assert len(caplog.records) == 1
    assert heard.notifications._broken.is_set(), "another takes its place"
    heard.notifications.back()
    assert caplog.messages[1:] == ["Notifications can be received again"]
    assert [key for key, _ in queue.delays] == [Sweep(1)]


def test_a_duplicate_which_is_never_acknowledged_goes_to_another_listener(
    heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="watcher")
    handler = heard.log
    say(handler, logging.ERROR, "ignoring duplicate message %s", None)
    assert heard.notifications._broken.is_set()
    assert not caplog.records


def test_others_text_is_one_short_printable_line(
    heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="watcher")
    say(heard.log, logging.WARNING, 'Unknown priority "%s"', "\n\x1b[2Jerror\u2028" * 9999)
    (text,) = caplog.messages
    assert text.isprintable() and len(text) < 600


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
    notifications._thread.join(10)
    assert not notifications._thread.is_alive()
    wait_for(lambda: sum(stats.lag.counts) == 1, 10, "the lag, by oslo.messaging's own timestamp")


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("", "driver is not set"),
        ("[oslo_messaging_notifications]\ndriver =\n", "driver is not set"),
        ("[oslo_messaging_notifications]\ndriver = noop\n", "driver is not set"),
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
    notifications._thread.start = lambda: None  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, logger="watcher"):
        notifications.start()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == (0 if warning is None else 1)
    assert warning is None or warning in said[0]
