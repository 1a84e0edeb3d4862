# SPDX-License-Identifier: Apache-2.0
"""Many hosts on one bus and one database, what Glance does to them, and what comes of it."""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest import mock

from benchmarks.simulation import costs
from benchmarks.simulation.host import Database, Disk, Host
from benchmarks.simulation.timeline import Line, Timeline
from watcher import backoff
from watcher.reconcile import cleaner, reconciler
from watcher.triggers.listener import RECONNECT_SPREAD, SWEEP_SPREAD
from watcher.workqueue import File, Sweep

NOWHERE = "00000000-0000-4000-8000-000000000000"  # an image of which no host has a file
RECONNECT_DELAY = 1.0  # seconds; oslo.messaging's default
BIND_TIME = 2.0  # seconds until the queue of a connected listener is consumed, at most


@dataclass(frozen=True)
class Scenario:
    """What is to be simulated; times in seconds, rates a second and of all hosts together.

    :param sample: that many hosts are simulated, and stand for all; None: all
    :param shared: hosts that share a staging directory, of which no file events come then
    :param rate: deletions
    :param staged: share of the deletions whose image has a file staged, or gets one
    :param late: share of those whose file comes only after the deletion
    :param converted: share of those whose file has a suffix, which Glance doesn't look for
    :param imports: images that are staged and end well, for each deletion
    :param lives: mean time for which a file is staged, until the deletion or the end
    :param live: files of live images that lie on each directory all the time
    :param others: other notifications for each deletion that come to the same queues
    :param loss: share of the notifications that don't arrive, for each host by itself
    :param event_loss: share of the file events that aren't reported
    :param delay: of the bus, besides what an idle bus takes
    :param lag: of what is read from the database
    :param broker: messages a second that the broker hands out
    :param jitter: whether the watchers' waits have jitter
    :param outage: when the broker goes, and for how long
    :param together: all watchers begin at the same moment
    :param warm: time before anything is measured
    """

    hosts: int = 10
    sample: int | None = None
    shared: int = 1
    rate: float = 1.0
    staged: float = 0.1
    late: float = 0.1
    converted: float = 0.1
    imports: float = 0.9
    lives: float = 20.0
    live: int = 0
    others: int = 0
    loss: float = 0.0
    event_loss: float = 0.0
    delay: float = 0.0
    lag: float = 0.0
    broker: float = math.inf
    sweep_interval: float = 600.0
    jitter: bool = True
    outage: tuple[float, float] | None = None
    together: bool = False
    warm: float = 60.0
    seconds: float = 600.0
    seed: int = 1


@dataclass
class Figures:
    """What came of it, in the time that was measured; of all hosts, where only some are simulated.

    :param residue: mean number of files of deleted images, which is residue-seconds a second
    :param waits: seconds for which each file that went was residue
    :param reads: of the database, a second
    :param messages: to all hosts, a second; ``sent`` is the bytes a second
    :param oldest: seconds for which a file that is there at the end is residue
    :param wrong: live files that were removed
    :param times: of each read by the hosts that are simulated
    """

    residue: float = 0.0
    waits: list[float] = field(default_factory=list)
    reads: float = 0.0
    messages: float = 0.0
    sent: float = 0.0
    oldest: float = 0.0
    wrong: int = 0
    times: list[float] = field(default_factory=list)

    @property
    def wait(self) -> float:
        """Mean of the waits."""
        return sum(self.waits) / max(1, len(self.waits))

    def percentile(self, percent: float) -> float:
        """The wait below which that many percent lie."""
        return sorted(self.waits)[min(len(self.waits) - 1, int(len(self.waits) * percent / 100))]


class Bus:
    """One exchange: each message goes to the queue of each host."""

    def __init__(self, scenario: Scenario, timeline: Timeline, hosts: list[Host]) -> None:
        self._scenario, self._timeline, self._hosts = scenario, timeline, hosts
        self._random = random.Random(scenario.seed + 1)
        self._broker = Line()
        self.up = True
        self.messages = self.sent = 0

    def publish(self, image: str | None, count: int = 1) -> None:
        """A deletion; None for that many other messages."""
        scenario, now = self._scenario, self._timeline.now
        if not self.up or not count:
            return
        number = count * scenario.hosts
        self.messages += number
        self.sent += number * (costs.OTHER_BYTES if image is None else costs.DELETE_BYTES)
        takes = number / scenario.broker
        begins = self._broker.serve(now, takes) - takes + costs.BUS + scenario.delay
        payload: dict[str, object] = {"id": image}
        for place, host in enumerate(self._hosts, 1):
            if host.hears:
                arrival = begins + takes * place / len(self._hosts)
                taken = host.listener.serve(arrival, count * costs.LISTEN)
                if image is not None and self._random.random() >= scenario.loss:
                    self._timeline.at(taken, host.reported, payload)

    def fail(self, seconds: float) -> None:
        """The broker goes. Each host tries to connect again and again, and sweeps when it could."""
        self.up = False
        ends = self._timeline.now + seconds
        self._timeline.at(ends, setattr, self, "up", True)
        for host in self._hosts:
            host.hears = False
            every = RECONNECT_DELAY + backoff.within(RECONNECT_SPREAD)
            self._timeline.at(ends + -seconds % every, self._back, host)

    def _back(self, host: Host) -> None:
        host.hears = True
        host.queue.put(Sweep(), delay=BIND_TIME + backoff.within(SWEEP_SPREAD))


class Cloud:
    """Hosts, bus and database; Glance stages files and deletes images at random."""

    def __init__(self, scenario: Scenario, timeline: Timeline) -> None:
        self._scenario, self._timeline = scenario, timeline
        self._database = Database(self._timeline, scenario.lag)
        self._random = random.Random(scenario.seed)
        self._residue: dict[str, float] = {}  # since when, by name
        self._figures = Figures()
        self._present, self._counted, self._integral = 0, 0.0, 0.0
        count = (scenario.sample or scenario.hosts) // scenario.shared
        self._disks = [Disk(self._removed) for _ in range(count)]
        self._hosts = [self._host(disk) for disk in self._disks for _ in range(scenario.shared)]
        self._share = len(self._hosts) / scenario.hosts
        self._bus = Bus(scenario, self._timeline, self._hosts)

    def run(self) -> Figures:
        """Simulate; the figures of the time after the warming up."""
        scenario, timeline = self._scenario, self._timeline
        for disk in self._disks:
            for _ in range(scenario.live):
                self._write(disk, self._new_image())
        staged = scenario.rate * scenario.staged * self._share
        self._often(staged, self._stage_and_delete)
        self._often(scenario.rate * scenario.imports * self._share, self._import)
        self._often(scenario.rate - staged, lambda: self._bus.publish(NOWHERE))
        self._often(scenario.rate, lambda: self._bus.publish(None, scenario.others))
        if scenario.outage is not None:
            timeline.at(scenario.warm + scenario.outage[0], self._bus.fail, scenario.outage[1])
        timeline.run(scenario.warm)
        self._count(0)
        before = self._bus.messages, self._bus.sent
        self._figures, self._integral = Figures(), 0.0
        self._database.times = self._figures.times
        timeline.run(scenario.warm + scenario.seconds)
        self._count(0)
        timeline.close()
        found, seconds = self._figures, scenario.seconds
        found.residue = self._integral / seconds / self._share
        found.oldest = timeline.now - min(self._residue.values(), default=timeline.now)
        found.reads = len(found.times) / seconds / self._share
        found.messages = (self._bus.messages - before[0]) / seconds
        found.sent = (self._bus.sent - before[1]) / seconds
        return found

    def _host(self, disk: Disk) -> Host:
        alone, interval = self._scenario.shared == 1, self._scenario.sweep_interval
        phase = 0.0 if self._scenario.together else min(interval, self._scenario.warm)
        host = Host(
            self._timeline,
            disk,
            self._database,
            begins=self._random.uniform(0, phase),
            sweep_interval=interval,
            shared=not alone,
        )
        if alone:
            disk.watched_by.append(host.queue)
        return host

    def _often(self, rate: float, action: Callable[[], None]) -> None:
        """A Poisson process."""
        if rate > 0:
            self._after(self._random.expovariate(rate), self._now_and_again, rate, action)

    def _now_and_again(self, rate: float, action: Callable[[], None]) -> None:
        action()
        self._often(rate, action)

    def _after(self, seconds: float, action: Callable[..., object], *arguments: object) -> None:
        self._timeline.at(self._timeline.now + seconds, action, *arguments)

    def _new_image(self) -> str:
        digits = f"{self._random.getrandbits(128):032x}"
        image = "-".join([digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]])
        self._database.create(image)
        return image

    def _import(self) -> None:
        disk, image, life = self._staged()
        self._write(disk, image)
        self._after(life / 2, self._report, disk, image)
        self._after(life, disk.files.pop, image, None)

    def _stage_and_delete(self) -> None:
        disk, image, life = self._staged()
        converted = self._random.random() < self._scenario.converted
        name = f"{image}.uc" if converted else image
        if self._random.random() < self._scenario.late:
            self._delete(disk, name)
            self._after(life, self._write, disk, name)
        else:
            self._write(disk, name)
            self._after(life / 2, self._report, disk, name)
            self._after(life, self._delete, disk, name)

    def _staged(self) -> tuple[Disk, str, float]:
        life = self._random.expovariate(1 / self._scenario.lives)
        return self._random.choice(self._disks), self._new_image(), life

    def _write(self, disk: Disk, name: str) -> None:
        disk.files[name] = self._timeline.now
        if self._database.is_deleted(name[:36]):
            self._is_residue(name)
        self._report(disk, name)

    def _report(self, disk: Disk, name: str) -> None:
        for queue in disk.watched_by:
            if self._random.random() >= self._scenario.event_loss:
                self._after(costs.FILE_EVENT, queue.put, File(name))

    def _delete(self, disk: Disk, name: str) -> None:
        image = name[:36]
        if self._random.random() < self._scenario.shared / self._scenario.hosts:
            disk.files.pop(image, None)  # here the host that has it serves the call
        self._database.delete(image)
        if name in disk.files:
            self._is_residue(name)
        self._bus.publish(image)

    def _is_residue(self, name: str) -> None:
        self._count(+1)
        self._residue[name] = self._timeline.now

    def _removed(self, name: str) -> None:
        """A watcher has removed a file: was it right?"""
        self._figures.wrong += not self._database.is_deleted(name[:36])
        if (since := self._residue.pop(name, None)) is not None:
            self._count(-1)
            self._figures.waits.append(self._timeline.now - since)

    def _count(self, change: int) -> None:
        """The number of residue files changes."""
        now = self._timeline.now
        self._integral += self._present * (now - self._counted)
        self._counted, self._present = now, self._present + change


def simulate(scenario: Scenario) -> Figures:
    """What comes of a scenario: the same of the same, as long as sets of texts keep their order
    (PYTHONHASHSEED)."""
    state = random.getstate()
    random.seed(scenario.seed)
    try:
        timeline = Timeline()
        with in_step() if not scenario.jitter else nullcontext(), on_time(timeline):
            return Cloud(scenario, timeline).run()
    finally:
        random.setstate(state)


@contextmanager
def in_step() -> Iterator[None]:
    """Without jitter in the watchers' waits."""
    with (
        mock.patch.object(backoff, "around", lambda seconds, share: seconds),
        mock.patch.object(backoff, "within", lambda seconds: 0.0),
    ):
        yield


@contextmanager
def on_time(timeline: Timeline) -> Iterator[None]:
    """With the simulated time where the watcher's cleaning measures what it takes."""
    clock = SimpleNamespace(monotonic=lambda: timeline.now)
    with mock.patch.object(cleaner, "time", clock), mock.patch.object(reconciler, "time", clock):
        yield
