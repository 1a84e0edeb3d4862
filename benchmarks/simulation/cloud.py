# SPDX-License-Identifier: Apache-2.0
"""Many hosts on one bus and one database, what Glance does to them, and what comes of it."""

import math
import random
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from unittest import mock

from benchmarks.figures import percentile
from benchmarks.simulation import costs
from benchmarks.simulation.host import Database, Disk, Host
from benchmarks.simulation.timeline import Timeline
from watcher import backoff
from watcher.reconcile import cleaner, reconciler
from watcher.triggers.listener import RECONNECT_SPREAD, SWEEP_SPREAD
from watcher.workqueue import File, Sweep

NOWHERE = "00000000-0000-4000-8000-000000000000"  # an image of which no host has a file
RECONNECT_DELAY = 1.0  # seconds; oslo.messaging's default
BIND_TIME = 2.0  # seconds until the queue of a connected listener is consumed, at most


@dataclass(frozen=True)
class Scenario:
    """What is to be simulated; times in seconds, rates a second and of all hosts together."""

    hosts: int = 10
    sample: int | None = None  # that many hosts are simulated, and stand for all; None: all
    shared: int = 1  # hosts that share a staging directory, which has no file events then
    rate: float = 1.0  # deletions
    staged: float = 0.1  # share of the deletions whose image has a file staged, or gets one
    late: float = 0.1  # share of those whose file is written only after the deletion
    converted: float = 0.1  # share of those whose file has a suffix, which Glance doesn't look for
    imports: float = 0.9  # images that are staged and end well, for each deletion
    lives: float = 20.0  # mean time for which a file is staged, until the deletion or the end
    live: int = 0  # files of live images in each directory all the time
    others: int = 0  # other notifications for each deletion, to the same queues
    loss: float = 0.0  # share of the notifications that don't arrive, for each host by itself
    event_loss: float = 0.0  # share of the file events that aren't reported
    delay: float = 0.0  # of the bus, besides what an idle bus takes
    lag: float = 0.0  # of what is read from the database
    broker: float = math.inf  # messages a second that it hands out
    sweep_interval: float = 600.0
    jitter: bool = True  # in the watchers' waits
    outage: tuple[float, float] | None = None  # when the broker stops, and for how long
    together: bool = False  # all watchers begin at the same moment
    warm: float = 60.0  # time before anything is measured
    seconds: float = 600.0
    seed: int = 1


@dataclass(frozen=True)
class Figures:
    """What was measured; of all hosts, where only some are simulated."""

    residue: float  # mean number of files of deleted images: residue-seconds a second
    waits: list[float]  # seconds for which each file that was removed was residue
    reads: float  # of the database, a second
    messages: float  # to all hosts, a second
    sent: float  # bytes a second of these
    oldest: float  # seconds for which a file that is there at the end is residue
    wrong: int  # live files that were removed
    times: list[float]  # of each read by the hosts that are simulated

    @property
    def wait(self) -> float:
        """Mean of the waits."""
        return sum(self.waits) / max(1, len(self.waits))

    def percentile(self, percent: float) -> float:
        """The wait below which that many percent lie."""
        return percentile(self.waits, percent)


class Bus:
    """One exchange: each message goes to the queue of each host."""

    def __init__(self, scenario: Scenario, timeline: Timeline, hosts: list[Host]) -> None:
        self._scenario, self._timeline, self._hosts = scenario, timeline, hosts
        self._random = random.Random(scenario.seed + 1)
        self._free = 0.0  # moment at which all messages are handed out
        self._up_at = 0.0  # moment at which the broker's outage ends
        #: messages to all hosts since the warming up, and their bytes
        self.messages = self.sent = 0

    def publish(self, image: str | None, count: int = 1) -> None:
        """Send a deletion; None: that many other messages."""
        scenario, now = self._scenario, self._timeline.now
        if now < self._up_at or not count:
            return
        number = count * scenario.hosts
        if now > scenario.warm:
            self.messages += number
            self.sent += number * (costs.OTHER_BYTES if image is None else costs.DELETE_BYTES)
        takes = number / scenario.broker
        begins = max(self._free, now)
        self._free = begins + takes
        for place, host in enumerate(self._hosts, 1):
            if host.hears:
                sent = begins + takes * place / len(self._hosts)
                taken = host.receive(sent + costs.BUS + scenario.delay, count)
                if image is not None and self._random.random() >= scenario.loss:
                    self._timeline.at(taken, host.reported, image)

    def fail(self, seconds: float) -> None:
        """Stop the broker. Each host tries to connect again and again, and sweeps when it could."""
        self._up_at = self._timeline.now + seconds
        for host in self._hosts:
            host.hears = False
            every = RECONNECT_DELAY + backoff.within(RECONNECT_SPREAD)
            self._timeline.at(self._up_at + -seconds % every, self._connect, host)

    def _connect(self, host: Host) -> None:
        host.hears = True
        host.queue.put(Sweep(), delay=BIND_TIME + backoff.within(SWEEP_SPREAD))


class Cloud:
    """Hosts, bus and database; Glance stages files and deletes images at random."""

    def __init__(self, scenario: Scenario, timeline: Timeline) -> None:
        self._scenario, self._timeline = scenario, timeline
        self._database = Database(timeline, scenario.lag)
        self._random = random.Random(scenario.seed)
        count = (scenario.sample or scenario.hosts) // scenario.shared
        self._disks = [Disk(shared=scenario.shared > 1) for _ in range(count)]
        interval = scenario.sweep_interval
        phase = 0.0 if scenario.together else min(interval, scenario.warm)
        hosts = [
            Host(timeline, disk, self._database, interval, begins=self._random.uniform(0, phase))
            for disk in self._disks
            for _ in range(scenario.shared)
        ]
        self._share = len(hosts) / scenario.hosts  # of the hosts, simulated
        self._bus = Bus(scenario, timeline, hosts)

    def run(self) -> Figures:
        """Simulate from the beginning to the end."""
        scenario, timeline, bus = self._scenario, self._timeline, self._bus
        for disk in self._disks:
            for _ in range(scenario.live):
                self._write(disk, self._new_image())
        staged = scenario.rate * scenario.staged * self._share
        for rate, action in (
            (staged, self._stage_and_delete),
            (scenario.rate * scenario.imports * self._share, self._import),
            (scenario.rate - staged, partial(bus.publish, NOWHERE)),
            (scenario.rate, partial(bus.publish, None, scenario.others)),
        ):
            timeline.spawn(0.0, partial(self._often, rate, action))
        if scenario.outage is not None:
            begins, seconds = scenario.outage
            timeline.at(scenario.warm + begins, bus.fail, seconds)
        timeline.run(scenario.warm + scenario.seconds)
        timeline.close()
        return self._figures()

    def _figures(self) -> Figures:
        now, warm, seconds = self._timeline.now, self._scenario.warm, self._scenario.seconds
        removals = sorted(removal for disk in self._disks for removal in disk.removals)
        removed = [(at, self._since(name, written)) for at, name, written in removals if at > warm]
        left = [(now, self._since(*file)) for disk in self._disks for file in disk.files.items()]
        lasted = sum(until - max(since, warm) for until, since in removed + left if since <= until)
        times = [moment for moment in self._database.reads if moment > warm]
        return Figures(
            residue=lasted / seconds / self._share,
            waits=[at - since for at, since in removed if since <= at],
            reads=len(times) / seconds / self._share,
            messages=self._bus.messages / seconds,
            sent=self._bus.sent / seconds,
            oldest=max([0.0, *(now - since for _, since in left)]),
            wrong=sum(since > at for at, since in removed),
            times=times,
        )

    def _since(self, name: str, written: float) -> float:
        """Moment from which on a file is residue."""
        return max(written, self._database.deleted.get(name[:36], math.inf))

    def _often(self, rate: float, action: Callable[[], None]) -> None:
        """Do something that many times a second, at random: a Poisson process."""
        while rate > 0:
            self._timeline.sleep(self._random.expovariate(rate))
            action()

    def _after(self, seconds: float, action: Callable[..., object], *arguments: object) -> None:
        self._timeline.at(self._timeline.now + seconds, action, *arguments)

    def _new_image(self) -> str:
        image = str(uuid.UUID(int=self._random.getrandbits(128)))
        self._database.created[image] = self._timeline.now
        return image

    def _import(self) -> None:
        disk, image, life = self._staged()
        self._write(disk, image)
        self._after(life / 2, self._report, disk, image)
        self._after(life, disk.files.pop, image, None)

    def _stage_and_delete(self) -> None:
        disk, image, life = self._staged()
        name = f"{image}.uc" if self._random.random() < self._scenario.converted else image
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
        self._report(disk, name)

    def _report(self, disk: Disk, name: str) -> None:
        for queue in disk.queues:
            if self._random.random() >= self._scenario.event_loss:
                self._after(costs.FILE_EVENT, queue.put, File(name))

    def _delete(self, disk: Disk, name: str) -> None:
        image = name[:36]
        if self._random.random() < self._scenario.shared / self._scenario.hosts:
            disk.files.pop(image, None)  # here the host that has it serves the call
        self._database.deleted[image] = self._timeline.now
        self._bus.publish(image)


def simulate(scenario: Scenario) -> Figures:
    """Simulate a scenario; again the same figures, as long as sets of strings keep their order
    (PYTHONHASHSEED)."""
    timeline = Timeline()
    clock = SimpleNamespace(monotonic=lambda: timeline.now)
    in_step = mock.patch.multiple(backoff, around=lambda seconds, _: seconds, within=lambda _: 0.0)
    with (
        mock.patch.object(backoff, "random", random.Random(scenario.seed)),
        mock.patch.object(cleaner, "time", clock),
        mock.patch.object(reconciler, "time", clock),
        nullcontext() if scenario.jitter else in_step,
    ):
        return Cloud(scenario, timeline).run()
