# SPDX-License-Identifier: Apache-2.0
"""What the watcher meets in the model: a directory, a lagging database, events, and time.

Directory and database are real; nothing happens in a thread, and time only passes on request.
"""

import errno
import logging
import os
import shutil
import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from watcher.database.images import Found, Images, ImageState
from watcher.database.server import Row
from watcher.database.sqlite import SQLite
from watcher.reconcile.age import AgeClock
from watcher.reconcile.budget import RemovalBudget
from watcher.reconcile.cleaner import MAX_DECISION_AGE, Cleaner, Pass
from watcher.reconcile.planner import Planner
from watcher.staging.directory import Identity, Staging
from watcher.stats import Stats

GRACE = 60.0
MAX_LAG = 50.0  # seconds; shorter than the grace, as the documentation demands
LIMIT = 2
DAY = 86400.0
GRAIN = 60.0  # seconds by which the watcher may count a day longer
SLOW = 3.0  # seconds for which a read, or what comes before a removal, may take
SLOW_REMOVAL = 6.0
OLDEST_DECISION = MAX_DECISION_AGE + 2 * SLOW + SLOW_REMOVAL  # at the end of a removal
START = 1_700_000_000.0
UNASKED = "ffffffff-ffff-4fff-8fff-ffffffffffff"


@dataclass
class Image:
    """One image on the primary; ``generation`` distinguishes those that had the same id."""

    row: ImageState = ImageState.ABSENT
    spelling: str = ""
    generation: int = 0
    changed: float = -1.0


@dataclass
class Entry:
    """One name in the directory; ``owner`` is the image, by generation, that it was made for."""

    inode: int
    kind: str  # file, link or directory
    changed: float
    owner: tuple[str, int] | None


class Database:
    """The primary, in memory, and the replica that the watcher reads: some statements behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._images: dict[str, Image] = {}
        self._behind: deque[tuple[float, str, str]] = deque()
        self._replica = sqlite3.connect(path, isolation_level=None)
        self._replica.execute("PRAGMA synchronous = OFF")
        self._replica.execute("PRAGMA journal_mode = MEMORY")
        self._replica.execute("CREATE TABLE images (id VARCHAR(36) PRIMARY KEY, deleted BOOLEAN)")

    def image(self, key: str) -> Image:
        """An image of the primary, by its canonical id."""
        return self._images.setdefault(key, Image())

    def write(self, statement: str, image: Image, now: float) -> None:
        """The primary has executed it; the replica will."""
        image.changed = now
        self._behind.append((now, statement, image.spelling))

    def replicate(self, until: float) -> None:
        """The replica catches up with what was committed until then."""
        while self._behind and self._behind[0][0] <= until:
            _, statement, spelling = self._behind.popleft()
            self._replica.execute(statement, (spelling,))

    def lags_for(self, key: str) -> bool:
        """Whether the replica doesn't show that image as it is."""
        return any(spelling.lower() == key for _, _, spelling in self._behind)

    def close(self) -> None:
        """Close the replica."""
        self._replica.close()


@dataclass
class World:
    """All that is true at a moment, and the check of removals."""

    home: Path
    now: float = START
    fault: str = ""
    deaf: bool = False
    stopping: bool = False
    duration: float = 0.0  # of each removal
    entries: dict[str, Entry] = field(default_factory=dict)
    #: happen one by one, at each of the watcher's reads of the database
    at_reads: deque[Callable[[], None]] = field(default_factory=deque)
    removing: str = ""  # name of the file that is about to be removed
    #: happen one by one, just before each removal
    at_removals: deque[Callable[[], None]] = field(default_factory=deque)
    #: ids that the database called deleted since the current work began, and when
    shown_deleted: dict[str, float] = field(default_factory=dict)
    #: ids of which it stated that there is no row, and when
    stated_absent: dict[str, float] = field(default_factory=dict)
    #: what was wrong with the last stating read
    stated: str = ""
    #: the watcher has been shown a row of an image that Glance named here, since its start
    witnessed: bool = False
    #: moments at which files without a row were removed since its start
    absent_removals: list[float] = field(default_factory=list)
    removals: int = 0
    sweeps: int = 0

    def __post_init__(self) -> None:
        self.path = self.home / "staging"
        self.path.mkdir()
        self.database = Database(self.home / "glance.sqlite")

    def listing(self) -> set[str]:
        """Names in the directory; none while there is no directory."""
        return set(os.listdir(self.path)) if self.path.is_dir() else set()

    def live(self, key: str) -> bool:
        """Whether the primary has a live image of that id."""
        return self.database.image(key).row is ImageState.LIVE

    def within_a_day(self, longer: float = 0) -> int:
        """Removals of files without a row in the last 24 hours, or a little longer."""
        return sum(moment > self.now - DAY - longer for moment in self.absent_removals)

    def check_removal(self, name: str) -> None:
        """The watcher has removed that name: was it right, by what is true now?"""
        entry = self.entries.pop(name)
        self.removals += 1
        assert entry.kind != "directory", f"{name} is a directory"
        assert entry.owner is not None, f"{name} is not an image file"
        key, generation = entry.owner
        current = self.database.image(key).generation == generation
        assert not (current and self.live(key)), f"{name} belongs to a live image"
        action = self.shown_deleted.get(key)
        if action is None:
            assert key in self.stated_absent, f"{name} was removed without a statement"
            action = self.stated_absent[key]
            assert not self.stated, f"{name} was removed on an answer that is {self.stated}"
            assert self.witnessed, f"{name} was removed by a database that nothing vouches for"
            assert self.now - entry.changed >= GRACE, f"{name} is young, and has no row"
            self.absent_removals.append(self.now)
            assert self.within_a_day() <= LIMIT, f"{name} is one too many"
        assert self.now - action <= OLDEST_DECISION, f"{name} was removed on an old decision"

    def close(self) -> None:
        """Leave nothing behind."""
        self.database.close()
        shutil.rmtree(self.home)


class FaultyServer(SQLite):
    """The replica's server, whose answers are wrong in the way that the world asks for."""

    def __init__(self, world: World) -> None:
        super().__init__({"database": world.database.path})
        self._world = world
        self._others = {
            "empty": SQLite({"database": ":memory:"}),
            "of another Glance": SQLite({"database": ":memory:"}),
        }
        for other in self._others.values():
            other.ask("CREATE TABLE images (id VARCHAR(36) PRIMARY KEY, deleted BOOLEAN)")
        self._others["of another Glance"].ask("INSERT INTO images VALUES ('another', 0)")

    def find(self, ids: Sequence[str]) -> list[Row]:
        """Images that have a row."""
        rows = super().find(ids)
        if self._world.fault == "cut":
            return rows[:-1]
        if self._world.fault == "uncommitted":
            return [(row_id, 1, "READ UNCOMMITTED", None) for row_id, *_ in rows]
        if self._world.fault == "in doubt":
            return [(row_id, None, *others) for row_id, _, *others in rows]
        return rows

    def state(self, ids: Sequence[str], *, causal: bool = False) -> list[Row]:
        """One row for each id asked for."""
        rows = super().state(ids, causal=causal)
        if self._world.fault == "cut":
            return rows[:-1]
        if self._world.fault == "doubled":
            return [*rows[1:], rows[-1]]
        if self._world.fault == "uncommitted":
            return [(key, None, None, "READ UNCOMMITTED", 0) for key, *_ in rows]
        if self._world.fault == "foreign":
            return [*rows[1:], (UNASKED, None, *rows[0][2:])]
        if self._world.fault == "of a replica":
            return [(*row[:4], 1) for row in rows]
        return rows

    def _ask(self, sql: str, parameters: Sequence[str]) -> list[Row]:
        if self._world.fault == "an error":
            raise OSError("gone away")
        other = self._others.get(self._world.fault)
        return other.ask(sql, parameters) if other else super()._ask(sql, parameters)


class ReplicaImages(Images):
    """Reads the replica, and notes what the watcher was shown."""

    def __init__(self, world: World) -> None:
        super().__init__(f"sqlite:///{world.database.path}")
        self._server, self._world = FaultyServer(world), world

    def find(self, ids: Collection[str]) -> dict[str, Found]:
        """The first read."""
        _one_of(self._world.at_reads)
        images = super().find(ids)
        self._noted({key: image.state for key, image in images.items()})
        return images

    def confirm_absent(self, ids: Collection[str]) -> dict[str, ImageState]:
        """The stating read."""
        _one_of(self._world.at_reads)
        # Rows in doubt are what the first read shows; the statement is about their absence.
        self._world.stated = self._world.fault if self._world.fault != "in doubt" else ""
        states = self._noted(super().confirm_absent(ids))
        for key, state in states.items():
            if state is ImageState.ABSENT:
                self._world.stated_absent[key.lower()] = self._world.now
        return states

    def _noted(self, states: dict[str, ImageState]) -> dict[str, ImageState]:
        for key, state in states.items():
            if state is ImageState.DELETED:
                self._world.shown_deleted[key.lower()] = self._world.now
        known = {ImageState.LIVE, ImageState.DELETED}
        self._world.witnessed = self._world.witnessed or bool(known & set(states.values()))
        return states


class CheckedStaging(Staging):
    """Checks each removal at the moment when it is done."""

    def __init__(self, world: World) -> None:
        super().__init__(f"{world.path}/")
        self._world = world

    def listing(self) -> Iterator[str]:
        """All names, in an order that doesn't depend on the file system."""
        return iter(sorted(super().listing()))

    def remove(self, name: str, seen: os.stat_result | None) -> int | None:
        """Remove, and check all that vanished."""
        assert not self._world.stopping, f"{name} is to be removed after the stop"
        self._world.removing = name
        _one_of(self._world.at_removals)
        self._world.removing = ""
        self._world.now += self._world.duration
        try:
            return super().remove(name, seen)
        finally:
            for gone in self._world.entries.keys() - self._world.listing():
                self._world.check_removal(gone)


def new_cleaner(world: World, staging: Staging, images: Images) -> Cleaner:
    """The cleaner, on the model's time."""
    budget = RemovalBudget(LIMIT, clock=lambda: world.now)
    planner = Planner(
        staging, images, budget, absent_grace=GRACE, trusted=False, clock=ModelClock(world)
    )
    return CountedCleaner(world, staging, planner)


class CountedCleaner(Cleaner):
    """Counts its sweeps, also those that were started and went on later."""

    def __init__(self, world: World, staging: Staging, planner: Planner) -> None:
        super().__init__(staging, planner, Stats())
        self._world = world

    def sweep(self, *, count: int | None = None) -> Pass:
        """A sweep begins."""
        self._world.sweeps += 1
        return super().sweep(count=count)


class ModelClock(AgeClock):
    """The real one on the model's time: a file's mtime is set, its ctime can't be."""

    def __init__(self, world: World) -> None:
        super().__init__(lambda: world.now, lambda: world.now - START)
        self._world = world

    def age(self, status: os.stat_result) -> float:
        """Age by the times that the model knows."""
        entries = self._world.entries.values()
        changed = next((e.changed for e in entries if e.inode == status.st_ino), 0.0)
        return super().age(os.stat_result((*status[:8], status.st_mtime, changed)))


class ModelWatch:
    """What is watched; the model puts the events on the queue itself, or doesn't."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._followed: Identity | None = None
        self.waiting = False
        self.failure: str | None = None

    @property
    def watching(self) -> Identity | None:
        """The directory that is watched."""
        return self._followed

    def follow(self, staging: Staging) -> None:
        """Watch it, unless there are no watches left."""
        self._followed, self.waiting = None, False
        if self._world.deaf:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._followed = staging.identity

    def wait_for(self, path: str) -> None:
        """Watch for the directory to come."""
        self._followed, self.waiting = None, not self._world.deaf


class Lines(logging.Handler):
    """Reads the cleaner's lines as operators do: what each pass found, and its result."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._open: list[int] = []
        self.passes: list[tuple[int, dict[str, int]]] = []
        #: a pass ended that began before
        self.went_on = False

    @property
    def unfinished(self) -> int:
        """Passes that found files and have not said how they ended."""
        return len(self._open)

    def begin(self) -> None:
        """Forget all."""
        self._open.clear()
        self.passes.clear()
        self.went_on = False

    def emit(self, record: logging.LogRecord) -> None:
        """A pass of events may lie within a sweep."""
        text = record.getMessage()
        if text.startswith("Found "):
            if (number := text.split()[1]).isdigit():
                self._open.append(int(number))
        elif text.startswith("Cleaned "):
            words = text.replace("(", "").split()
            counts = {"cleaned": int(words[1]), "ignored": int(words[5]), "error": int(words[7])}
            if self._open:
                self.passes.append((self._open.pop(), counts))
            else:
                self.went_on = True


def _one_of(things: deque[Callable[[], None]]) -> None:
    if things:
        things.popleft()()
