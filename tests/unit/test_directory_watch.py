# SPDX-License-Identifier: Apache-2.0
"""Real inotify; what it tells is read off the queue."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from watchdog.observers import inotify_c

from tests.services.waiting import wait_for
from watcher.staging.directory import Staging
from watcher.triggers.directory_watch import DirectoryWatch
from watcher.workqueue import Directory, File, Key, Sweep, WorkQueue


@pytest.fixture
def queue() -> WorkQueue:
    return WorkQueue()


@pytest.fixture
def events(queue: WorkQueue) -> Iterator[DirectoryWatch]:
    made = DirectoryWatch(queue)
    yield made
    made.stop()


@pytest.fixture
def path(tmp_path: Path, events: DirectoryWatch) -> Path:
    """A directory that is watched."""
    directory = tmp_path / "staging"
    directory.mkdir()
    with Staging(str(directory)) as staging:
        events.follow(staging)
    return directory


def told(queue: WorkQueue, last: Path) -> set[Key]:
    """All keys that were put up to an event of a file that is made now."""
    last.mkdir()  # one event; a file that is made and closed has two
    keys: set[Key] = set()
    while File(last.name) not in keys:
        keys |= queue.take().keys()
    return keys - {File(last.name)}


def test_created_written_moved_in_and_linked(queue: WorkQueue, path: Path) -> None:
    outside = path.parent / "outside"
    outside.touch()
    (path / "created").touch()
    os.link(outside, path / "linked")
    outside.rename(path / "moved in")
    (path / "created").rename(path / "renamed")
    names = ["created", "linked", "moved in", "renamed"]
    assert told(queue, path / "last") == {File(name) for name in names}


def test_written_and_closed_after_the_watch_began(
    queue: WorkQueue, tmp_path: Path, events: DirectoryWatch
) -> None:
    (tmp_path / "old").touch()
    with Staging(str(tmp_path)) as staging:
        events.follow(staging)
    with (tmp_path / "old").open("ab") as file:
        file.write(b"more")
        file.flush()
        assert told(queue, tmp_path / "meanwhile") == set(), "not while it is written"
    assert told(queue, tmp_path / "last") == {File("old")}


def test_no_event_of_reading_leaving_or_attributes(queue: WorkQueue, path: Path) -> None:
    (path / "file").touch()
    (path / "away").touch()
    told(queue, path / "first")
    (path / "file").read_bytes()
    (path / "file").chmod(0o600)
    (path / "away").rename(path.parent / "away")
    (path / "file").unlink()
    assert told(queue, path / "last") == set()


def test_a_rename_out_does_not_hold_up_what_follows(queue: WorkQueue, path: Path) -> None:
    """watchdog's observer waits half a second for the other half of such a rename."""
    (path / "away").touch()
    told(queue, path / "first")
    (path / "away").rename(path.parent / "away")
    assert told(queue, path / "last") == set()


def test_names_that_are_not_utf8(queue: WorkQueue, path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.uc")
    (path / name).touch()
    assert told(queue, path / "last") == {File(name)}


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_the_directory_goes(queue: WorkQueue, path: Path, events: DirectoryWatch, how: str) -> None:
    assert events.watching is not None
    if how == "removed":
        path.rmdir()
        wait_for(lambda: events.watching is None, 10, "the watch to end")
    else:
        path.rename(path.with_name("away"))
    assert queue.take().keys() == {Directory()}


def test_the_next_directory_is_followed_and_the_last_one_is_not(
    queue: WorkQueue, path: Path, events: DirectoryWatch
) -> None:
    away = path.rename(path.with_name("away"))
    path.mkdir()
    with Staging(str(path)) as staging:
        events.follow(staging)
        assert events.watching == staging.identity
    (away / "elsewhere").touch()
    assert File("elsewhere") not in told(queue, path / "last")


@pytest.mark.parametrize("depth", [1, 3])
def test_a_directory_that_is_missing_is_waited_for(
    queue: WorkQueue, tmp_path: Path, events: DirectoryWatch, depth: int
) -> None:
    path = tmp_path.joinpath(*"abc"[:depth])
    events.wait_for(f"{path}/")
    assert events.watching is None
    (tmp_path / "something else").mkdir()
    (tmp_path / "a").mkdir()
    assert queue.take().keys() == {Directory()}


def test_a_directory_that_came_meanwhile_is_told_of(
    queue: WorkQueue, tmp_path: Path, events: DirectoryWatch
) -> None:
    events.wait_for(str(tmp_path))
    assert queue.take().keys() == {Directory()}


def test_an_overflow_asks_for_a_sweep(queue: WorkQueue, events: DirectoryWatch, path: Path) -> None:
    overflow = inotify_c.InotifyEvent(
        inotify_c.WatchDescriptor(-1), inotify_c.InotifyConstants.IN_Q_OVERFLOW, 0, b""
    )
    assert events._inotify is not None
    events._inotify.handle_event(overflow)
    assert queue.take().keys() == {Sweep()}


def test_no_watches_left(
    path: Path, events: DirectoryWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as refusing, Staging(str(path)) as staging:
        refusing.setattr(inotify_c, "inotify_add_watch", lambda *_: -1)
        with pytest.raises(OSError):
            events.follow(staging)
        assert events.watching is None
    with Staging(str(path)) as staging:
        events.follow(staging)
        assert events.watching == staging.identity


def test_a_dead_thread_is_replaced(queue: WorkQueue, path: Path, events: DirectoryWatch) -> None:
    assert events._inotify is not None
    events._inotify.stop()
    events._inotify.join()
    assert events.watching is None
    with Staging(str(path)) as staging:
        events.follow(staging)
        assert events.watching == staging.identity
    (path / "new").touch()
    assert File("new") in told(queue, path / "last")


def test_stop_ends_the_thread(path: Path, events: DirectoryWatch) -> None:
    before = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
    events.stop()
    assert threading.active_count() == before - 1
    assert len(os.listdir("/proc/self/fd")) == descriptors - 3
    assert events.watching is None
