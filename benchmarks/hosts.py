# SPDX-License-Identifier: Apache-2.0
"""Many hosts on one bus: what each costs while idle, and what each deletion costs all of them."""

import json
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy.engine import make_url

from benchmarks import bus, proc
from benchmarks.crowd import Crowd
from benchmarks.figures import Comparison
from benchmarks.rows import fill
from benchmarks.site import Cached, Site, new_ids
from tests.functional.host import GlanceNotifier
from tests.services import RabbitMQ

KINDS = {"classic": "", "quorum": "?rabbit_quorum_queue=true"}
PACE = 20  # deletions a second: what a cloud does at its busiest, not what a test can send

READER = "watchers"  # user of the database

ROWS = {
    "connections": ("broker: open", "connections"),
    "channels": ("broker: open", "channels"),
    "queues": ("broker: declared, Glance's own among them", "queues"),
    "descriptors": ("broker: open", "file descriptors"),
    "broker-memory": ("idle broker: resident memory", "MB"),
    "broker-rest": ("idle broker: processor time a minute", "ms"),
    "memory": ("idle watchers: memory of all, shared pages once", "MB"),
    "rest": ("idle watcher: processor time a minute", "ms"),
    "paced-broker": (f"{PACE} deletions a second: broker, a delivery", "µs"),
    "paced-watcher": (f"{PACE} deletions a second: watcher, a notification", "µs"),
    "backlog": ("backlog: until all have heard all", "s"),
    "backlog-rate": ("backlog: deliveries", "a second"),
    "backlog-broker": ("backlog: broker, a delivery", "µs"),
    "backlog-watcher": ("backlog: watcher, a notification", "µs"),
    "backlog-memory": ("backlog: broker's most resident memory", "MB"),
    "sent": ("on the wire to each host, a notification", "bytes"),
    "received": ("on the wire from each host, a notification", "bytes"),
    "reads": ("database reads of all; each host has one file", "SELECTs"),
}


class Scale:
    """A number of hosts on one kind of queue."""

    def __init__(self, site: Site, database: str, kind: str, count: int) -> None:
        self.site, self.count = site, count
        self.broker = site.server(RabbitMQ)
        self.pid = int(self.broker.ctl("eval", "os:getpid().").strip('"\n'))
        self.found: dict[str, float] = {}
        self._images = site.images(database)
        (self._marker,) = new_ids(1)
        self._images.insert(self._marker, status="importing")
        self._transport = site.vhost() + KINDS[kind]
        notifier = GlanceNotifier(self._transport)  # with Glance's own queue
        notifier.send("image.update", {})
        notifier.close()
        read = site.server(Cached).url(str(make_url(database).database), READER)
        self._crowd = Crowd(site, count, read, self._transport, [self._marker])

    def at_rest(self, seconds: float) -> None:
        """What they cost while nothing is deleted."""
        for pid in (*self._crowd.pids, self.pid):
            proc.settle(pid, quiet=0.2)
        state: dict[str, Any] = json.loads(self.broker.ctl("status", "--formatter=json"))
        channels = json.loads(self.broker.ctl("list_channels", "--formatter=json", "pid"))
        self.found |= {
            "connections": state["totals"]["connection_count"],
            "channels": len(channels),
            "queues": len(self.broker.queues(str(make_url(self._transport).database))),
            "descriptors": proc.descriptors(self.pid),
            "broker-memory": proc.memory(self.pid),
            "memory": self._crowd.memory(),
        }
        before = self._cpu()
        time.sleep(seconds)
        broker, watchers = (now - then for now, then in zip(self._cpu(), before, strict=True))
        self.found["broker-rest"] = broker / seconds * 60e3
        self.found["rest"] = watchers / seconds * 60e3 / self.count

    def paced(self, deletions: int) -> None:
        """Deletions of which no host has a file, one after the other."""
        bus.publish(self.broker, self._transport, new_ids(PACE), 1 / PACE)  # the first cost more
        before = self._cpu()
        bus.publish(self.broker, self._transport, new_ids(deletions), 1 / PACE)
        for pid in self._crowd.pids:
            proc.settle(pid, quiet=0.1)
        costs = self._costs(before, deletions)
        self.found["paced-broker"], self.found["paced-watcher"] = costs

    def backlog(self, deletions: int) -> None:
        """Deletions as fast as the broker takes them, of which no host has a file; then the one of
        which all have."""
        self._images.delete(self._marker)
        octets, reads, before = self._octets(), self._selects(), self._cpu()
        proc.forget_most(self.pid)
        started = time.monotonic()
        bus.publish(self.broker, self._transport, [*new_ids(deletions - 1), self._marker])
        self._crowd.wait_gone(self._marker)
        seconds = time.monotonic() - started
        broker, watcher = self._costs(before, deletions)
        deliveries = deletions * self.count
        self.found |= {
            "backlog": seconds,
            "backlog-rate": deliveries / seconds,
            "backlog-broker": broker,
            "backlog-watcher": watcher,
            "backlog-memory": proc.memory(self.pid, "VmHWM"),
            "reads": self._selects() - reads,
        }
        sent, received = (
            (now - then) / deliveries for now, then in zip(self._octets(), octets, strict=True)
        )
        self.found |= {"sent": sent, "received": received}

    def close(self) -> None:
        """End them, and have their queues deleted."""
        self._crowd.close()
        self.broker.ctl("delete_vhost", str(make_url(self._transport).database))

    def _cpu(self) -> tuple[float, float]:
        return proc.cpu(self.pid), self._crowd.cpu()

    def _costs(self, before: tuple[float, float], deletions: int) -> tuple[float, float]:
        deliveries = deletions * self.count
        broker, watchers = (
            (now - then) / deliveries * 1e6 for now, then in zip(self._cpu(), before, strict=True)
        )
        return broker, watchers

    def _octets(self) -> tuple[int, int]:
        columns = ("vhost", "send_oct", "recv_oct")
        rows = json.loads(self.broker.ctl("list_connections", "--formatter=json", *columns))
        own = [row for row in rows if row["vhost"] == make_url(self._transport).database]
        return sum(row["send_oct"] for row in own), sum(row["recv_oct"] for row in own)

    def _selects(self) -> int:
        statement = "SELECT select_commands FROM information_schema.user_statistics WHERE user = "
        (row,) = self.site.server(Cached).execute(f"{statement}'{READER}'")
        return int(row[0])


def measure(site: Site) -> Iterator[Comparison]:
    """Idle, at a busy cloud's pace, and a backlog, for more and more hosts."""
    counts, deletions = ((2, 4), 500) if site.quick else ((10, 30, 100), 10_000)
    database = site.database("mariadb")
    fill(database, 10_000)
    server = site.server(Cached)
    server.add_reader(READER, server.password, str(make_url(database).database))
    server.execute("SET GLOBAL userstat = 1")
    rows = {name: Comparison(f"hosts-{name}", title, unit) for name, (title, unit) in ROWS.items()}
    for kind in KINDS:
        for count in counts:
            scale = Scale(site, database, kind, count)
            scale.at_rest(5 if site.quick else 30)
            scale.paced(PACE * (2 if site.quick else 15))
            scale.backlog(deletions)
            scale.close()
            for name, value in scale.found.items():
                rows[name].add(f"{kind}, {count} hosts", value)
    yield from rows.values()
