# SPDX-License-Identifier: Apache-2.0
"""One host: the watcher's own code on a directory and a database that only exist in memory."""

import math
import os
import stat
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from benchmarks.simulation import costs
from benchmarks.simulation.timeline import Condition, Timeline
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
GRACE = 60
LIMIT = 1000  # of removals of files without a row
HERE = Identity(1, 1)


class Database(Images):
    """Glance's table; an answer takes its time.

    :param lag: seconds for which readers don't see a change
    """

    answered = math.inf  # always

    def __init__(self, timeline: Timeline, lag: float) -> None:
        self._timeline, self._lag = timeline, lag
        #: when each image was created and deleted, by id
        self.created: dict[str, float] = {}
        self.deleted: dict[str, float] = {}
        #: moments of the reads
        self.reads: list[float] = []

    def find(self, ids: Collection[str]) -> dict[str, Found]:
        """Answer as of the question: the older truth is the more dangerous one."""
        self.reads.append(self._timeline.now)
        found = {image: Found(self._state(image), None) for image in ids}
        self._timeline.sleep(costs.READ)
        return found

    def confirm_absent(self, ids: Collection[str]) -> dict[str, ImageState]:
        """Read once more."""
        return self.states(ids)

    def check(self) -> bool:
        """Find a row; there always is one."""
        return True

    def _state(self, image: str) -> ImageState:
        seen = self._timeline.now - self._lag
        if self.deleted.get(image, math.inf) <= seen:
            return ImageState.DELETED
        return ImageState.LIVE if self.created.get(image, math.inf) <= seen else ImageState.ABSENT


@dataclass
class Disk:
    """A staging directory; hosts that share it have the same one."""

    shared: bool
    #: when each was written, by name; no name comes twice
    files: dict[str, float] = field(default_factory=dict)
    #: moment of each removal by a watcher, the file's name, and when it was written
    removals: list[tuple[float, str, float]] = field(default_factory=list)
    #: queues that get its file events
    queues: list[WorkQueue] = field(default_factory=list)


class SimulatedStaging(Staging):
    """The directory as the real code looks at it; each look takes its time."""

    def __init__(self, timeline: Timeline, disk: Disk) -> None:
        super().__init__("/staging")
        self._timeline, self._disk = timeline, disk
        self.identity = HERE
        self.network = "nfs4" if disk.shared else None

    def __enter__(self) -> "SimulatedStaging":
        self._timeline.sleep(costs.HAND_OVER + costs.OPEN)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @contextmanager
    def _scan(self) -> Iterator[Iterator[os.DirEntry[str]]]:
        self._timeline.sleep(costs.LOOK * len(self._disk.files))
        entries: list[Any] = [
            SimpleNamespace(name=name, inode=lambda: 1) for name in self._disk.files
        ]
        yield iter(entries)

    def refusal(self) -> str | None:
        """Refuse nothing."""
        return None

    def lstat(self, name: str) -> os.stat_result:
        """Status of a file."""
        if name not in self._disk.files:
            raise FileNotFoundError(name)
        moment = EPOCH + self._disk.files[name]
        fields = (stat.S_IFREG, 1, 1, 1, 0, 0, 4096, moment, moment, moment)
        return os.stat_result(fields, {"st_blocks": 8})

    def remove(self, name: str, seen: os.stat_result | None) -> int | None:
        """Remove a file; it may have been removed meanwhile."""
        self._timeline.sleep(costs.DECIDE + costs.UNLINK)
        if (written := self._disk.files.pop(name, None)) is None:
            return None
        self._disk.removals.append((self._timeline.now, name, written))
        return 4096


class SimulatedQueue(WorkQueue):
    """The real one, on simulated time."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__(clock=lambda: timeline.now)
        self._changed = Condition(timeline)


class Host:
    """A watcher at work on a disk; begins at a moment, with a sweep, as the service does.

    :param interval: seconds between sweeps
    """

    def __init__(
        self, timeline: Timeline, disk: Disk, database: Database, interval: float, *, begins: float
    ) -> None:
        #: whether it is connected to the bus
        self.hears = True
        self._free = 0.0  # moment at which the listener's thread has taken all messages in
        self.queue = SimulatedQueue(timeline)
        if not disk.shared:
            disk.queues.append(self.queue)
        self._endpoint = Endpoint(self.queue, Stats())
        staging = SimulatedStaging(timeline, disk)
        watch: Any = SimpleNamespace(watching=HERE)  # its events are put by the simulation
        budget = RemovalBudget(LIMIT, clock=lambda: timeline.now)
        clock = AgeClock(lambda: EPOCH + timeline.now, lambda: timeline.now)
        planner = Planner(staging, database, budget, absent_grace=GRACE, trusted=False, clock=clock)
        reconciler = Reconciler(
            queue=self.queue,
            staging=staging,
            images=database,
            cleaner=Cleaner(staging, planner, Stats()),
            watch=watch,
            limits=Limits(interval, GRACE, LIMIT),
        )
        timeline.spawn(begins, lambda: deque(reconciler.run(), maxlen=0))

    def receive(self, arrival: float, count: int) -> float:
        """Take messages in, after those before; the moment at which that is done."""
        self._free = max(self._free, arrival) + count * costs.LISTEN
        return self._free

    def reported(self, image: str) -> None:
        """Handle the notification of an image's deletion."""
        self._endpoint.info(None, "image.host", "image.delete", {"id": image}, None)
