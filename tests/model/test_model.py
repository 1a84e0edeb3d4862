# SPDX-License-Identifier: Apache-2.0
"""The reconciler against a simple model of what is allowed, over random interleavings.

Reconciler, cleaner, planner, queue, staging directory and SQLite are the real ones. The model makes
things happen, between the watcher's steps and within them, and knows what is true on the primary;
the watcher reads a replica that lags by less than the grace, through a server whose answers may be
cut, doubled, foreign, uncommitted, in doubt, empty, of another Glance, or an error, and which may
become another server while a pass is under way. Rows may be restored, and each step may be slow.
Three rules must hold:

* no file of a live image is ever removed, also not of a restored one that is staged again; nor a
  young one without a row, nor one without a row unless a whole answer of a database with a witness
  states it, nor more of those in 24 hours than the limit, nor what is not an image file, nor
  anything on a decision that is older than a few seconds;
* once the faults have ended, one sweep leaves no residue (but what the limit keeps for the next
  day), and events have their effect at once, also those reported during a fault or a sweep;
* what a pass says to have cleaned, ignored and failed to remove adds up to what it found.

``test_mutants.py`` breaks the code in many ways, each of which the model must find.

The normal run takes the same examples each time. A longer search, with other examples each time::

    MODEL_EXAMPLES=5000 python -m pytest tests/model
"""

import itertools
import logging
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
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
    SLOW,
    SLOW_REMOVAL,
    CheckedStaging,
    Entry,
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
from watcher.reconcile.cleaner import Removal
from watcher.reconcile.planner import FIRST_RECHECK
from watcher.reconcile.reconciler import JITTER, LAG_JITTER, Reconciler
from watcher.staging.directory import Identity
from watcher.stats import Trigger
from watcher.workqueue import Directory, File, Image, Key, Sweep, Waiting, WorkQueue

Meanwhile = Sequence[tuple[str | int, ...]]
Crowd = Sequence[tuple[str, str]]

LOGGER = logging.getLogger("watcher")
LONGER = int(os.environ.get("MODEL_EXAMPLES", "0"))
PARTS = 4  # for pytest-xdist
ROUNDS = 12
EXAMPLES = 25  # in each round: many short searches find more than a long one

SWEEP_INTERVAL = 300
LATEST_SWEEP = SWEEP_INTERVAL * (1 + JITTER)
LONGEST_WAIT = max(LATEST_SWEEP, 60.0)  # seconds to the next sweep, in any case
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
fates = st.sampled_from(["reported", "lost", "doubled", "late"])
FAULTS = ["an error", "empty", "of another Glance", "of a replica"]
FAULTS += ["uncommitted", "in doubt", "cut", "doubled", "foreign"]
faults = st.sampled_from(["", "", "", *FAULTS])
waits = st.sampled_from(
    [0.0, 0.0, 0.5, 5.0, MAX_LAG - 5, GRACE + 5, GRACE + 5, SWEEP_INTERVAL, DAY / 2]
)
of_files = [
    st.tuples(st.just("write"), names, fates),
    st.tuples(st.just("write_on"), fates),
    st.tuples(st.just("write_one"), numbers, fates),
    st.tuples(st.just("vanish"), numbers),
    st.tuples(st.just("flicker"), numbers),
    st.tuples(st.just("rename"), numbers, names, fates),
    st.tuples(st.just("swap"), st.booleans(), fates),
    st.tuples(st.just("wait"), st.just(SLOW)),
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
in_the_directory = st.one_of(
    st.lists(st.one_of(*of_files), max_size=3),
    st.lists(st.tuples(st.just("flicker"), st.integers(1, 15)), min_size=3, max_size=3),
)
crowds = st.lists(
    st.tuples(
        st.sampled_from(["live", "deleted", "deleted", "absent"]), st.sampled_from(["", ".uc"])
    ),
    min_size=3,
    max_size=7,
)
counts = st.lists(st.integers(0, LIMIT), min_size=3, max_size=3)


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

    def write_one(self, number: int, fate: str) -> None:
        """One of the files is written to."""
        if name := self._file(number):
            self.write(name, fate)

    def vanish(self, number: int) -> None:
        """Something else removes a file."""
        if name := self._file(number):
            (self.world.path / name).unlink()
            del self.world.entries[name]

    def flicker(self, number: int) -> None:
        """The same, and while the database is read next, it is written again."""
        if name := self._file(number):
            self.vanish(number)
            self.world.at_reads.appendleft(partial(self.write, name, "lost"))

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
        name = self._file(number) or to
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
            self._report(Image(key), fate)

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
                self._report(Directory(), fate)
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
        self.world.stopping = self.world.witnessed = self.checked = False
        self.world.absent_removals.clear()
        self.images = ReplicaImages(self.world)
        self.queue = WorkQueue(lambda: self.world.now)
        self.queue._changed.wait = lambda timeout=None: True  # type: ignore[method-assign]
        self.watch = ModelWatch(self.world)
        staging = CheckedStaging(self.world)
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

    @rule(emptied=st.booleans(), fault=st.sampled_from(["", "an error", "empty"]))
    def start(self, emptied: bool, fault: str) -> None:
        """The watcher is started beside a fault, perhaps before anything is staged."""
        if emptied and self.world.path.is_dir():
            shutil.rmtree(self.world.path)
            self.world.path.mkdir()
            self.world.entries.clear()
        self.restart()
        self.world.fault = fault
        self.work(0)

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
        self.world.stated_absent.clear()
        self.world.removals = 0
        self.lines.begin()
        self.replaced = False
        self.queue.put(Directory())
        self.reconciler._apply_limits()
        keys = self.queue.take()
        swept, removals = Sweep() in keys, 0
        waiting: dict[Key, Waiting] = {}
        for step in self.reconciler._reconcile(keys):
            if isinstance(step, Removal):
                removals += 1
                if step.trigger is Trigger.SWEEP:
                    waiting = self._check_handled(waiting)
            if self.world.stopping:
                break
        assert removals == self.world.removals, "what was gone already wasn't removed"
        if swept and not self.checked and not at_reads and self.world.fault == "an error":
            assert self.reconciler.conditions["database"].active
        self.checked = self.checked or swept
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

    @rule(
        crowd=crowds,
        fault=st.sampled_from(["", "", "", "of another Glance", *FAULTS]),
        slow=st.booleans(),
        rested=st.sampled_from([True, True, False]),
        at_reads=at_any_time,
        at_removals=in_the_directory,
    )
    def sweep(
        self,
        crowd: Crowd,
        fault: str,
        slow: bool,
        rested: bool,
        at_reads: Meanwhile,
        at_removals: Meanwhile,
    ) -> None:
        """Sweep many files that are old enough, beside a fault, perhaps with the whole limit."""
        self._stage(crowd)
        self.wait(DAY + GRAIN if rested else 0)
        self.queue.put(Sweep())
        self.world.fault = fault
        self.world.duration = SLOW_REMOVAL if slow else 0.0
        self.work(0, at_reads, at_removals)
        self.world.fault, self.world.duration = "", 0.0

    @rule(counts=counts)
    def spend(self, counts: Sequence[int]) -> None:
        """Files without a row come every half day; then as many as ever may go."""
        self.world.fault = ""
        for count in (*counts, LIMIT + 1):
            self._stage([("live", ""), *[("absent", "")] * count])
            self.queue.put(Sweep())
            self.work(DAY / 2 + GRAIN)

    def _stage(self, crowd: Crowd) -> None:
        for row, suffix in crowd:
            key = self._new_id()
            if row != "absent":
                self.create(key, upper=False)
            self.write(key + suffix, "lost")
            if row == "deleted":
                self.delete(key, here=False, fate="lost")
        self.wait(GRACE + 5)
        self.replicate()

    def _check_handled(self, waiting: dict[Key, Waiting]) -> dict[Key, Waiting]:
        """Events that waited at one removal of a sweep are handled before the next."""
        now = {**self.queue._ready[Image], **self.queue._ready[File]}
        assert not any(waiting.get(key) is at for key, at in now.items()), "an event waited"
        return now

    @precondition(lambda self: self.world.entries)
    @rule(staged=st.booleans(), restarted=st.booleans())
    def faults_end(self, staged: bool = False, restarted: bool = False) -> None:
        """The next sweep sees to everything, and later events to the rest; the witness is an
        image that is staged, or one of another host that a notification names."""
        if restarted:
            self.restart()
            for _ in range(LIMIT + 1):  # the first in a sweep
                self.write(self._new_id("0"), "lost")
        self.world.fault, self.world.deaf = "", False
        self.world.path.mkdir(exist_ok=True)
        self.replicate()
        witness = self._new_id("f")  # the last in a sweep
        self.create(witness, upper=False)
        self.replicate()
        if staged:
            self.write(witness, "lost")
        else:
            self.delete(witness, here=False, fate="reported")
            self.replicate()
        if self.reconciler._sweep is not None:
            self._sweep(LONGEST_WAIT)  # it ends what it began
        self._sweep(LONGEST_WAIT)
        while residue := self._residue():
            assert not {ImageState.DELETED} & {self._row(name) for name in residue}
            assert self.world.within_a_day(GRAIN) == LIMIT, f"{residue} are left"
            self._sweep(DAY + LATEST_SWEEP)
        self._prompt()
        self._prompt_after_a_fault()
        self._prompt_without_file_events()

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
        """What events report goes at once, or when the replica shows it, or when it is old."""
        key, other = self._new_id(), self._new_id()
        mine = [f"{key}.uc", key, other.upper()]
        self.create(key, upper=False)
        self.create(other, upper=True)
        self.replicate()
        for name in mine:
            self.write(name, "reported")
        self.work(0)
        assert self.world.entries.keys() >= set(mine)
        self.delete(key, here=False, fate="reported")
        self.delete(other, here=False, fate="reported")
        self.work(0)
        self.replicate()
        self.work(LATEST_RECHECK)
        assert not self.world.entries.keys() & set(mine)
        self.write(f"{key}.raw", "reported")
        self.work(0)
        assert f"{key}.raw" not in self.world.entries
        unknown = self._new_id()
        if self.world.within_a_day() < LIMIT:
            self.write(unknown, "reported")
            self.work(GRACE - 0.1)
            assert unknown in self.world.entries
            self.work(0.2 + GRACE * JITTER)
            assert unknown not in self.world.entries, "its grace is over"

    def _prompt_after_a_fault(self) -> None:
        """Of two notifications one finds out that the database is gone, and one knows it. When it
        is back it lags, and still they need not wait for another sweep."""
        reported = [self._new_id() for _ in range(2)]
        mine = [reported[0], f"{reported[1]}.uc"]
        for key in reported:
            self.create(key, upper=False)
        self.replicate()
        for name in mine:
            self.write(name, "reported")
        self.work(0)
        self.world.fault = "an error"
        for key in reported:
            self.delete(key, here=False, fate="reported")
            self.work(0)
        self.world.fault = ""
        self._sweep(1)
        assert self.world.entries.keys() >= set(mine)
        self.replicate()
        for _ in range(2):  # the second may have been put back when the first one failed
            self.work(LATEST_RECHECK)
        assert not self.world.entries.keys() & set(mine)

    def _prompt_without_file_events(self) -> None:
        """A notification finds all files, also those that no event reported."""
        self.world.deaf = True
        self.watch.wait_for("")
        key = self._new_id()
        self.create(key, upper=False)
        self.write(f"{key}.uc", "lost")
        self.delete(key, here=False, fate="reported")
        self.replicate()
        self.work(0)
        assert f"{key}.uc" not in self.world.entries

    def _new_id(self, first: str = "5") -> str:
        return f"{first}{next(self.numbers):07x}-0000-4000-8000-abcdefabcdef"

    def _file(self, number: int) -> str:
        entries = self.world.entries
        files = sorted(name for name, entry in entries.items() if entry.kind == "file")
        if number == 0 and self.world.removing in files:
            return self.world.removing
        return files[number % len(files)] if files else ""

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
                self._report(Directory(), fate)

    def _date(self, path: Path) -> None:
        os.utime(path, (self.world.now, self.world.now), follow_symlinks=False)

    def _note(self, name: str, fate: str, *, kind: str = "file") -> None:
        key = _key(name)
        owner = (key, self.world.database.image(key).generation) if key else None
        inode = os.lstat(self.world.path / name).st_ino
        self.world.entries[name] = Entry(inode, kind, self.world.now, owner)
        if self.watch.watching == self._identity():
            self._report(File(name), fate)

    def _identity(self) -> Identity:
        return Identity.of(self.world.path.stat())

    def _report(self, key: Key, fate: str) -> None:
        if fate in ("reported", "doubled"):
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
    monkeypatch.setattr(cleaner_module, "EVENTS_PER_STEP", 3)
    monkeypatch.setattr(images_module, "IDS_PER_QUERY", 2)
    level, LOGGER.propagate = LOGGER.level, False
    LOGGER.setLevel(logging.DEBUG)
    yield
    setattr(reconciler_module, "time", time)  # noqa: B010
    setattr(cleaner_module, "time", time)  # noqa: B010
    LOGGER.setLevel(level)
    LOGGER.propagate = True


def run_model(number: int, examples: int, phases: Sequence[Phase] = tuple(Phase)) -> None:
    """Run it on that many examples, always the same ones for a number unless it is negative."""

    class Part(Model):
        """The same rules, with examples of its own."""

    run_state_machine_as_test(
        Part if number < 0 else seed(number)(Part),
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("part", range(PARTS))
def test_the_model(part: int) -> None:
    if LONGER:
        run_model(-1, LONGER // PARTS)
    else:
        for number in range(part, ROUNDS, PARTS):
            run_model(number, EXAMPLES)
