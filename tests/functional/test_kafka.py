# SPDX-License-Identifier: Apache-2.0
"""Kafka as the message bus, with the real program.

What stands for Kafka here, and how far, is in tests/services/kafka.py.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import confluent_kafka
import pytest

from tests.conftest import running
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.program import SECRET, Program
from tests.functional.test_check import Report
from tests.services import Images
from tests.services.kafka import GuardedTansu, MockKafka, Tansu
from tests.services.ports import LOOPBACK, free_port

TOPIC = "notifications.info"
JUNK = (b"", b"\xff", b"[]", b'{"oslo.version": "2.0"}')
LOST = "ERROR watcher.triggers.listener"
BACK = "Notifications can be received again"
# librdkafka tells that all are away now before, now after it was refused by one of them
AWAY = ("Connection refused", "no broker answers")
LISTENING = "Listening for notifications in queue"
PATIENCE = 90.0  # seconds

NewHost = Callable[..., Host]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind of database is enough here."""
    return f"sqlite:///{tmp_path / 'glance.sqlite'}"


@pytest.fixture
def mock() -> Iterator[MockKafka]:
    """A cluster without topics."""
    made = MockKafka()
    yield made
    made.close()


@pytest.fixture(scope="module")
def tansu() -> Iterator[Tansu]:
    """A running broker."""
    yield from running(Tansu)


@pytest.fixture(params=["tansu", "mock"])
def url(request: pytest.FixtureRequest) -> str:
    """The transport URL of each kind of broker in turn, with Glance's topic."""
    bus = request.getfixturevalue(request.param)
    assert isinstance(bus, Tansu | MockKafka)
    if isinstance(bus, MockKafka):
        bus.add_topic(TOPIC, partitions=3)
    else:
        tell(bus.url())
    return bus.url()


def tell(url: str, *images: str) -> None:
    """Send as Glance does; returns when the broker has it."""
    notifier = GlanceNotifier(url)
    notifier.send("image.update", {"id": new_id()})
    for image in images:
        notifier.deleted(image)
    notifier.close()


def listening(program: Program, url: str) -> None:
    """Wait until it listens; the first message ends five seconds for which oslo.messaging waits."""
    deadline = time.monotonic() + PATIENCE
    while not program.lines(LISTENING):
        assert program.process.poll() is None and time.monotonic() < deadline, program.log
        tell(url)


def stage(images: Images, *hosts: Host) -> tuple[str, list[Path]]:
    """An image with a file on each host; deleted, but nobody was told so yet."""
    image = new_id()
    images.insert(image)
    files = []
    for host in hosts:
        kept = "Cleaned 0 stale staging files, 1 ignored"
        before = len(host.programs[-1].lines(kept))
        aside = host.directory / image
        aside.touch()
        files.append(aside.rename(host.staging / image))  # one event, handled while it lives
        host.programs[-1].wait_for_line(kept, PATIENCE, before + 1)
    images.delete(image)
    return image, files


def hears(host: Host, url: str) -> None:
    """Two deletions, for a sweep may have seen to the first."""
    for _ in range(2):
        image, files = stage(host.images, host)
        tell(url, image)
        host.wait_gone(*files, timeout=PATIENCE)


def test_each_host_hears_each_deletion(new_host: NewHost, images: Images, url: str) -> None:
    hosts = [new_host(transport_url=url), new_host(transport_url=url)]
    programs = [host.start() for host in hosts]
    for program in programs:
        listening(program, url)
    for _ in range(3):
        image, files = stage(images, *hosts)
        tell(url, image)
        for host, path in zip(hosts, files, strict=True):
            host.wait_gone(path, timeout=PATIENCE)
    assert not any(program.lines("ERROR") for program in programs)


def test_brokers_away_and_back(new_host: NewHost, images: Images, mock: MockKafka) -> None:
    mock.add_topic(TOPIC)
    host = new_host(transport_url=mock.url())
    program = host.start()
    listening(program, mock.url())
    hears(host, mock.url())
    mock.down()
    line = program.wait_for_line(LOST, PATIENCE)
    assert f"broker {mock.addresses}: " in line and line.endswith(AWAY)
    image, files = stage(images, host)
    notifier = GlanceNotifier(mock.url())
    notifier.deleted(image)  # it is kept where it is sent
    mock.up()
    host.wait_gone(*files, timeout=PATIENCE)
    program.wait_for_line(BACK, PATIENCE)
    notifier.close()
    hears(host, mock.url())
    assert len(program.lines("ERROR")) == len(program.lines(BACK)) == 1
    assert "rdkafka#" not in program.log  # what the library would write on stderr


def test_brokers_away_at_start(new_host: NewHost, mock: MockKafka) -> None:
    mock.add_topic(TOPIC)
    mock.down()
    host = new_host(transport_url=mock.url())
    host.start().wait_for_line(LOST, PATIENCE)
    host.programs[-1].stop()
    program = host.start()
    program.wait_for_line(LOST, PATIENCE)
    assert program.lines("ERROR")[0].endswith(AWAY)
    mock.up()
    program.wait_for_line(BACK, PATIENCE)
    hears(host, mock.url())
    assert len(program.lines("ERROR")) == len(program.lines(BACK)) == 1
    assert "rdkafka#" not in program.log  # what the library would write on stderr


def test_a_dead_broker_and_a_virtual_host(new_host: NewHost, mock: MockKafka) -> None:
    mock.add_topic(f"{TOPIC}.cloud")
    host = new_host(transport_url=f"kafka://{LOOPBACK}:{free_port()},{mock.addresses}/cloud")
    program = host.start()
    listening(program, mock.url("cloud"))
    hears(host, mock.url("cloud"))
    assert not program.lines("ERROR")
    assert Report(host)["topic"] == ("ok", f"topic {TOPIC}.cloud is there, partitions: 1")


def test_topic_made_later(new_host: NewHost, mock: MockKafka) -> None:
    host = new_host(transport_url=mock.url())
    program = host.start()
    line = program.wait_for_line(LOST, PATIENCE)
    assert f"{TOPIC}: Broker: Unknown topic or partition" in line
    assert host.programs[-1].process.poll() is None
    tell(mock.url())  # the broker makes it when Glance sends for the first time
    program.wait_for_line(BACK, PATIENCE)
    hears(host, mock.url())
    assert len(program.lines("ERROR")) == 1


def test_other_messages_hold_up_nothing(new_host: NewHost, mock: MockKafka) -> None:
    mock.add_topic(TOPIC)
    host = new_host(transport_url=mock.url())
    program = host.start()
    listening(program, mock.url())
    producer = confluent_kafka.Producer({"bootstrap.servers": mock.addresses, "log_level": 0})
    for junk in JUNK:
        producer.produce(TOPIC, junk)
    assert producer.flush(PATIENCE) == 0
    program.wait_for_line("is no notification", PATIENCE, len(JUNK))
    hears(host, mock.url())
    assert not program.lines("ERROR") and not program.lines("Unexpected exception")


def test_credentials_refused(new_host: NewHost) -> None:
    for broker in running(GuardedTansu):
        url = broker.url().replace("//", f"//glance:{SECRET}@")
        host = new_host(
            transport_url=url,
            more="[oslo_messaging_kafka]\nsecurity_protocol = SASL_PLAINTEXT\n"
            "sasl_mechanism = SCRAM-SHA-256",
        )
        program = host.start()
        line = program.wait_for_line(LOST, PATIENCE)
        assert "authentication failed: broker responded with unknown-user" in line
        result, found = Report(host)["broker"]
        assert result == "failure" and found.endswith("responded with unknown-user")


def test_check(new_host: NewHost, images: Images, mock: MockKafka) -> None:
    images.insert(new_id())
    host = new_host(transport_url=mock.url())
    asked = Report(host)
    assert asked["broker"] == ("ok", f"{mock.addresses}: 1 broker of Kafka let the watcher in")
    result, found = asked["topic"]
    assert result == "warning" and found.startswith(f"topic {TOPIC} doesn't exist")
    assert "exchange" not in asked.names and "messages" not in asked.names

    mock.add_topic(TOPIC, partitions=2)
    group = f"watcher-{host.directory.name}"
    asked = Report(host)
    assert asked["topic"] == ("ok", f"topic {TOPIC} is there, partitions: 2")
    assert asked["messages"] == ("ok", f"group {group} has read nothing yet")

    consumer = confluent_kafka.Consumer({"bootstrap.servers": mock.addresses, "group.id": group})
    consumer.commit(offsets=[confluent_kafka.TopicPartition(TOPIC, 0, 0)], asynchronous=False)
    consumer.close()
    producer = confluent_kafka.Producer({"bootstrap.servers": mock.addresses})
    for _ in range(1001):
        producer.produce(TOPIC, b"{}", partition=0)
    assert producer.flush(PATIENCE) == 0
    result, found = Report(host)["messages"]
    assert result == "warning" and found.startswith(f"1,001 messages wait for group {group}")

    mock.down()
    result, found = Report(host)["broker"]
    assert result == "failure" and found.endswith("Connection refused")


@pytest.mark.parametrize(
    ("url", "more", "found"),
    [
        ("kafka://127.0.0.1/", "", "transport_url names no port of a Kafka broker"),
        ("kafka://", "", "transport_url names no port of a Kafka broker"),
        ("kafka://127.0.0.1:1/", "security_protocol = SASL_SSL", "sasl.password must be set"),
        ("kafka://127.0.0.1:1/", "security_protocol = x", "transport_url can't be used"),
    ],
)
def test_check_of_what_cannot_be_used(new_host: NewHost, url: str, more: str, found: str) -> None:
    host = new_host(transport_url=url, more=f"[oslo_messaging_kafka]\n{more}")
    result, text = Report(host)["broker"]
    assert result == "failure" and found in text


def test_without_a_port(new_host: NewHost) -> None:
    program = new_host(transport_url="kafka://127.0.0.1/").start(ready=False)
    assert program.wait() == 2
    (line,) = program.log.splitlines()
    assert line.endswith("expected kafka://host:port/")


def test_without_the_extra(new_host: NewHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host = new_host(transport_url=f"kafka://{LOOPBACK}:{free_port()}/")
    with tempfile.TemporaryDirectory() as directory:
        absent = 'raise ModuleNotFoundError("No module", name="confluent_kafka")'
        (Path(directory) / "confluent_kafka.py").write_text(absent)
        monkeypatch.setenv("PYTHONPATH", directory)
        program: Program = host.start(ready=False)
        assert program.wait() == 2
        (line,) = program.log.splitlines()
        assert line.endswith("for kafka:// install glance-staging-watcher[kafka]")
        assert Report(host)["broker"][0] == "failure"
