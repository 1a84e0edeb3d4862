# SPDX-License-Identifier: Apache-2.0
"""The consumer that oslo.messaging's driver is given, with a mock cluster on real sockets."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from tests.services.kafka import MockKafka
from watcher import conf as configuration
from watcher.checks import kafka as check_kafka
from watcher.checks.queue import MANY
from watcher.checks.result import Result
from watcher.stats import Stats
from watcher.triggers import kafka
from watcher.triggers.listener import NotificationListener
from watcher.workqueue import WorkQueue

from oslo_messaging._drivers import impl_kafka  # isort: skip - after watcher.kafka

TOPIC = "notifications.info"
PATIENCE = 60.0  # seconds


@pytest.fixture
def mock() -> Iterator[MockKafka]:
    """A cluster with the topic."""
    made = MockKafka()
    made.add_topic(TOPIC)
    yield made
    made.close()


class Reader(kafka.Consumer):
    """A consumer as oslo.messaging would have it."""

    def __init__(self, mock: MockKafka, lost: Callable[[str], None]) -> None:
        super().__init__(
            {
                "bootstrap.servers": mock.addresses,
                "group.id": "pool",
                "auto.offset.reset": "earliest",
            },
            vhost=None,
            lost=lost,
            back=lambda: None,
        )

    def join(self) -> None:
        """Join the group."""
        self.subscribe([TOPIC], lambda *arguments: None, lambda *arguments: None)


class NotGivenError(Exception):
    """Ends a wait for partitions."""


def tell(cause: str) -> None:
    raise NotGivenError(cause)


def test_who_shares_a_pool_is_told(mock: MockKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Reader(mock, tell), Reader(mock, tell)
    first.join()
    monkeypatch.setattr(kafka, "PATIENCE", 2.0)
    with pytest.raises(NotGivenError) as told, ThreadPoolExecutor(1) as others:
        joining = others.submit(second.join)
        # The one partition is given to either of the two.
        while not joining.done():
            first.consume(1, 0.1)
        joining.result()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            first.consume(1, 0.1)
    assert str(told.value) == f"no partition of {TOPIC} for this watcher; has another its pool?"


def test_messages_come_at_once_and_whole(mock: MockKafka) -> None:
    reader = Reader(mock, tell)
    reader.join()
    producer = Producer({"bootstrap.servers": mock.addresses})
    sent = [
        f'{{"oslo.version": "2.0", "oslo.message": "{{\\"_context\\": {n}}}"}}' for n in range(9)
    ]
    for text in sent:
        producer.produce(TOPIC, text.encode())
    assert producer.flush(PATIENCE) == 0
    for text in sent:
        while not (messages := reader.consume(500, PATIENCE)):
            pass
        assert [message.value().decode() for message in messages] == [text]
    reader.close()


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "127.0.0.1:9092/bootstrap: Connect to ipv4#127.0.0.1:9092 failed: Connection refused "
            "(after 0ms in state CONNECT, 2 identical error(s) suppressed)",
            "Connect to ipv4#127.0.0.1:9092 failed: Connection refused",
        ),
        (
            "sasl_ssl://kafka:9093/1: SASL authentication error: no (after 9ms in state AUTH_REQ)",
            "SASL authentication error: no",
        ),
        ("GroupCoordinator: kafka:9092: Disconnected", "kafka:9092: Disconnected"),
        ("2/2 brokers are down", "2/2 brokers are down"),
    ],
)
def test_cause(text: str, cause: str) -> None:
    assert kafka.cause_of(KafkaError(KafkaError._TRANSPORT, text)) == cause


@pytest.mark.parametrize(
    ("options", "expected"), [("", True), ("enable_auto_commit = false", False)]
)
def test_nobody_waits_for_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, expected: bool
) -> None:
    monkeypatch.setattr(impl_kafka, "confluent_kafka", impl_kafka.confluent_kafka)  # put back
    file = tmp_path / "glance-api.conf"
    file.write_text(
        f"[DEFAULT]\ntransport_url = kafka://127.0.0.1:1/\n[oslo_messaging_kafka]\n{options}\n"
    )
    conf = configuration.load(["--config-file", str(file)])
    NotificationListener(conf, WorkQueue(), Stats())
    assert conf.oslo_messaging_kafka.enable_auto_commit is expected


def test_a_commit_that_fails_is_no_failure(mock: MockKafka) -> None:
    reader = Reader(mock, tell)
    reader.join()
    with pytest.raises(KafkaException):  # nothing was read yet
        confluent_kafka.Consumer.commit(reader, asynchronous=False)
    reader.commit(asynchronous=False)
    reader.close()


def test_topics_are_those_that_are_sent_to() -> None:
    assert kafka.topics_of(["a.info", "b.info"], "") == ["a.info", "b.info"]
    assert kafka.topics_of(["a.info", "b.info"], "cloud") == ["a.info.cloud", "b.info.cloud"]


@pytest.mark.parametrize(
    ("messages", "result", "found"),
    [
        (None, Result.OK, "has read nothing yet"),
        (0, Result.OK, "0 messages wait for"),
        (1, Result.OK, "1 message waits for"),
        (MANY - 1, Result.OK, "999 messages wait for"),
        (MANY, Result.WARNING, "1,000 messages wait for"),
    ],
)
def test_waiting(messages: int | None, result: Result, found: str) -> None:
    check = check_kafka.waiting("pool", messages)
    assert check.result is result and found in check.found and "pool" in check.found


def test_topic() -> None:
    assert check_kafka.topic("a.info", 3).result is Result.OK
    check = check_kafka.topic("a.info", 0)
    assert check.result is Result.WARNING
    assert check.remedy and "--create --topic a.info" in check.remedy
