# SPDX-License-Identifier: Apache-2.0
import errno
import logging
import os
import re
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.delays import DelaysQueue
from tests.unit.passes import new_cleaner
from watcher import backoff
from watcher.conf import Limits
from watcher.database.images import Found, Images
from watcher.errors import DatabaseError
from watcher.reconcile import cleaner as cleaner_module
from watcher.reconcile import reconciler as reconciler_module
from watcher.reconcile.cleaner import Progress, Removal, Step
from watcher.reconcile.reconciler import MAX_YOUNG, Reconciler
from watcher.staging import directory as staging_module
from watcher.staging.directory import Identity, Staging
from watcher.stats import Trigger
from watcher.workqueue import Directory, File, Image, Key, Sweep, Waiting, WorkQueue

INTERVAL = 86400


class FollowingWatch:
    """Watches what it is given, or fails to."""

    def __init__(self) -> None:
        self.watching: Identity | None = None
        self.failure: str | None = None
        self.fault: OSError | None = None

    def follow(self, staging: Staging) -> None:
        """Watch it."""
        if self.fault is not None:
            raise self.fault
        self.watching = staging.identity

    def wait_for(self, path: str) -> None:
        """Watch for it."""
        self.watching = None
        if self.fault is not None:
            raise self.fault


class World:
    """A reconciler on a real directory and SQLite, run in the test's own thread."""

    def __init__(
        self, directory: Path, *, absent_grace: int = 0, max_absent_removals: int = 1000
    ) -> None:
        self.staging = directory / "staging"
        self.staging.mkdir()
        self.path = directory / "glance.sqlite"
        self.database = sqlite3.connect(self.path)
        self.database.execute("CREATE TABLE images (id VARCHAR(36) PRIMARY KEY, deleted BOOLEAN)")
        self.queue = WorkQueue()
        self.images = Images(f"sqlite:///{self.path}")
        staging = Staging(str(self.staging))
        self.cleaner = new_cleaner(
            staging,
            self.images,
            absent_grace=absent_grace,
            max_absent_removals=max_absent_removals,
        )
        self.watch = FollowingWatch()
        self.reconciler = Reconciler(
            queue=self.queue,
            staging=staging,
            images=self.images,
            cleaner=self.cleaner,
            watch=self.watch,
            limits=Limits(INTERVAL, absent_grace, max_absent_removals),
        )

    def stage(self, deleted: bool | None, count: int = 1) -> list[str]:
        """Stage files of deleted or live images, or of images without a row."""
        names = [str(uuid.uuid4()) for _ in range(count)]
        if deleted is not None:
            rows = [(name, deleted) for name in names]
            self.database.executemany("INSERT INTO images VALUES (?, ?)", rows)
            self.database.commit()
        for name in names:
            (self.staging / name).touch()
        return names

    def delete(self, image: str) -> None:
        """Mark an image as deleted."""
        self.database.execute("UPDATE images SET deleted = 1 WHERE id = ?", (image,))
        self.database.commit()

    def steps(self, *keys: Key) -> Iterator[Step]:
        """What is done with keys, which are put first, and with all else that is due."""
        for key in (*keys, Directory()):
            self.queue.put(key)
        self.reconciler._apply_limits()
        yield from self.reconciler._reconcile(self.queue.take())

    def do(self, *keys: Key) -> list[Step]:
        """All of `steps`."""
        return list(self.steps(*keys))

    def run(self, until: Callable[[], bool]) -> list[Step]:
        """Run as the service does, until something holds."""
        steps, limit = [], time.monotonic() + 30
        for step in self.reconciler.run():
            steps.append(step)
            assert time.monotonic() < limit, self.causes()
            if until():
                self.queue.close()
        return steps

    @property
    def left(self) -> set[str]:
        """Names in the staging directory."""
        return set(os.listdir(self.staging))

    def break_database(self) -> None:
        """Make it unavailable."""
        self.path.rename(self.path.with_suffix(".away"))
        self.images.close()

    def repair_database(self) -> None:
        """Make it available."""
        self.path.with_suffix(".away").rename(self.path)

    def causes(self) -> dict[str, str]:
        """Conditions that hold."""
        conditions = self.reconciler.conditions.items()
        return {name: each.cause for name, each in conditions if each.cause}

    def close(self) -> None:
        self.images.close()
        self.database.close()


@pytest.fixture
def new_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    worlds = []

    def make(**limits: int) -> World:
        worlds.append(World(tmp_path, **limits))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    """One that has swept, and knows an image."""
    made = new_world()
    made.stage(False)
    made.do(Sweep())
    return made


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes retries follow at once."""
    monkeypatch.setattr(backoff, "retry_delay", lambda attempt: 0.001)


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="watcher")


def removed(steps: list[Step], trigger: Trigger) -> list[str]:
    """Names of files that were removed."""
    return [
        os.path.basename(step.path)
        for step in steps
        if isinstance(step, Removal) and step.trigger is trigger
    ]


def logged(caplog: pytest.LogCaptureFixture, *, level: str = "") -> list[str]:
    """Texts of the log, without causes."""
    records = [each for each in caplog.records if each.levelname == level or not level]
    return [record.getMessage().partition(": ")[0] for record in records]


# Events and sweeps


def test_at_start_everything_is_swept(new_world: Callable[..., World]) -> None:
    world = new_world()
    residue, live = world.stage(True, 3), world.stage(False)
    steps = world.run(lambda: world.reconciler.swept)
    assert sorted(removed(steps, Trigger.SWEEP)) == sorted(residue)
    assert world.left == set(live)


def test_events_are_handled_before_a_sweep_taken_with_them(world: World) -> None:
    [reported], swept = world.stage(True), world.stage(True, 5)
    steps = world.do(Sweep(), Image(reported))
    assert [step.trigger for step in steps if isinstance(step, Removal)] == [
        Trigger.NOTIFICATION,
        *[Trigger.SWEEP] * len(swept),
    ]


@pytest.mark.parametrize("after", [1, 2, 7])
def test_an_event_is_handled_after_one_more_removal_at_most(world: World, after: int) -> None:
    world.stage(True, 20)
    late: list[str] = []
    triggers = []
    for step in world.steps(Sweep()):
        if isinstance(step, Removal):
            triggers.append(step.trigger)
        if len(triggers) == after and not late:
            late = world.stage(True)
            world.queue.put(File(late[0]))
    assert triggers[: after + 2].count(Trigger.FILE_EVENT) == 1
    assert len(triggers) == 21


def test_an_event_does_not_wait_for_a_step_without_removals(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaner_module, "FILES_PER_STEP", 5)
    world.stage(False, 50)
    seen, names = [], list[str]()
    for step in world.steps(Sweep()):
        if isinstance(step, Progress) and step.done == 5 and step.asking and not names:
            names = world.stage(True)
            world.queue.put(File(names[0]))
        if isinstance(step, Removal):
            seen.append(world.cleaner.stats.tallies[Trigger.SWEEP].ignored)
    assert len(seen) == 1 and seen[0] <= 1 + 10


def test_a_closed_queue_ends_a_sweep_after_the_current_removal(
    new_world: Callable[..., World],
) -> None:
    world = new_world()
    world.stage(True, 10)
    world.run(lambda: len(world.left) == 7)
    assert len(world.left) == 7


def test_a_notified_image_whose_row_lags_is_looked_at_again(world: World) -> None:
    [image] = world.stage(False)
    world.do(Image(image))
    assert image in world.left
    world.delete(image)
    world.run(lambda: image not in world.left)


def test_a_file_that_changes_after_its_decision_is_looked_at_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    [image] = world.stage(True)
    read = world.images.find

    def written_meanwhile(ids: set[str]) -> dict[str, Found]:
        monkeypatch.setattr(world.images, "find", read)
        (world.staging / image).write_bytes(b"more")
        return read(ids)

    monkeypatch.setattr(world.images, "find", written_meanwhile)
    assert not removed(world.do(File(image)), Trigger.FILE_EVENT)
    steps: list[Step] = []
    while not removed(steps, Trigger.RECHECK):
        steps += world.reconciler._reconcile(world.queue.take())
    assert image not in world.left


# Waits


def delays_of(world: World, key: Key, awaited: type[Key], attempt: int = 0) -> list[float]:
    """Seconds until keys of a kind are taken again, over many turns with a key."""
    queue = world.reconciler._queue = DelaysQueue()
    for _ in range(100):
        list(world.reconciler._reconcile({key: Waiting(attempt, 0.0)}))
    return [delay for waits, delay in queue.delays if isinstance(waits, awaited)]


def check_spread(delays: list[float], least: float, most: float) -> None:
    """They are anywhere in that range, in all of it."""
    assert len(set(delays)) == len(delays) == 100
    part = (most - least) / 5
    assert least <= min(delays) < least + part and most - part < max(delays) <= most


@pytest.mark.parametrize("there", [True, False])
def test_from_sweep_to_sweep_it_is_a_tenth_more_or_less(world: World, there: bool) -> None:
    if not there:
        for name in world.left:
            (world.staging / name).unlink()
        world.staging.rmdir()
    check_spread(delays_of(world, Sweep(), Sweep), 0.9 * INTERVAL, 1.1 * INTERVAL)


def test_a_lagging_row_is_read_again_after_half_as_long_or_half_as_long_again(
    world: World,
) -> None:
    [image] = world.stage(False)
    check_spread(delays_of(world, Image(image), Image), 0.25, 0.75)
    check_spread(delays_of(world, Image(image), Image, attempt=3), 2, 6)


def test_a_young_file_is_looked_at_soon_after_its_grace_but_not_before(
    new_world: Callable[..., World],
) -> None:
    world = new_world(absent_grace=1000)
    world.do()
    [name] = world.stage(None)
    delays = delays_of(world, File(name), File)
    changed = (world.staging / name).stat().st_ctime
    assert all(delay > 1000 - (time.time() - changed) for delay in delays)
    check_spread(delays, 990, 1110)


def test_young_files_that_a_sweep_sees_earlier_need_no_key(new_world: Callable[..., World]) -> None:
    world = new_world(absent_grace=2 * INTERVAL)
    [name] = world.stage(None)
    assert delays_of(world, File(name), File) == []


def test_young_files_have_a_bounded_number_of_keys(new_world: Callable[..., World]) -> None:
    world = new_world(absent_grace=1000)
    world.stage(None, MAX_YOUNG + 50)
    world.do(Sweep())
    world.do(Sweep())
    assert world.queue.delayed <= MAX_YOUNG + 2, "a sweep and the directory's check beside them"


def test_on_a_shared_directory_hosts_take_turns(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging_module, "network_type", lambda descriptor: "nfs4")
    world = new_world()
    world.do()
    [image] = world.stage(True)
    check_spread(delays_of(world, Image(image), Image), 0, 0.5)
    assert image in world.left
    list(world.reconciler._reconcile({Image(image): Waiting(1, 0.0)}))
    assert image not in world.left


# Limits


def test_other_limits_begin_with_a_sweep(new_world: Callable[..., World]) -> None:
    world = new_world(max_absent_removals=1)
    world.stage(False)
    world.stage(None, 3)
    world.do(Sweep())
    assert len(world.left) == 3
    world.reconciler.reconfigure(Limits(INTERVAL, 0, 3))
    world.run(lambda: len(world.left) == 1)


def test_the_limit_is_a_condition_until_there_is_room(
    new_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = new_world(max_absent_removals=2)
    world.stage(False)
    world.stage(None, 5)
    for _ in range(3):
        world.do(Sweep())
        assert world.causes().keys() == {"absent_removals_limit"}
    assert len(world.left) == 4
    world.reconciler.reconfigure(Limits(INTERVAL, 0, 100))
    world.do()
    assert not world.causes() and len(world.left) == 1
    assert [line.partition(";")[0] for line in logged(caplog) if "absent" in line] == [
        "Limit of max_absent_removals reached",
        "Room within max_absent_removals again",
    ]


def test_a_limit_of_zero_is_a_choice_and_no_fault(new_world: Callable[..., World]) -> None:
    world = new_world(max_absent_removals=0)
    world.stage(False)
    world.stage(None)
    world.do(Sweep())
    assert len(world.left) == 2 and not world.causes()


# Witness


def test_files_without_a_row_wait_for_a_witness(
    new_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = new_world()
    world.database.execute("INSERT INTO images VALUES ('another', 0)")
    world.database.commit()
    absent = world.stage(None, 3)
    for _ in range(2):
        world.do(Sweep())
        world.do(File(absent[0]))
        assert "is [database] connection this Glance's database?" in world.causes()["witness"]
    assert world.left == set(absent)
    [known] = world.stage(False)
    world.do(File(known))
    assert not world.causes()
    world.run(lambda: world.left == {known})
    lines = logged(caplog)
    assert [line[:5] for line in lines if not line.startswith(("Watching", "Sweep"))] == [
        "Files",
        "Found",
    ]
    assert len(logged(caplog, level="WARNING")) == 1


@pytest.mark.parametrize("deleted", [True, False])
def test_a_notified_image_without_files_here_is_a_witness(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    world = new_world()
    [image] = world.stage(deleted)
    (world.staging / image).unlink()
    absent = world.stage(None)
    asked: list[set[str]] = []
    read = world.images.find

    def note(ids: set[str]) -> dict[str, Found]:
        asked.append(set(ids))
        return read(ids)

    monkeypatch.setattr(world.images, "find", note)
    unknown = str(uuid.uuid4())
    world.do(Image(unknown))
    assert not world.cleaner.planner.witnessed
    world.do(Image(image))
    assert world.cleaner.planner.witnessed
    assert asked.count({unknown}) == asked.count({image}) == 1
    world.do()  # the sweep that a witness brings
    assert not world.left & set(absent)
    asked.clear()
    world.do(Image(str(uuid.uuid4())))
    assert asked == [], "no read more once there is one"


# The database fails


@pytest.mark.usefixtures("no_wait")
def test_a_sweep_goes_on_where_the_database_failed(
    new_world: Callable[..., World],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One query in three fails; a sweep has ten."""
    monkeypatch.setattr(cleaner_module, "FILES_PER_STEP", 10)
    world = new_world()
    world.stage(True, 50)
    world.stage(False, 50)
    read, queries = world.images.find, iter(range(1, 1000))
    asked: list[str] = []

    def fickle(ids: set[str]) -> dict[str, Found]:
        if next(queries) % 3 == 0:
            raise DatabaseError(f"gone away after {len(asked)} ms")
        asked.extend(ids)
        return read(ids)

    monkeypatch.setattr(world.images, "find", fickle)
    world.run(lambda: world.cleaner.stats.sweeps == 1)
    assert len(world.left) == 50
    assert len(asked) == len(set(asked)) == 100, "nothing was asked for twice"
    tally = world.cleaner.stats.tallies[Trigger.SWEEP]
    assert (tally.cleaned, tally.ignored) == (50, 50)
    assert [line for line in logged(caplog) if "Database" in line] == [
        "Database unavailable; removals suspended",
        "Database available; removals continue",
    ]


@pytest.mark.usefixtures("no_wait")
def test_a_notification_is_handled_within_a_sweep_that_goes_on_without_an_index(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while no watch can be had: all names were forgotten, and the sweep has listed all."""
    world = new_world()
    world.stage(True, 5)
    read, tries = world.images.find, iter((True, False))

    def fail_once(ids: set[str]) -> dict[str, Found]:
        if next(tries, False):
            raise DatabaseError("gone away")
        return read(ids)

    world.watch.fault = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(world.images, "find", fail_once)
    world.do(Sweep())
    assert len(world.left) == 5
    removed: list[Trigger] = []
    [image] = world.stage(True)
    for step in world.steps():
        if isinstance(step, Removal):
            removed.append(step.trigger)
            if len(removed) == 1:
                world.queue.put(Image(image))
    assert removed == [Trigger.SWEEP, Trigger.NOTIFICATION, *[Trigger.SWEEP] * 4]


@pytest.mark.usefixtures("no_wait")
def test_a_sweep_that_is_asked_for_meanwhile_looks_at_everything(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after a reconnect, say: it must see what the interrupted one had passed."""
    monkeypatch.setattr(cleaner_module, "FILES_PER_STEP", 1)
    [image] = world.left
    world.stage(False, 5)
    read, asked = world.images.find, iter(range(100))

    def fail_late(ids: set[str]) -> dict[str, Found]:
        if next(asked) == 5:
            raise DatabaseError("gone away")
        return read(ids)

    monkeypatch.setattr(world.images, "find", fail_late)
    monkeypatch.setattr(
        world.cleaner.staging, "listing", lambda: iter(sorted(world.left, key=image.__ne__))
    )
    world.do(Sweep())
    assert world.causes()
    world.delete(image)
    world.queue.put(Sweep())
    world.run(lambda: image not in world.left)


@pytest.mark.usefixtures("no_wait")
@pytest.mark.parametrize("with_sweep", [True, False])
def test_what_is_reported_while_the_database_fails_is_done_when_it_is_back(
    world: World, with_sweep: bool
) -> None:
    [image], [name] = world.stage(True), world.stage(True)
    world.break_database()
    world.do(Image(image), File(name), *[Sweep()] * with_sweep)
    assert "unable to open database file" in world.causes()["database"]
    world.repair_database()
    steps = world.run(lambda: world.cleaner.stats.sweeps == 2)
    assert not world.causes()
    assert removed(steps, Trigger.NOTIFICATION) == [image]
    assert removed(steps, Trigger.FILE_EVENT) == [name]


@pytest.mark.usefixtures("no_wait")
def test_an_image_notified_within_a_sweep_that_fails_is_looked_at_again(world: World) -> None:
    [lagging] = world.stage(False)
    world.stage(True, 10)
    for step in world.steps(Sweep()):
        if isinstance(step, Removal) and not world.causes():
            world.queue.put(Image(lagging))
            world.break_database()
            break_seen = len(world.left)
    assert world.causes() and len(world.left) == break_seen
    taken = world.queue.take()
    if Image(lagging) not in taken:
        taken |= world.queue.take()  # the sweep is tried again earlier
    assert Image(lagging) in taken
    world.repair_database()
    world.delete(lagging)
    world.do(Image(lagging))
    assert lagging not in world.left


def test_while_it_fails_events_cost_no_query_before_the_next_try(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "retry_delay", lambda attempt: 60.0)
    queries: list[object] = []

    def fail(ids: object) -> dict[str, Found]:
        queries.append(ids)
        raise DatabaseError("gone away")

    monkeypatch.setattr(world.images, "find", fail)
    names = world.stage(True, 20)
    for name in names:
        world.do(File(name))
    assert len(queries) == 1
    assert world.queue.delayed == 20 + 1 + 1, "with the sweep and the directory's check"


def test_retries_back_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []

    def note(attempt: int) -> float:
        attempts.append(attempt)
        return 0.0

    monkeypatch.setattr(backoff, "retry_delay", note)
    world.break_database()
    for _ in range(4):
        world.do(Sweep())
    world.repair_database()
    world.do(Sweep())
    world.break_database()
    world.do(Sweep())
    assert attempts == [1, 2, 3, 4, 1]


def test_without_a_directory_the_database_is_asked_all_the_same(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "retry_delay", lambda attempt: 0.0)
    world = new_world()
    world.staging.rmdir()
    world.break_database()
    for _ in range(2):
        world.do(Sweep())
        assert "unable to open database file" in world.causes()["database"]
    assert world.cleaner.stats.sweeps == 0
    world.repair_database()
    world.do(Sweep())
    assert not world.causes() and world.cleaner.stats.sweeps == 1


# The directory fails


def test_a_directory_that_is_gone_is_not_one_that_cannot_be_read(
    new_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = new_world()
    world.staging.rmdir()
    for _ in range(2):
        world.staging.touch()
        for _ in range(2):
            world.do()
            assert world.causes().keys() == {"directory"}
        world.staging.unlink()
        for _ in range(2):
            world.do()
            assert not world.causes()
    assert logged(caplog) == 2 * [
        "Cannot read the staging directory, retrying",
        f"Staging directory {world.staging} does not exist, waiting for it",
    ]


def test_a_directory_that_can_never_appear_is_a_condition(
    new_world: Callable[..., World],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(
        reconciler_module, "private_tmp", lambda path: f"{path} is private; share it"
    )
    world = new_world()
    world.staging.rmdir()
    for _ in range(3):
        world.do()
        assert world.causes() == {"directory": f"{world.staging} is private; share it"}
    assert len(caplog.records) == 1
    world.staging.mkdir()
    world.do()
    assert not world.causes()


def test_a_directory_replaced_under_a_sweep_is_swept_instead(world: World, tmp_path: Path) -> None:
    world.stage(True, 10)
    new: list[str] = []
    for step in world.steps(Sweep()):
        if isinstance(step, Removal) and not new:
            world.staging.rename(tmp_path / "away")
            world.staging.mkdir()
            new = world.stage(True, 2)
    assert len(os.listdir(tmp_path / "away")) == 1 + 9, "one live file, and all but one"
    world.run(lambda: not world.left)
    assert len(os.listdir(tmp_path / "away")) == 1 + 9


def test_what_is_wrong_with_one_name_concerns_that_name(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    [broken], others = world.stage(True), world.stage(True, 3)
    lstat = os.lstat

    def fail(name: str, *, dir_fd: int) -> os.stat_result:
        if name == broken:
            raise OSError(errno.EUCLEAN, os.strerror(errno.EUCLEAN))
        return lstat(name, dir_fd=dir_fd)

    with monkeypatch.context() as broken_disk:
        broken_disk.setattr(os, "lstat", fail)
        for _ in range(3):
            world.do(Image(broken), File(broken))
        world.do(Sweep())
    assert not world.causes()
    assert broken in world.left and not world.left & set(others)
    assert logged(caplog, level="ERROR") == [
        f"Failed to delete stale staging path '{world.staging / broken}'"
    ]
    assert world.cleaner.stats.sweeps == 2


@pytest.mark.parametrize(
    ("number", "by", "fails"),
    [
        (errno.EROFS, Sweep, True),
        (errno.EROFS, File, True),
        (errno.EACCES, Sweep, True),
        (errno.EACCES, File, False),
        (errno.EISDIR, Sweep, False),
    ],
)
def test_removals_that_fail_are_a_condition(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int, by: type, fails: bool
) -> None:
    def fail(name: str, *, dir_fd: int) -> None:
        raise OSError(number, os.strerror(number), name)

    [name] = world.stage(True)
    with monkeypatch.context() as stuck:
        stuck.setattr(os, "unlink", fail)
        world.do(Sweep() if by is Sweep else File(name))
    assert world.causes() == ({"removals": os.strerror(number)} if fails else {})
    world.do(File(name))
    assert not world.causes() and name not in world.left


def test_file_events_that_cannot_be_had_are_a_condition(
    new_world: Callable[..., World],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "retry_delay", lambda attempt: 0.0)
    world = new_world()
    world.watch.fault = OSError(errno.EMFILE, "no instance")
    for _ in range(3):
        world.do()
    assert world.causes()["file_events"].startswith("no instance; see fs.inotify.max_user_inst")
    world.watch.fault = None
    [name] = world.stage(True)
    world.do()
    assert not world.causes()
    assert name not in world.left, "it is swept, for events may have been missed"
    assert logged(caplog)[:2] == [
        "Cannot watch the staging directory; sweeps and notifications continue",
        "Watching the staging directory again",
    ]


def test_a_watch_that_failed_is_a_fault_until_it_is_seen_to_work_again(
    new_world: Callable[..., World],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[int] = []
    monkeypatch.setattr(backoff, "retry_delay", lambda attempt: waits.append(attempt) or 3600.0)  # type: ignore[func-returns-value]
    world = new_world()
    world.do()
    follow, followed = world.watch.follow, []

    def fail(staging: Staging) -> None:
        follow(staging)
        followed.append(True)
        world.watch.watching, world.watch.failure = None, "its thread has ended"

    fail(Staging(str(world.staging)))
    [name] = world.stage(True)
    with monkeypatch.context() as failing:
        failing.setattr(world.watch, "follow", fail)
        for _ in range(5):
            world.do()
    assert len(followed) == 2 and waits == [1], "made again once, then after a wait"
    assert name not in world.left, "it is swept, for events may have been missed"
    assert world.causes() == {"file_events": "its thread has ended"}
    world.reconciler._watch_at, world.watch.failure = 0.0, None
    world.do()
    world.do()
    assert not world.causes()
    assert logged(caplog) == [
        f"Watching staging directory {world.staging}",
        "Cannot watch the staging directory; sweeps and notifications continue",
        "Sweep finished in 0.0 s",
        "Watching the staging directory again",
    ]


def test_a_watch_that_ended_is_made_again_and_swept_after(world: World) -> None:
    world.watch.watching = None
    [name] = world.stage(True)
    world.do()
    assert world.watch.watching is not None and name not in world.left


# Log


def test_each_sweep_says_what_it_and_the_events_before_it_removed(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = world.stage(True, 3)
    others, unlink = names[2], os.unlink

    def slower(name: str, *, dir_fd: int) -> None:
        if name == others:  # another watcher on the same directory
            unlink(world.staging / name)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", slower)
    world.do(File(names[0]))
    world.do(Sweep())
    world.do(Sweep())
    kept = r"1 file kept; 0 errors; events since the previous sweep:"
    first, second = [line for line in caplog.messages if line.startswith("Sweep finished")]
    text = rf"Sweep finished in \d\.\d s: 1 file removed, 0 B; {kept} 1 file removed, 0 B"
    assert re.fullmatch(text, first), first
    text = rf"Sweep finished in \d\.\d s: 0 files removed, 0 B; {kept} 0 files removed, 0 B"
    assert re.fullmatch(text, second), second


def test_a_sweep_of_nothing_says_nothing(
    new_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    new_world().do(Sweep())
    assert not [line for line in caplog.messages if "Sweep" in line]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("nfs4", "Staging directory {} is on a network file system (nfs4)"),
        (
            "unknown",
            "File system of staging directory {} unknown, treated as a network file system",
        ),
    ],
)
def test_a_network_file_system_is_logged_once(
    new_world: Callable[..., World],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    text: str,
) -> None:
    monkeypatch.setattr(staging_module, "network_type", lambda descriptor: kind)
    world = new_world()
    for _ in range(3):
        world.do()
    assert [line for line in caplog.messages if "irectory" in line] == [
        f"{text.format(world.staging)}: files that other hosts write are found by notifications "
        "and sweeps only",
        f"Watching staging directory {world.staging}",
    ]


def test_it_yields_at_least_with_each_check_of_the_directory(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler_module, "JITTER", 0.0)
    world = new_world()
    world.reconciler._check_interval = 0.01
    steps: list[Step] = []
    for step in world.reconciler.run():
        steps.append(step)
        if len(steps) > 30:
            world.queue.close()
    assert world.cleaner.stats.sweeps == 1


# What no pass over files would notice


def test_a_sweep_of_no_file_finds_a_database_that_is_down(new_world: Callable[..., World]) -> None:
    """Without a file there is no image to ask for."""
    world = new_world()
    world.break_database()
    world.do(Sweep())
    assert "unable to open database file" in world.causes()["database"]
    assert world.cleaner.stats.sweeps == 0


def test_names_that_no_watch_reported_are_found_by_a_notification(world: World) -> None:
    [image] = world.stage(True)
    world.do(Sweep())
    world.watch.watching = None
    world.watch.fault = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    (world.staging / f"{image}.qcow2").touch()
    steps = world.do(Image(image))
    assert removed(steps, Trigger.NOTIFICATION) == [f"{image}.qcow2"]


# What is proved while nothing happens


def test_a_database_that_is_down_is_found_without_a_sweep_or_event(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.do(Sweep())
    world.break_database()
    world.do()
    assert not world.causes(), "it answered a moment ago"
    monkeypatch.setattr(reconciler_module, "PROOF_INTERVAL", -1.0)
    world.do()
    assert "unable to open database file" in world.causes()["database"]
    world.repair_database()
    monkeypatch.setattr(world.reconciler, "_retry_at", 0.0)
    world.do(Sweep())
    assert not world.causes()


def test_a_database_is_not_asked_again_soon_after_an_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.do(Sweep())
    asked: list[None] = []
    monkeypatch.setattr(world.images, "check", lambda: asked.append(None))
    for _ in range(3):
        world.do()
    assert not asked
    monkeypatch.setattr(world.images, "answered", 0.0)
    world.do()
    assert len(asked) == 1


def test_a_database_that_is_down_is_found_while_there_is_no_directory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.do(Sweep())
    world.staging.rename(world.staging.with_name("away"))
    world.do(Sweep())
    sweeps = world.cleaner.stats.sweeps
    world.break_database()
    monkeypatch.setattr(reconciler_module, "PROOF_INTERVAL", -1.0)
    world.do()
    assert "unable to open database file" in world.causes()["database"]
    world.repair_database()
    world.do()
    world.do(Sweep())
    assert "database" not in world.causes() and world.cleaner.stats.sweeps == sweeps + 1


def test_where_nothing_can_be_removed_is_known_before_a_removal_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause = "Read-only file system"
    with monkeypatch.context() as stuck:
        stuck.setattr(Staging, "refusal", lambda staging: cause)
        world.do()
        world.do(Sweep())
        assert world.causes() == {"removals": cause}, "no sweep of no residue ends it"
    world.do()
    assert not world.causes()


def test_a_removal_that_failed_is_not_forgotten_by_a_look_at_the_directory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.stage(True)
    error = OSError(errno.EROFS, os.strerror(errno.EROFS))
    with monkeypatch.context() as stuck:
        stuck.setattr(os, "unlink", lambda *_, **__: (_ for _ in ()).throw(error))
        world.do(Sweep())
    world.do()
    assert world.causes() == {"removals": "Read-only file system"}


# Nothing waits


def removed_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[str], None]
) -> list[str]:
    """Names in the order of their removal, which a test's function hears of."""
    order: list[str] = []
    unlink = os.unlink

    def noting(name: str, *, dir_fd: int) -> None:
        unlink(name, dir_fd=dir_fd)
        order.append(name)
        meanwhile(name)

    monkeypatch.setattr(os, "unlink", noting)
    return order


def test_a_newer_event_is_handled_between_two_removals_of_older_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler_module, "NEWER_INTERVAL", -1.0)
    names, [newer] = world.stage(True, 5), world.stage(True)
    first: list[str] = []

    def meanwhile(name: str) -> None:
        if not first:
            first.append(name)
            world.queue.put(File(newer))

    order = removed_in_order(world, monkeypatch, meanwhile)
    world.do(*(File(name) for name in names))
    assert len(order) == 6 and order[1] == newer


@pytest.mark.parametrize(
    ("burst", "newest", "expected"),
    [
        (Image, File, "obbnbbo"),
        (File, Image, "obbnbbo"),
        (File, File, "obbbbon"),
        (Image, Image, "obbbbon"),
    ],
)
def test_an_event_waits_for_no_burst_of_the_other_kind(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    burst: type[Image | File],
    newest: type[Image | File],
    expected: str,
) -> None:
    """Two old events, a burst that comes after the first removal, and a new one after the third."""
    monkeypatch.setattr(reconciler_module, "NEWER_INTERVAL", -1.0)
    names = {"o": world.stage(True, 2), "b": world.stage(True, 4), "n": world.stage(True)}
    kinds = {name: kind for kind, staged in names.items() for name in staged}
    coming = {1: [burst(name) for name in names["b"]], 3: [newest(name) for name in names["n"]]}

    def meanwhile(name: str) -> None:
        for key in coming.get(len(order), []):
            world.queue.put(key)

    order = removed_in_order(world, monkeypatch, meanwhile)
    world.do(*(File(name) for name in names["o"]))
    assert "".join(kinds[name] for name in order) == expected


def test_newer_events_gather_while_older_ones_are_handled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One query asks for all of them."""
    monkeypatch.setattr(reconciler_module, "NEWER_INTERVAL", 3600.0)
    names, [newer] = world.stage(True, 5), world.stage(True)
    order = removed_in_order(world, monkeypatch, lambda name: world.queue.put(File(newer)))
    world.do(*(File(name) for name in names))
    assert newer not in order
    world.do()
    assert order[-1] == newer


def test_a_newer_event_that_the_database_fails_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler_module, "NEWER_INTERVAL", -1.0)
    names, [newer] = world.stage(True, 3), world.stage(True)

    def meanwhile(name: str) -> None:
        world.queue.put(File(newer))
        world.break_database()

    order = removed_in_order(world, monkeypatch, meanwhile)
    world.do(*(File(name) for name in names))
    assert len(order) == 1
    world.repair_database()
    monkeypatch.setattr(world.reconciler, "_retry_at", 0.0)
    monkeypatch.setattr(os, "unlink", os.unlink)
    assert newer in world.left and world.queue.delayed >= 4
    assert File(newer) in world.queue._delayed


@pytest.mark.parametrize("files", [1, 3])
def test_a_notification_at_the_start_costs_no_listing_of_its_own(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    listed: list[None] = []
    listing = Staging.listing

    def counting(staging: Staging) -> Iterator[str]:
        listed.append(None)
        yield from listing(staging)

    monkeypatch.setattr(Staging, "listing", counting)
    world = new_world()
    names = world.stage(True, files)
    world.queue.put(Image(names[0]))
    world.run(lambda: world.reconciler.swept and not world.left)
    assert len(listed) == 1 and world.cleaner.stats.tallies[Trigger.SWEEP].cleaned >= files - 1


def test_a_directory_that_cannot_be_listed_is_failing_though_events_are_handled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with few descriptors: only a listing needs a second one."""

    def fail(staging: Staging) -> Iterator[str]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as exhausted:
        exhausted.setattr(Staging, "listing", fail)
        world.do(Sweep())
        [name] = world.stage(True)
        world.do(File(name))
        assert name not in world.left
        assert "Too many open files" in world.causes()["directory"]
    world.do(Sweep())
    assert not world.causes()
