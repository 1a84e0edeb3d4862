# SPDX-License-Identifier: Apache-2.0
"""The reconciler against a simple model of what is allowed, over random interleavings.

Reconciler, cleaner, planner, queue, staging directory and SQLite are the real ones. The model makes
things happen, between the watcher's steps and within them, and knows what is true on the primary;
the watcher reads a replica that lags by less than the grace, through a server whose answers may be
cut, doubled, uncommitted, empty, of another Glance, or an error. Three rules must hold:

* no file of a live image is ever removed, also not of a restored one that is staged again; nor a
  young one without a row, nor one without a row by an answer that isn't whole or that no witness
  vouches for, nor more of those in 24 hours than the limit, nor what is not an image file;
* once the faults have ended, one sweep leaves no residue (but what the limit keeps for the next
  day), and events have their effect at once, also those reported during a fault;
* what a pass says to have cleaned, ignored and failed to remove adds up to what it found.

``test_mutants.py`` breaks the code in many ways, each of which the model must find.

The normal run takes the same examples each time. A longer search, with other examples each time::

    MODEL_EXAMPLES=5000 python -m pytest tests/model
"""

import itertools
import logging
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.model.world import (
    DAY,
    GRACE,
    GRAIN,
    LIMIT,
    MAX_LAG,
    Entry,
    JudgedStaging,
    Lines,
    ModelWatch,
    ReplicaImages,
    World,
    new_cleaner,
)
from watcher.conf import Limits
from watcher.database import images as images_module
from watcher.database.images import ImageState
from watcher.reconcile import cleaner as cleaner_module
from watcher.reconcile import reconciler as reconciler_module
from watcher.reconcile.planner import FIRST_RECHECK
from watcher.reconcile.reconciler import JITTER, LAG_JITTER, Reconciler
from watcher.staging.directory import Identity
from watcher.workqueue import Directory, File, Image, Key, Sweep, WorkQueue

Meanwhile = Sequence[tuple[str | int, ...]]

LOGGER = logging.getLogger("watcher")
LONGER = int(os.environ.get("MODEL_EXAMPLES", "0"))
PARTS = 4  # for pytest-xdist

SWEEP_INTERVAL = 300
LATEST_SWEEP = SWEEP_INTERVAL * (1 + JITTER)
LONGEST_WAIT = max(LATEST_SWEEP, 60.0)  # seconds to the next sweep, whatever happened
LATEST_RECHECK = FIRST_RECHECK * (1 + LAG_JITTER)

IDS = [f"abcdefab-cdef-4abc-8def-abcdefabcde{number}" for number in range(2)]
FOREIGN = [f"running-task-{IDS[0]}", f"{IDS[1]}x.uc"]
NAMES = [
    f"{spelling}{suffix}"
    for image in IDS
    for spelling in (image, image.upper())
    for suffix in ("", ".uc")
]

ids = st.sampled_from(IDS)
names = st.sampled_from(NAMES + FOREIGN)
numbers = st.integers(0, 3)
fates = st.sampled_from(["told", "lost", "doubled", "late"])
faults = st.sampled_from(
    ["", "", "", "an error", "empty", "cut", "doubled", "uncommitted", "of another Glance"]
)
waits = st.sampled_from([0.0, 0.0, 0.5, 5.0, MAX_LAG - 5, GRACE + 5, GRACE + 5, SWEEP_INTERVAL])
of_files = [
    st.tuples(st.just("write"), names, fates),
    st.tuples(st.just("write_on"), fates),
    st.tuples(st.just("rename"), numbers, names, fates),
    st.tuples(st.just("swap"), st.booleans(), fates),
    st.tuples(st.just("stop")),
]
of_rows = [
    st.tuples(st.just("create"), ids, st.booleans()),
    st.tuples(st.just("delete"), ids, st.booleans(), fates),
    st.tuples(st.just("purge"), ids),
    st.tuples(st.just("restore"), ids),
    st.tuples(st.just("replicate")),
    st.tuples(st.just("database"), faults),
]
at_any_time = st.lists(st.one_of(*of_files, *of_rows), max_size=3)
in_the_directory = st.lists(st.one_of(*of_files), max_size=3)


class Model(RuleBasedStateMachine):
    """Glance, its database, the events and the operator, each at its worst."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Path(tempfile.mkdtemp(prefix="model-")))
        self.lines = Lines()
        self.late: list[Key] = []
        self.numbers = itertools.count(1)
        self.replaced = False
        self.away: dict[Path, set[str]] = {}
        self.images: ReplicaImages | None = None
        LOGGER.addHandler(self.lines)
        self.restart()

    # What Glance does.

    @rule(key=ids, upper=st.booleans())
    def create(self, key: str, upper: bool) -> None:
        """An id comes again only once its row is gone, and everyone has seen that it is."""
        image, now = self.world.database.image(key), self.world.now
        seen_gone = image.changed < now and not self.world.database.lags_for(key)
        if image.row is ImageState.ABSENT and seen_gone:
            image.row, image.spelling = ImageState.LIVE, key.upper() if upper else key
            image.generation += 1
            self.world.database.write("INSERT INTO images VALUES (?, 0)", image, now)

    @rule(name=names, fate=fates)
    def write(self, name: str, fate: str) -> None:
        """Stage, or write what nobody waits for any more; Glance makes the directory, too."""
        entry = self.world.entries.get(name)
        if entry is None or entry.kind == "file":
            self._make_directory(fate)
            path = self.world.path / name
            path.write_bytes(b"x" * next(self.numbers))
            self._date(path)
            self._note(name, fate)

    @rule(fate=fates)
    def write_on(self, fate: str) -> None:
        """All that was begun is written to."""
        for name in sorted(self.world.entries):
            self.write(name, fate)

    @rule(name=names, link=st.booleans(), fate=fates)
    def obstruct(self, name: str, link: bool, fate: str) -> None:
        """Something that isn't a file has an image's name."""
        if self.world.path.is_dir() and name not in self.world.entries:
            path = self.world.path / name
            if link:
                path.symlink_to(self.world.database.path)
            else:
                path.mkdir()
            self._date(path)
            self._note(name, fate, kind="link" if link else "directory")

    @rule(number=numbers, to=names, fate=fates)
    def rename(self, number: int, to: str, fate: str) -> None:
        """A file gets another name, perhaps one that was in use."""
        entries = self.world.entries
        files = sorted(name for name, entry in entries.items() if entry.kind == "file")
        name = files[number % len(files)] if files else to
        if name != to and (to not in entries or entries[to].kind != "directory"):
            (self.world.path / name).rename(self.world.path / to)
            del entries[name]
            self._note(to, fate)

    @rule(key=ids, here=st.booleans(), fate=fates)
    def delete(self, key: str, here: bool, fate: str) -> None:
        """Only the host that serves the call removes the staged file, of one name only."""
        image = self.world.database.image(key)
        if image.row is ImageState.LIVE:
            entry = self.world.entries.get(image.spelling)
            if here and entry and entry.kind != "directory":
                (self.world.path / image.spelling).unlink()
                del self.world.entries[image.spelling]
            image.row = ImageState.DELETED
            self.world.database.write(
                "UPDATE images SET deleted = 1 WHERE id = ?", image, self.world.now
            )
            self._tell(Image(key), fate)

    @rule(key=ids)
    def purge(self, key: str) -> None:
        image = self.world.database.image(key)
        if image.row is ImageState.DELETED:
            image.row = ImageState.ABSENT
            self.world.database.write("DELETE FROM images WHERE id = ?", image, self.world.now)

    @rule(key=ids)
    def restore(self, key: str) -> None:
        """As ``glance-scrubber --restore`` does, where everyone knows of the deletion; only what
        is staged after that belongs to the image."""
        image = self.world.database.image(key)
        if image.row is ImageState.DELETED and not self.world.database.lags_for(key):
            image.row = ImageState.LIVE
            image.generation += 1
            now = self.world.now
            self.world.database.write("UPDATE images SET deleted = 0 WHERE id = ?", image, now)
            self.world.database.replicate(now)

    # What goes wrong.

    @rule()
    def deliver(self) -> None:
        """What is late comes at last."""
        for key in self.late:
            self.queue.put(key)
        self.late.clear()

    @rule(key=ids, name=names)
    def forge(self, key: str, name: str) -> None:
        """Events of what didn't happen."""
        self.queue.put(Image(key))
        self.queue.put(File(name))

    @rule()
    def replicate(self) -> None:
        self.world.database.replicate(self.world.now)

    @rule(fault=faults)
    def database(self, fault: str) -> None:
        self.world.fault = fault

    @rule(deaf=st.booleans())
    def watches(self, deaf: bool) -> None:
        """There are no inotify watches left, or there are again."""
        self.world.deaf = deaf

    @rule(again=st.booleans(), fate=fates)
    def swap(self, again: bool, fate: str) -> None:
        """The directory is moved away, and another one is made, perhaps later."""
        if self.world.path.is_dir():
            watched = self.watch.watching == self._identity()
            self.replaced = True
            away = self.world.home / f"away-{next(self.numbers)}"
            self.world.path.rename(away)
            self.away[away] = set(self.world.entries)
            self.world.entries.clear()
            if watched:
                self._tell(Directory(), fate)
        if again:
            self._make_directory(fate)

    def stop(self) -> None:
        """SIGTERM while it works."""
        self.world.stopping = True

    @rule()
    def restart(self) -> None:
        """What the old one knew is lost."""
        if self.images is not None:
            self.images.close()
        self.world.stopping = self.world.witnessed = False
        self.world.absent_removals.clear()
        self.images = ReplicaImages(self.world)
        self.queue = WorkQueue(lambda: self.world.now)
        self.queue._changed.wait = lambda timeout=None: True  # type: ignore[method-assign]
        self.watch = ModelWatch(self.world)
        staging = JudgedStaging(self.world)
        clock = SimpleNamespace(monotonic=lambda: self.world.now)
        setattr(reconciler_module, "time", clock)  # noqa: B010
        setattr(cleaner_module, "time", clock)  # noqa: B010
        self.reconciler = Reconciler(
            queue=self.queue,
            staging=staging,
            images=self.images,
            cleaner=new_cleaner(self.world, staging, self.images),
            watch=self.watch,
            limits=Limits(SWEEP_INTERVAL, int(GRACE), LIMIT),
        )
        self.queue.put(Sweep())

    # Time, and the watcher's work.

    @rule(seconds=waits)
    def wait(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.database.replicate(self.world.now - MAX_LAG)

    @rule(seconds=waits, at_reads=at_any_time, at_removals=in_the_directory)
    def work(self, seconds: float, at_reads: Meanwhile = (), at_removals: Meanwhile = ()) -> None:
        """The watcher takes what is due by then."""
        self.wait(seconds)
        self.world.at_reads = self._things(at_reads)
        self.world.at_removals = self._things(at_removals)
        self.world.shown_deleted.clear()
        self.world.removals = 0
        self.lines.begin()
        self.replaced = False
        self.queue.put(Directory())
        self.reconciler._apply_limits()
        for _ in self.reconciler._reconcile(self.queue.take()):
            if self.world.stopping:
                break
        assert self.world.listing() == self.world.entries.keys()
        for path, left in self.away.items():
            assert set(os.listdir(path)) == left, "nothing goes from a directory moved away"
        if not self.world.stopping:
            for found, counts in self.lines.passes:
                assert sum(counts.values()) == found, f"{counts} of {found}"
            failed = bool(self.reconciler.conditions["database"].cause)
            assert failed or self.replaced or not self.lines.unfinished
        if not at_reads and not at_removals and len(self.lines.passes) == 1:
            cleaned = self.lines.passes[0][1]["cleaned"]
            assert self.lines.went_on or cleaned == self.world.removals
        if self.world.stopping:
            self.restart()

    # What must come of it.

    @precondition(lambda self: self.world.entries)
    @rule()
    def faults_end(self) -> None:
        """The next sweep sees to everything, and later events to the rest."""
        self.world.fault, self.world.deaf = "", False
        self.world.path.mkdir(exist_ok=True)
        self.replicate()
        witness = self._new_id()
        self.create(witness, upper=False)
        self.replicate()
        self.write(witness, "lost")
        if self.reconciler._sweep is not None:
            self._sweep(LONGEST_WAIT)  # it ends what it began
        self._sweep(LONGEST_WAIT)
        while residue := self._residue():
            assert not {ImageState.DELETED} & {self._row(name) for name in residue}
            assert self.world.within_a_day(GRAIN) == LIMIT, f"{residue} are left"
            self._sweep(DAY + LATEST_SWEEP)
        self._prompt()
        self._prompt_after_a_fault()

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None and self.world.entries:
                self.faults_end()
        finally:
            LOGGER.removeHandler(self.lines)
            if self.images is not None:
                self.images.close()
            self.world.close()

    def _sweep(self, seconds: float) -> None:
        before = self.world.sweeps
        went_on = self.reconciler._sweep is not None
        self.work(seconds)
        assert self.world.sweeps + went_on >= before + 1, "it was time for a sweep"

    def _prompt(self) -> None:
        """What events tell of goes at once, or when the replica shows it, or when it is old."""
        key = self._new_id()
        mine = [f"{key}.uc", key]
        self.create(key, upper=False)
        self.replicate()
        for name in mine:
            self.write(name, "told")
        self.work(0)
        assert self.world.entries.keys() >= set(mine)
        self.delete(key, here=False, fate="told")
        self.work(0)
        self.replicate()
        self.work(LATEST_RECHECK)
        assert not self.world.entries.keys() & set(mine)
        self.write(f"{key}.raw", "told")
        self.work(0)
        assert f"{key}.raw" not in self.world.entries
        unknown = self._new_id()
        if self.world.within_a_day() < LIMIT:
            self.write(unknown, "told")
            self.work(GRACE - 0.1)
            assert unknown in self.world.entries
            self.work(0.2 + GRACE * JITTER)
            assert unknown not in self.world.entries, "its grace is over"

    def _prompt_after_a_fault(self) -> None:
        """Of two notifications one finds out that the database is gone, and one knows it. When it
        is back it lags, and still they need not wait for another sweep."""
        told = [self._new_id() for _ in range(2)]
        mine = [told[0], f"{told[1]}.uc"]
        for key in told:
            self.create(key, upper=False)
        self.replicate()
        for name in mine:
            self.write(name, "told")
        self.work(0)
        self.world.fault = "an error"
        for key in told:
            self.delete(key, here=False, fate="told")
            self.work(0)
        self.world.fault = ""
        self._sweep(1)
        assert self.world.entries.keys() >= set(mine)
        self.replicate()
        for _ in range(2):  # the second may have been put back when the first one failed
            self.work(LATEST_RECHECK)
        assert not self.world.entries.keys() & set(mine)

    def _new_id(self) -> str:
        return f"{next(self.numbers):08x}-0000-4000-8000-000000000000"

    def _residue(self) -> set[str]:
        return {
            name
            for name, entry in self.world.entries.items()
            if entry.kind != "directory" and entry.owner and not self.world.live(entry.owner[0])
        }

    def _row(self, name: str) -> ImageState:
        return self.world.database.image(_key(name)).row

    def _things(self, meanwhile: Meanwhile) -> deque[Callable[[], None]]:
        return deque(partial(getattr(self, str(what)), *how) for what, *how in meanwhile)

    def _make_directory(self, fate: str) -> None:
        if not self.world.path.is_dir():
            self.world.path.mkdir()
            if self.watch.waiting:
                self._tell(Directory(), fate)

    def _date(self, path: Path) -> None:
        os.utime(path, (self.world.now, self.world.now), follow_symlinks=False)

    def _note(self, name: str, fate: str, *, kind: str = "file") -> None:
        key = _key(name)
        owner = (key, self.world.database.image(key).generation) if key else None
        inode = os.lstat(self.world.path / name).st_ino
        self.world.entries[name] = Entry(inode, kind, self.world.now, owner)
        if self.watch.watching == self._identity():
            self._tell(File(name), fate)

    def _identity(self) -> Identity:
        status = self.world.path.stat()
        return Identity(status.st_dev, status.st_ino)

    def _tell(self, key: Key, fate: str) -> None:
        if fate in ("told", "doubled"):
            self.queue.put(key)
        if fate in ("late", "doubled"):
            self.late.append(key)


def _key(name: str) -> str:
    stem = name.lower().partition(".")[0]
    return stem if len(stem) == len(IDS[0]) else ""


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A few files are many."""
    monkeypatch.setattr(cleaner_module, "FILES_PER_STEP", 3)
    monkeypatch.setattr(images_module, "IDS_PER_QUERY", 2)
    level, LOGGER.propagate = LOGGER.level, False
    LOGGER.setLevel(logging.DEBUG)
    yield
    setattr(reconciler_module, "time", time)  # noqa: B010
    setattr(cleaner_module, "time", time)  # noqa: B010
    LOGGER.setLevel(level)
    LOGGER.propagate = True


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("part", range(PARTS))
def test_the_model(part: int) -> None:
    class Part(Model):
        """The same rules, with examples of its own."""

    run_state_machine_as_test(
        Part if LONGER else seed(part)(Part),
        settings=settings(
            max_examples=(LONGER or 400) // PARTS,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
