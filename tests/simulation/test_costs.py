# SPDX-License-Identifier: Apache-2.0
"""What the simulation takes as measured, measured."""

from collections.abc import Iterator

import pytest
from oslo_config import cfg

from benchmarks.simulation import costs
from tests.functional.host import GlanceNotifier
from tests.services import RabbitMQ
from tests.services.waiting import wait_for
from watcher.triggers.transport import messaging

COUNT = 200
TIMEOUT = 60.0

# of an active image without properties of its own, as Glance 33.0 sends it when that is deleted
PAYLOAD = {
    "id": "5a86eecf-e2ea-451d-8794-60c66a524a45",
    "name": "x",
    "status": "deleted",
    "created_at": "2026-11-25T03:31:18Z",
    "updated_at": "2026-11-25T03:31:23Z",
    "min_disk": 0,
    "min_ram": 0,
    "protected": False,
    "checksum": "d5816f35916d1d9482fb0f1ec201101d",
    "owner": "49fb3aef9a624efabbed3b93c05c8ccb",
    "disk_format": "raw",
    "container_format": "bare",
    "size": 100000,
    "virtual_size": 100000,
    "is_public": False,
    "visibility": "shared",
    "properties": {"os_glance_importing_to_stores": "", "os_glance_failed_import": ""},
    "tags": [],
    "deleted": True,
    "deleted_at": "2026-11-25T03:31:23Z",
}


class Counter:
    """Listens as the watcher does."""

    def __init__(self) -> None:
        self.count = 0

    def info(self, *_: object) -> None:
        self.count += 1


@pytest.fixture
def transport_url(rabbitmq: RabbitMQ) -> str:
    """A virtual host for this test."""
    return rabbitmq.url(vhost=rabbitmq.new_vhost())


@pytest.fixture
def counter(transport_url: str) -> Iterator[Counter]:
    """Listens in a queue of its own."""
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    transport = messaging.get_notification_transport(conf, url=transport_url)
    made = Counter()
    listener = messaging.get_notification_listener(
        transport,
        [messaging.Target(exchange="glance", topic="notifications")],
        [made],
        executor="threading",
        pool="glance-staging-watcher-host",
    )
    listener.start()
    yield made
    listener.stop()
    listener.wait()
    transport.cleanup()


def octets(rabbitmq: RabbitMQ, transport_url: str) -> list[tuple[int, int]]:
    """Bytes to and from each client of a virtual host, by the broker's own counters."""
    lines = rabbitmq.ctl("list_connections", "send_oct", "recv_oct", "vhost").splitlines()
    return sorted(
        (int(sent), int(received))
        for sent, received, vhost in (line.split("\t") for line in lines)
        if transport_url == rabbitmq.url(vhost=vhost)
    )


def test_bytes_of_a_notification(rabbitmq: RabbitMQ, transport_url: str, counter: Counter) -> None:
    notifier = GlanceNotifier(transport_url)

    def send(count: int) -> tuple[int, int]:
        wanted = counter.count + count
        for _ in range(count):
            notifier.send("image.delete", PAYLOAD)
        wait_for(lambda: counter.count == wanted, TIMEOUT, "all notifications")
        while (seen := octets(rabbitmq, transport_url)) != octets(rabbitmq, transport_url):
            pass  # acknowledgements are under way still
        return seen[-1]  # the listener's: to it most is sent

    before, after = send(COUNT), send(COUNT)
    notifier.close()
    sent, received = ((new - old) / COUNT for new, old in zip(after, before, strict=True))
    assert sent == pytest.approx(costs.DELETE_BYTES, rel=0.02)
    assert received == pytest.approx(costs.ACK_BYTES, rel=0.2)
