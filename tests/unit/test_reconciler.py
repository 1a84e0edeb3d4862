# SPDX-License-Identifier: Apache-2.0
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from watcher.cleaner import FILES_PER_STEP, Cleaner
from watcher.conf import Limits
from watcher.events import FileEvents
from watcher.images import Images
from watcher.reconciler import Reconciler
from watcher.staging import Staging
from watcher.workqueue import File, WorkQueue

COUNT = 2 * FILES_PER_STEP + 1  # three steps


class World:
    """A reconciler on a real directory and SQLite, run in the test's own thread.

    :param on_swept: called at the end of each sweep
    """

    def __init__(self, directory: Path, on_swept: Callable[["World"], None]) -> None:
        self.staging = directory / "staging"
        self.staging.mkdir()
        self.database = sqlite3.connect(directory / "glance.sqlite")
        self.database.execute("CREATE TABLE images (id VARCHAR(36) PRIMARY KEY, deleted BOOLEAN)")
        self.queue = WorkQueue()
        self.progress = self.removed = 0
        self.end_after = -1
        staging, self.images = (
            Staging(str(self.staging)),
            Images(f"sqlite:///{directory}/glance.sqlite"),
        )
        self.events = FileEvents(WorkQueue())
        self.reconciler = Reconciler(
            queue=self.queue,
            staging=staging,
            images=self.images,
            cleaner=Cleaner(
                staging,
                self.images,
                absent_grace=0,
                max_absent_removals=0,
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

    def close(self) -> None:
        self.events.stop()
        self.images.close()
        self.database.close()


@pytest.fixture
def new_world(tmp_path: Path) -> Iterator[Callable[[Callable[[World], None]], World]]:
    worlds = []

    def make(on_swept: Callable[[World], None]) -> World:
        worlds.append(World(tmp_path, on_swept))
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
    assert told() == ["Removed 3 stale staging files, 0.0 MiB, since the sweep before"]
    world.reconciler._queue = world.queue = WorkQueue()
    world.end_after = -1
    world.reconciler.run()
    assert told()[1:] == ["Removed 2 stale staging files, 0.0 MiB, since the sweep before"]
    assert len(sweeps) == 3, "and nothing at a sweep after which nothing had gone"
