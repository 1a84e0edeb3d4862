# SPDX-License-Identifier: Apache-2.0
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.delays import DelaysQueue
from watcher.conf import Limits
from watcher.database.images import Images, ImageState
from watcher.reconcile.cleaner import FILES_PER_STEP, Cleaner
from watcher.reconcile.reconciler import Reconciler
from watcher.staging import directory as staging_module
from watcher.staging.directory import Staging
from watcher.stats import Trigger
from watcher.triggers.directory_watch import DirectoryWatch
from watcher.workqueue import Directory, File, Image, Key, Sweep, Waiting, WorkQueue

COUNT = 2 * FILES_PER_STEP + 1  # three steps


class World:
    """A reconciler on a real directory and SQLite, run in the test's own thread.

    :param on_swept: called at the end of each sweep
    """

    def __init__(
        self,
        directory: Path,
        on_swept: Callable[["World"], None],
        *,
        absent_grace: float = 0,
        max_absent_removals: int = 0,
    ) -> None:
        self.staging = directory / "staging"
        self.staging.mkdir()
        self.path = directory / "glance.sqlite"
        self.database = sqlite3.connect(self.path)
        self.database.execute("CREATE TABLE images (id VARCHAR(36) PRIMARY KEY, deleted BOOLEAN)")
        self.queue = WorkQueue()
        self.progress = self.removed = 0
        self.end_after = -1
        #: called at each progress
        self.meanwhile: Callable[[], None] = lambda: None
        staging, self.images = (
            Staging(str(self.staging)),
            Images(f"sqlite:///{directory}/glance.sqlite"),
        )
        self.events = DirectoryWatch(WorkQueue())
        self.reconciler = Reconciler(
            queue=self.queue,
            staging=staging,
            images=self.images,
            cleaner=Cleaner(
                staging,
                self.images,
                absent_grace=absent_grace,
                max_absent_removals=max_absent_removals,
                on_removal=lambda removal: self._count(),
            ),
            events=self.events,
            sweep_interval=86400,
            on_swept=lambda: on_swept(self),
            on_progress=self._progress,
        )

    def stage(self, *, deleted: bool, count: int = 1) -> list[str]:
        names = [str(uuid.uuid4()) for _ in range(count)]
        if deleted:
            rows = [(name, True) for name in names]
            self.database.executemany("INSERT INTO images VALUES (?, ?)", rows)
        else:  # else the table looks like the wrong one
            self.database.execute("INSERT INTO images VALUES (?, ?)", (str(uuid.uuid4()), False))
        self.database.commit()
        for name in names:
            (self.staging / name).touch()
        return names

    def _count(self) -> None:
        self.removed += 1
        if self.removed == self.end_after:
            self.queue.close()

    def _progress(self) -> None:
        assert self.reconciler.heartbeat > 0
        self.progress += 1
        self.meanwhile()

    def step(self) -> None:
        """Take what is due, without waiting, and do it."""
        self.queue.put(Directory())
        self.reconciler._reconcile(self.queue.take())

    def break_database(self) -> None:
        """As when the server is down."""
        self.path.rename(self.path.with_suffix(".away"))
        self.images._engine.dispose()

    def mend_database(self) -> None:
        """It is back."""
        self.path.with_suffix(".away").rename(self.path)

    def causes(self) -> dict[str, str]:
        """What is out of order."""
        faults = self.reconciler.faults.items()
        return {part: fault.cause for part, fault in faults if fault.cause}

    def close(self) -> None:
        self.events.stop()
        self.images.close()
        self.database.close()


@pytest.fixture
def new_world(tmp_path: Path) -> Iterator[Callable[[Callable[[World], None]], World]]:
    worlds = []

    def make(on_swept: Callable[[World], None] = lambda world: None, **limits: int) -> World:
        worlds.append(World(tmp_path, on_swept, **limits))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def test_a_sweep_makes_progress_with_each_step(new_world: Callable[..., World]) -> None:
    world = new_world(lambda world: world.queue.close())
    world.stage(deleted=True, count=COUNT)
    before = world.reconciler.heartbeat
    world.reconciler.run()
    assert world.removed == COUNT
    assert world.progress == 1 + 3 + 1, "at its begin, after each step, at its end"
    assert world.reconciler.heartbeat > before


def test_many_events_make_progress_with_each_step(new_world: Callable[..., World]) -> None:
    def files_come(world: World) -> None:
        world.progress, world.end_after = 0, COUNT
        for name in world.stage(deleted=True, count=COUNT):
            world.queue.put(File(name))

    world = new_world(files_come)
    world.reconciler.run()
    assert world.removed == COUNT
    assert world.progress >= 1 + 3


def test_other_limits_begin_with_a_sweep(new_world: Callable[..., World]) -> None:
    """The brake lets nothing pass at first, and the next sweep would come in a day."""
    counts = []

    def swept(world: World) -> None:
        counts.append(world.removed)
        if len(counts) == 1:
            world.reconciler.limit(Limits(86400, 0, 2))
        else:
            world.queue.close()

    world = new_world(swept)
    world.stage(deleted=False, count=3)
    world.reconciler.run()
    assert counts == [0, 2]


def test_a_lowered_brake_holds_from_the_next_step_on(new_world: Callable[..., World]) -> None:
    def brake() -> None:
        if world.removed == FILES_PER_STEP:
            world.reconciler.limit(Limits(86400, 0, 0))

    world = new_world(lambda world: world.queue.close(), max_absent_removals=COUNT)
    world.stage(deleted=False, count=COUNT)
    world.meanwhile = brake
    world.reconciler.run()
    assert world.removed == FILES_PER_STEP


def test_a_longer_grace_holds_from_the_next_step_on_and_not_within_one(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_again(ids: set[str]) -> dict[str, ImageState]:
        twice_read.update(ids)
        world.reconciler.limit(Limits(86400, 86400, COUNT))
        return second_read(ids)

    twice_read: set[str] = set()
    world = new_world(lambda world: world.queue.close(), max_absent_removals=COUNT)
    second_read = world.images.states_in_any_case
    monkeypatch.setattr(world.images, "states_in_any_case", read_again)
    world.stage(deleted=False, count=COUNT)
    world.reconciler.run()
    assert world.removed == len(twice_read) == FILES_PER_STEP


# Many hosts do not come back in step


def delays_of(world: World, key: Key, awaited: type[Key], attempt: int = 0) -> list[float]:
    """Seconds until keys of a kind are taken again, over many turns with a key."""
    queue = world.reconciler._queue = DelaysQueue()
    for _ in range(100):
        world.reconciler._reconcile({key: Waiting(attempt, 0.0)})
    return [delay for waits, delay in queue.delays if isinstance(waits, awaited)]


def check_spread(delays: list[float], least: float, most: float) -> None:
    """They are anywhere in that range, in all of it."""
    assert len(set(delays)) == len(delays) == 100
    part = (most - least) / 5
    assert least <= min(delays) < least + part and most - part < max(delays) <= most


@pytest.mark.parametrize("there", [True, False])
def test_from_sweep_to_sweep_it_is_a_tenth_more_or_less(
    new_world: Callable[..., World], there: bool
) -> None:
    world = new_world()
    if not there:
        world.staging.rmdir()
    check_spread(delays_of(world, Sweep(), Sweep), 0.9 * 86400, 1.1 * 86400)


def test_a_lagging_row_is_read_again_after_half_as_long_or_half_as_long_again(
    lagging: World,
) -> None:
    image, _ = stage_live(lagging)
    check_spread(delays_of(lagging, Image(image), Image), 0.25, 0.75)
    check_spread(delays_of(lagging, Image(image), Image, attempt=3), 2, 6)


def test_a_file_of_an_unknown_image_is_looked_at_soon_after_its_grace_but_not_before(
    new_world: Callable[..., World],
) -> None:
    world = new_world(absent_grace=1000)
    [name] = world.stage(deleted=False)
    delays = delays_of(world, File(name), File)
    changed = (world.staging / name).stat().st_ctime
    assert all(delay > 1000 - (time.time() - changed) for delay in delays)
    check_spread(delays, 990, 1110)


def test_the_sweep_after_a_reconnect_is_a_sweep(lagging: World) -> None:
    before = lagging.reconciler._stats.sweeps
    lagging.stage(deleted=True)
    lagging.queue.put(Sweep(2))
    lagging.step()
    assert lagging.removed == 1
    assert lagging.reconciler._stats.sweeps == before + 1


def test_tries_go_on_counting_when_the_broker_comes_back_meanwhile(lagging: World) -> None:
    stage_live(lagging)
    lagging.break_database()
    queue = lagging.reconciler._queue = DelaysQueue()
    tried: dict[Key, Waiting] = {Sweep(): Waiting(6, 0.0), Sweep(1): Waiting(0, 0.0)}
    lagging.reconciler._reconcile(tried)
    assert lagging.causes()
    [delay] = [delay for key, delay in queue.delays if key == Sweep()]
    assert 30 <= delay <= 60


# What is out of order


def test_without_a_directory_the_database_is_asked_all_the_same(
    new_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="watcher")
    world = new_world()
    world.staging.rmdir()
    world.break_database()
    for _ in range(2):
        world.queue.put(Sweep())
        world.step()
        assert "unable to open database file" in world.causes()["database"]
        assert world.queue.delayed == 2, "tries again, and looks for the directory"
    assert world.reconciler._stats.sweeps == 0
    world.mend_database()
    world.queue.put(Sweep())
    world.step()
    assert not world.causes()
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [
        f"Staging directory {world.staging} does not exist, waiting for it",
        "Database unavailable; removals suspended",
        "Database available; removals continue",
    ]


@pytest.mark.parametrize("readable", [True, False])
def test_a_fault_of_the_database_ends_without_a_directory_to_sweep(
    new_world: Callable[..., World], readable: bool
) -> None:
    world = new_world()
    world.break_database()
    world.queue.put(Sweep())
    world.step()
    world.staging.rmdir()
    if not readable:
        world.staging.touch()
    world.mend_database()
    world.queue.put(Sweep())
    world.step()
    assert world.causes().keys() == (set() if readable else {"directory"})


def test_a_directory_that_is_gone_is_not_one_that_cannot_be_read(
    new_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="watcher")
    world = new_world()
    world.staging.rmdir()
    for _ in range(2):
        world.staging.touch()
        for _ in range(2):
            world.step()
            assert world.causes().keys() == {"directory"}
        world.staging.unlink()
        for _ in range(2):
            world.step()
            assert not world.causes()
    told = [record.getMessage().partition(": ")[0] for record in caplog.records]
    assert told == 2 * [
        "Cannot read the staging directory, retrying",
        f"Staging directory {world.staging} does not exist, waiting for it",
    ]


# Notified images while the database can't be asked, and lags afterwards


@pytest.fixture
def lagging(new_world: Callable[..., World]) -> World:
    """A world that has swept, with some files of images that look alive."""
    world = new_world()
    world.queue.put(Sweep())
    world.step()
    return world


def stage_live(world: World, suffix: str = "") -> tuple[str, Path]:
    """Stage a file of a live image; its id and the file."""
    image = str(uuid.uuid4())
    world.database.execute("INSERT INTO images VALUES (?, 0)", (image,))
    world.database.commit()
    path = world.staging / (image + suffix)
    path.touch()
    return image, path


def check_looked_at_again(world: World, image: str, path: Path) -> None:
    """Once the database is back, and once it shows the row, all without another sweep."""
    world.queue.put(Sweep())
    world.step()
    assert not world.causes() and path.exists()
    world.database.execute("UPDATE images SET deleted = 1 WHERE id = ?", (image,))
    world.database.commit()
    taken = world.queue.take()
    assert taken.keys() == {Image(image)} and taken[Image(image)].attempt == 1
    world.reconciler._reconcile(taken)
    assert not path.exists()
    assert not world.reconciler._owed


def test_a_notified_image_whose_query_failed_is_looked_at_again(lagging: World) -> None:
    image, path = stage_live(lagging)
    lagging.break_database()
    lagging.queue.put(Image(image))
    lagging.step()
    assert lagging.causes()
    lagging.mend_database()
    check_looked_at_again(lagging, image, path)


@pytest.mark.parametrize("key", [Sweep(), Directory()])
def test_an_image_notified_while_the_database_cannot_be_asked_is_looked_at_again(
    lagging: World, key: Sweep | Directory
) -> None:
    stage_live(lagging)
    image, path = stage_live(lagging, suffix=".uc")
    path.unlink()
    lagging.break_database()
    lagging.queue.put(Sweep())
    lagging.step()
    path.touch()
    lagging.queue.put(Image(image))
    lagging.queue.put(File(path.name))
    lagging.queue.put(key)
    lagging.step()
    lagging.mend_database()
    check_looked_at_again(lagging, image, path)


def test_an_image_notified_within_a_sweep_that_fails_is_looked_at_again(lagging: World) -> None:
    def fail() -> None:
        if lagging.removed:
            lagging.meanwhile = lambda: None
            lagging.queue.put(Image(image))
            lagging.break_database()

    image, path = stage_live(lagging)
    lagging.stage(deleted=True, count=COUNT)
    lagging.meanwhile = fail
    lagging.queue.put(Sweep())
    lagging.step()
    assert lagging.causes() and lagging.removed < COUNT
    lagging.mend_database()
    check_looked_at_again(lagging, image, path)


def test_nothing_is_kept_of_images_without_files(lagging: World) -> None:
    stage_live(lagging)
    lagging.break_database()
    for key in (Sweep(), Directory(), Sweep()):
        lagging.queue.put(Image(str(uuid.uuid4())))
        lagging.queue.put(key)
        lagging.step()
        assert lagging.causes() and not lagging.reconciler._owed


def test_one_line_tells_at_each_sweep_what_went_since_the_one_before(
    new_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    def swept(world: World) -> None:
        sweeps.append(world)
        if len(sweeps) == 1:
            for name in world.stage(deleted=True, count=2):
                world.queue.put(File(name))
            world.end_after = 3 + 2
        elif len(sweeps) == 2:
            world.reconciler.limit(Limits(86400, 0, 1))
        else:
            world.queue.close()

    def told() -> list[str]:
        lines = [(record.levelname, record.getMessage()) for record in caplog.records]
        return [text for level, text in lines if level == "INFO" and "Removed" in text]

    sweeps: list[World] = []
    caplog.set_level("INFO", logger="watcher")
    world = new_world(swept)
    world.stage(deleted=True, count=3)
    world.reconciler.run()
    assert told() == ["Removed 3 stale staging files, 0.0 MiB, since the previous sweep"]
    world.reconciler._queue = world.queue = WorkQueue()
    world.end_after = -1
    world.reconciler.run()
    assert told()[1:] == ["Removed 2 stale staging files, 0.0 MiB, since the previous sweep"]
    assert len(sweeps) == 3, "and nothing at a sweep after which nothing had gone"


def test_what_others_removed_is_not_in_that_line(
    new_world: Callable[..., World],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else several watchers on one directory would tell of more than there was."""
    caplog.set_level("INFO", logger="watcher")
    world = new_world(lambda world: world.queue.close())
    others, _ = world.stage(deleted=True, count=2)
    unlink = os.unlink

    def slower(name: str, *, dir_fd: int) -> None:
        if name == others:
            unlink(world.staging / name)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", slower)
    world.reconciler.run()
    assert world.reconciler._stats.tallies[Trigger.SWEEP].cleaned == 2
    assert "Removed 1 stale staging files, 0.0 MiB, since the previous sweep" in caplog.messages


def test_a_network_file_system_is_told_of_once(
    new_world: Callable[..., World],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(staging_module, "network_type", lambda descriptor: "nfs4")
    caplog.set_level("INFO", logger="watcher")
    world = new_world()
    world.stage(deleted=True)
    for _ in range(3):
        world.step()
    assert [line for line in caplog.messages if "irectory" in line] == [
        f"Staging directory {world.staging} is on a network file system (nfs4): what other hosts "
        "write there is found by notifications and sweeps only",
        f"Watching staging directory {world.staging}",
    ]
