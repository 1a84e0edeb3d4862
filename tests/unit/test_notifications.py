# SPDX-License-Identifier: Apache-2.0
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oslo_config import cfg

from watcher import conf
from watcher.bus import messaging
from watcher.conf import ConfigError
from watcher.notifications import Endpoint, Notifications, _DriverLog
from watcher.workqueue import Image, Key, Sweep, WorkQueue

ID = "7f1d2c0a-5b1e-4f7e-9a67-3c5d1b2e4f60"


def keys(event_type: Any, payload: Any) -> set[Key]:
    queue = WorkQueue()
    Endpoint(queue).info({}, "image.host", event_type, payload, {})
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
@given(st.just("image.delete") | anything, anything)
def test_no_notification_raises_or_names_anything_but_an_image(
    event_type: Any, payload: Any
) -> None:
    assert keys(event_type, payload) <= {Image(ID)}


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
    made = Notifications(load(tmp_path, f"{text}[oslo]\n"), WorkQueue())
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
        Notifications(load(tmp_path, f"[DEFAULT]\ntransport_url = {url}\n"), WorkQueue())
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def driver_log(tmp_path: Path) -> "tuple[_DriverLog, WorkQueue]":
    queue = WorkQueue()
    configuration = load(tmp_path, "[DEFAULT]\ntransport_url = fake://\n")
    return _DriverLog(Notifications(configuration, queue)), queue


def say(handler: logging.Handler, level: int, text: str, *args: object) -> None:
    record = logging.LogRecord(
        "oslo_messaging._drivers.impl_rabbit", level, "", 0, text, args, None
    )
    handler.emit(record)


def test_the_drivers_log_becomes_states(
    driver_log: "tuple[_DriverLog, WorkQueue]", caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="watcher")
    handler, queue = driver_log
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
            "Cannot receive notifications, sweeps and file events go on: AMQP server on "
            "127.0.0.1:5672 is unreachable: [Errno 111] ECONNREFUSED",
        ),
        ("INFO", "Notifications can be received again"),
    ]
    assert queue.take().keys() == {Sweep()}


def test_a_notification_on_the_bus_reaches_the_queue(tmp_path: Path) -> None:
    configuration = load(
        tmp_path,
        "[DEFAULT]\ntransport_url = fake://\n[oslo_messaging_notifications]\n"
        "driver = messagingv2\n[staging_watcher]\nexchange = here\n",
    )
    queue = WorkQueue()
    notifications = Notifications(configuration, queue)
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
    notifications = Notifications(configuration, WorkQueue())
    notifications._thread.start = lambda: None  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, logger="watcher"):
        notifications.start()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == (0 if warning is None else 1)
    assert warning is None or warning in said[0]
