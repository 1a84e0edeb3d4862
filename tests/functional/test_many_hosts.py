# SPDX-License-Identifier: Apache-2.0
"""Many hosts on one bus and one database: each hears every deletion, and only who has a file asks.

All that goes here goes by a notification: the files are staged before the start, while their
images live, so neither the first sweep nor a file event removes them, and no other sweep comes.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from tests.functional.host import GlanceNotifier, Host, new_id
from tests.services import Images, MariaDB, RabbitMQ, unique_name, wait_for
from watcher.reconcile.reconciler import PROOF_INTERVAL

pytestmark = pytest.mark.large

AT_ONCE = 4  # programs that start at the same time; each takes half a second of a processor
EVERYWHERE = 50  # images of which each host has a file
NOWHERE = 200  # images of which no host has one
SOME = 5  # hosts with a file of one more image
GONE_TIMEOUT = 180.0  # seconds

QUORUM = "?rabbit_quorum_queue=true"
# They are for queues of replies and of fanouts: with a life of a second without a reader the
# watchers' own would be gone before their hosts are back.
TRANSIENT = (
    "&rabbit_transient_quorum_queue=true&rabbit_transient_queues_ttl=1&use_queue_manager=true"
    "&rabbit_stream_fanout=true&rabbit_qos_prefetch_count=10"
)


@pytest.fixture
def database_url(mariadb: MariaDB) -> Iterator[str]:
    """A server that counts the statements of each user."""
    name = unique_name("many_hosts")
    mariadb.create_database(name)
    mariadb.execute("SET GLOBAL userstat = 1")
    yield mariadb.url(name)
    mariadb.execute("SET GLOBAL userstat = 0")


@pytest.fixture
def vhost(rabbitmq: RabbitMQ) -> Iterator[str]:
    """An empty virtual host, whose queues don't outlive the test."""
    name = rabbitmq.new_vhost()
    yield name
    rabbitmq.ctl("delete_vhost", name)


class Crowd:
    """Hosts with a watcher each, which has a user of its own in the database.

    :param database: its name
    """

    def __init__(
        self,
        new_host: Callable[..., Host],
        count: int,
        transport_url: str,
        mariadb: MariaDB,
        database: str,
    ) -> None:
        self._mariadb = mariadb
        self.hosts: dict[str, Host] = {}
        for _ in range(count):
            user, host = unique_name("host"), new_host()
            mariadb.add_reader(user, mariadb.password, database)
            host.configure(
                database_url=mariadb.url(database, user),
                transport_url=transport_url,
                watcher="sweep_interval = 86400",
            )
            self.hosts[user] = host

    def start(self) -> None:
        """Start all watchers; all of them listen then."""

        def start(host: Host) -> None:
            host.start().wait_for_line("Listening for notifications", GONE_TIMEOUT)

        with ThreadPoolExecutor(AT_ONCE) as starters:
            list(starters.map(start, self.hosts.values()))

    def wait_gone(self, *names: str) -> None:
        """Wait until no host has a file of those names."""
        for host in self.hosts.values():
            host.wait_gone(*(host.staging / name for name in names), timeout=GONE_TIMEOUT)

    def reads(self) -> dict[str, int]:
        """How often each has asked the database so far."""
        counts = "SELECT user, select_commands FROM information_schema.user_statistics"
        return {user: reads for user, reads in self._mariadb.execute(counts) if user in self.hosts}


@pytest.mark.parametrize(
    ("options", "count", "kind", "durable"),
    [
        pytest.param("", 100, "classic", False, id="classic"),
        pytest.param(QUORUM, 100, "quorum", True, id="quorum"),
        pytest.param("?amqp_durable_queues=true", 20, "classic", True, id="durable"),
        pytest.param(QUORUM + TRANSIENT, 20, "quorum", True, id="quorum-transient"),
    ],
)
def test_each_host_hears_every_deletion(
    rabbitmq: RabbitMQ,
    mariadb: MariaDB,
    database_url: str,
    vhost: str,
    images: Images,
    new_host: Callable[..., Host],
    options: str,
    count: int,
    kind: str,
    durable: bool,
) -> None:
    url = rabbitmq.url(vhost=vhost) + options
    crowd = Crowd(new_host, count, url, mariadb, str(make_url(database_url).database))
    everywhere, here_and_there = [new_id() for _ in range(EVERYWHERE)], new_id()
    images.insert(*everywhere, here_and_there)
    having = list(crowd.hosts)[:SOME]
    for user, host in crowd.hosts.items():
        for image in everywhere:
            host.stage(image)
        if user in having:
            host.stage(here_and_there)
    crowd.start()
    glance = GlanceNotifier(url)

    before, began = crowd.reads(), time.monotonic()
    for _ in range(NOWHERE):
        glance.deleted(new_id())
    images.delete(here_and_there)
    glance.deleted(here_and_there)
    last, *others = everywhere
    images.delete(last)
    glance.deleted(last)
    crowd.wait_gone(last, here_and_there)
    for user, reads in crowd.reads().items():
        # One for the last, so that all before it were heard; both may share a question. And each
        # minute one whether the database still answers.
        most = (2 if user in having else 1) + 1 + (time.monotonic() - began) // PROOF_INTERVAL
        assert 1 <= reads - before[user] <= most < NOWHERE / 10

    images.delete(*others)
    for image in others:
        glance.deleted(image)
    crowd.wait_gone(*others)
    glance.close()

    sent = NOWHERE + 1 + EVERYWHERE
    queues = wait_for(lambda: read_out(rabbitmq, vhost, sent), GONE_TIMEOUT, "empty queues")
    assert len(queues) == count
    for queue in queues:
        assert (queue["type"], queue["durable"], queue["consumers"]) == (kind, durable, 1)
        assert "x-expires" not in str(queue["arguments"])


def read_out(rabbitmq: RabbitMQ, vhost: str, sent: int) -> list[dict[str, Any]]:
    """The watchers' queues, once all are empty while Glance's own, which nobody reads, holds all
    that was sent. A quorum queue updates its count only now and then."""
    columns = ("name", "type", "durable", "messages", "consumers", "arguments")
    listing = rabbitmq.ctl("list_queues", f"--vhost={vhost}", "--formatter=json", *columns)
    queues = {queue["name"]: queue for queue in json.loads(listing)}
    all_sent = queues.pop("notifications.info")["messages"] == sent
    read = not any(queue["messages"] for queue in queues.values())
    return list(queues.values()) if all_sent and read else []
