# SPDX-License-Identifier: Apache-2.0
"""One host: the watcher's own code on a directory and a database that only exist in memory."""

import math
import os
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from benchmarks.simulation import costs
from benchmarks.simulation.timeline import Condition, Line, Timeline
from watcher.conf import Limits
from watcher.database.images import Found, Images, ImageState
from watcher.reconcile.age import AgeClock
from watcher.reconcile.budget import RemovalBudget
from watcher.reconcile.cleaner import Cleaner
from watcher.reconcile.planner import Planner
from watcher.reconcile.reconciler import Reconciler
from watcher.staging.directory import Identity, Staging
from watcher.stats import Stats
from watcher.triggers.listener import Endpoint
from watcher.workqueue import WorkQueue

EPOCH = 1_700_000_000.0  # what the wall clock shows at the beginning
NEVER = float("inf")
GRACE = 60
HERE = Identity(1, 1)


class Database:
    """Rows of images, and how far what is read is behind them.

    :param lag: seconds
    """

    def __init__(self, timeline: Timeline, lag: float) -> None:
        self._timeline, self._lag = timeline, lag
        self._rows: dict[str, tuple[float, float]] = {}
        #: of each read
        self.times: list[float] = []

    def create(self, image: str) -> None:
        """A row, of a live image."""
        self._rows[image] = (self._timeline.now, NEVER)

    def delete(self, image: str) -> None:
        """It is marked as deleted."""
        self._rows[image] = (self._rows[image][0], self._timeline.now)

    def is_deleted(self, image: str) -> bool:
        """Whether it truly is, not what a reader sees."""
        return self._rows[image][1] <= self._timeline.now

    def read(self, images: Collection[str]) -> dict[str, ImageState]:
        """What a reader sees."""
        self.times.append(self._timeline.now)
        seen = self._timeline.now - self._lag
        return {image: self._state(image, seen) for image in images}

    def _state(self, image: str, moment: float) -> ImageState:
        created, deleted = self._rows.get(image, (NEVER, NEVER))
        if created > moment:
            return ImageState.ABSENT
        return ImageState.LIVE if deleted > moment else ImageState.DELETED


class SimulatedImages(Images):
    """Glance's table; an answer takes its time."""

    def __init__(self, timeline: Timeline, database: Database) -> None:
        self._timeline, self._database = timeline, database
        self.answered = math.inf  # it always does

    def find(self, ids: Collection[str]) -> dict[str, Found]:
        """As they were when the question came: the older truth is the more dangerous one."""
        states = self._database.read(ids)
        self._timeline.sleep(costs.READ)
        return {key: Found(state, None) for key, state in states.items()}

    def confirm_absent(self, ids: Collection[str]) -> dict[str, ImageState]:
        """The second read."""
        return self.states(ids) if ids else {}

    def check(self) -> bool:
        """There is always a row."""
        return True


@dataclass
class Disk:
    """A staging directory; hosts that share it have the same one.

    :param on_removed: called with the name of what a watcher removed
    """

    on_removed: Callable[[str], None]
    #: when each was written, by name; no name comes twice
    files: dict[str, float] = field(default_factory=dict)
    #: queues that hear of its files from the kernel
    watched_by: list[WorkQueue] = field(default_factory=list)


class _Entry(NamedTuple):
    name: str

    def inode(self) -> int:
        return 1


class SimulatedStaging(Staging):
    """The directory as the real code looks at it; each look takes its time."""

    def __init__(self, timeline: Timeline, disk: Disk, *, shared: bool) -> None:
        super().__init__("/staging")
        self._timeline, self._disk = timeline, disk
        self.network = "nfs4" if shared else None

    def __enter__(self) -> "SimulatedStaging":
        self._timeline.sleep(costs.HAND_OVER + costs.OPEN)
        self.identity = HERE
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @contextmanager
    def _scan(self) -> Iterator[Iterator[os.DirEntry[str]]]:
        self._timeline.sleep(costs.LOOK * len(self._disk.files))
        entries = [_Entry(name) for name in self._disk.files]
        yield cast(Iterator[os.DirEntry[str]], iter(entries))

    def refusal(self) -> str | None:
        """Nothing is refused."""
        return None

    def lstat(self, name: str) -> os.stat_result:
        """Status of a file."""
        if name not in self._disk.files:
            raise FileNotFoundError(name)
        moment = EPOCH + self._disk.files[name]
        fields = (stat.S_IFREG, 1, 1, 1, 0, 0, 4096, moment, moment, moment)
        return os.stat_result(fields, {"st_blocks": 8})

    def remove(self, name: str, seen: os.stat_result | None) -> int | None:
        """Remove a file; it may have gone by then."""
        self._timeline.sleep(costs.DECIDE + costs.UNLINK)
        if self._disk.files.pop(name, None) is None:
            return None
        self._disk.on_removed(name)
        return 4096


class SimulatedWatch:
    """A watch that is always there; its events are put on the queue by the simulation."""

    @property
    def watching(self) -> Identity | None:
        """The one directory there is."""
        return HERE

    @property
    def failure(self) -> str | None:
        """It doesn't fail."""
        return None

    def follow(self, staging: Staging) -> None:
        """It is watched already."""

    def wait_for(self, path: str) -> None:
        """It is there."""


class SimulatedQueue(WorkQueue):
    """The real one, on simulated time."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__(clock=lambda: timeline.now)
        self._changed = Condition(timeline)


class Host:
    """A watcher at work on a disk; begins at a moment, with a sweep, as the service does.

    :param sweep_interval: seconds
    :param shared: other hosts write to the same directory
    """

    def __init__(
        self,
        timeline: Timeline,
        disk: Disk,
        database: Database,
        *,
        begins: float,
        sweep_interval: float,
        shared: bool,
    ) -> None:
        #: the listener's thread: messages are taken in one after the other
        self.listener = Line()
        #: whether it is connected to the bus
        self.hears = True
        self.queue = SimulatedQueue(timeline)
        self._endpoint = Endpoint(self.queue, Stats())
        staging = SimulatedStaging(timeline, disk, shared=shared)
        images = SimulatedImages(timeline, database)
        budget = RemovalBudget(1000, clock=lambda: timeline.now)
        clock = AgeClock(lambda: EPOCH + timeline.now, lambda: timeline.now)
        planner = Planner(staging, images, budget, absent_grace=GRACE, trusted=False, clock=clock)
        reconciler = Reconciler(
            queue=self.queue,
            staging=staging,
            images=images,
            cleaner=Cleaner(staging, planner, Stats()),
            watch=SimulatedWatch(),
            limits=Limits(sweep_interval, GRACE, 1000),
        )
        timeline.spawn(begins, lambda: deque(reconciler.run(), maxlen=0))

    def reported(self, payload: dict[str, object]) -> None:
        """A notification was taken in."""
        self._endpoint.info(None, "image.host", "image.delete", payload, None)
