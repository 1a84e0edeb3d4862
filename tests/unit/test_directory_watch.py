# SPDX-License-Identifier: Apache-2.0
"""Real inotify; what it reports is read off the queue."""

import ctypes
import errno
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from watchdog.observers import Observer
from watchdog.utils import BaseThread

from tests.services.waiting import wait_for
from watcher.staging.directory import Staging
from watcher.triggers import directory_watch
from watcher.triggers.directory_watch import DirectoryWatch
from watcher.workqueue import Directory, File, Key, WorkQueue


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


def reported(queue: WorkQueue, last: Path) -> set[Key]:
    """All keys that were put up to the event of a name that appears now."""
    os.mkfifo(last)  # one event; a file that is created and closed has two
    keys: set[Key] = set()
    while File(last.name) not in keys:
        keys |= queue.take().keys()
    return keys - {File(last.name)}


def test_created_written_moved_in_and_linked(queue: WorkQueue, path: Path) -> None:
    outside = path.parent / "outside"
    outside.touch()
    (path / "created").touch()
    os.link(outside, path / "linked")
    (path / "symbolic").symlink_to(outside)
    outside.rename(path / "moved in")
    (path / "created").rename(path / "renamed")
    names = ["created", "linked", "symbolic", "moved in", "renamed"]
    assert reported(queue, path / "last") == {File(name) for name in names}


def test_written_and_closed_after_the_watch_began(
    queue: WorkQueue, tmp_path: Path, events: DirectoryWatch
) -> None:
    (tmp_path / "old").touch()
    with Staging(str(tmp_path)) as staging:
        events.follow(staging)
    with (tmp_path / "old").open("ab") as file:
        file.write(b"more")
        file.flush()
        assert reported(queue, tmp_path / "meanwhile") == set(), "not while it is written"
    assert reported(queue, tmp_path / "last") == {File("old")}


def test_no_event_of_reading_leaving_attributes_or_directories(
    queue: WorkQueue, path: Path
) -> None:
    (path / "file").touch()
    (path / "away").touch()
    reported(queue, path / "first")
    (path / "file").read_bytes()
    (path / "file").chmod(0o600)
    (path / "away").rename(path.parent / "away")
    (path / "file").unlink()
    (path / "directory").mkdir()
    assert reported(queue, path / "last") == set()


def test_names_that_are_not_utf8(queue: WorkQueue, path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.uc")
    (path / name).touch()
    assert reported(queue, path / "last") == {File(name)}


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_the_directory_vanishes(
    queue: WorkQueue, path: Path, events: DirectoryWatch, how: str
) -> None:
    assert events.watching is not None
    if how == "removed":
        path.rmdir()
        wait_for(lambda: events.watching is None, 10, "the watch to end")
    else:
        path.rename(path.with_name("away"))
    assert queue.take().keys() == {Directory()}


def test_a_replacement_is_noticed_even_if_its_inode_is_the_same(
    queue: WorkQueue, path: Path, events: DirectoryWatch
) -> None:
    """An overflow may drop the event of the directory's own end."""
    assert events.watching is not None
    path.rename(path.with_name("away"))
    wait_for(lambda: events.watching is None, 10, "the watch to end")
    path.with_name("away").rename(path)
    with Staging(str(path)) as staging:
        events.follow(staging)
        assert events.watching == staging.identity


def test_a_directory_above_that_cannot_be_watched_is_no_fault(
    queue: WorkQueue, tmp_path: Path, events: DirectoryWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "staging").mkdir()
    check = directory_watch._check_limits

    def refuse_above(path: str) -> None:
        if path == str(tmp_path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        check(path)

    monkeypatch.setattr(directory_watch, "_check_limits", refuse_above)
    with Staging(str(tmp_path / "staging")) as staging:
        events.follow(staging)
        assert events.watching == staging.identity
    (tmp_path / "staging/new").touch()
    assert queue.take().keys() == {File("new")}


def test_the_next_directory_is_followed_and_the_last_one_is_not(
    queue: WorkQueue, path: Path, events: DirectoryWatch
) -> None:
    away = path.rename(path.with_name("away"))
    path.mkdir()
    with Staging(str(path)) as staging:
        events.follow(staging)
        assert events.watching == staging.identity
    (away / "elsewhere").touch()
    assert File("elsewhere") not in reported(queue, path / "last")


def test_the_open_directory_is_watched_not_its_path(
    queue: WorkQueue, tmp_path: Path, events: DirectoryWatch
) -> None:
    path = tmp_path / "staging"
    path.mkdir()
    with Staging(str(path)) as staging:
        away = path.rename(path.with_name("away"))
        path.mkdir()
        events.follow(staging)
    (path / "elsewhere").touch()
    assert reported(queue, away / "last") == set()


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("how", ["created", "moved in", "linked"])
def test_a_directory_that_is_missing_is_waited_for(
    queue: WorkQueue, tmp_path: Path, events: DirectoryWatch, depth: int, how: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    above = tmp_path / "above"
    above.mkdir()
    path = above.joinpath(*"abc"[:depth])
    events.wait_for(f"{path}/")
    assert events.watching is None
    (above / "something else").mkdir()
    if how == "created":
        (above / "a").mkdir()
    elif how == "moved in":
        outside.rename(above / "a")
    else:
        (above / "a").symlink_to(outside)
    assert queue.take().keys() == {Directory()}


def test_waiting_on_keeps_the_threads(tmp_path: Path, events: DirectoryWatch) -> None:
    path = str(tmp_path / "above" / "staging")
    events.wait_for(path)
    threads = set(threading.enumerate())
    events.wait_for(path)
    assert set(threading.enumerate()) == threads
    (tmp_path / "above").mkdir()
    events.wait_for(path)
    assert not threads & {thread for thread in threading.enumerate() if _is_watchdogs(thread)}


def _is_watchdogs(thread: threading.Thread) -> bool:
    return isinstance(thread, BaseThread)


def test_a_directory_that_appeared_meanwhile_is_reported(
    queue: WorkQueue, tmp_path: Path, events: DirectoryWatch
) -> None:
    events.wait_for(str(tmp_path))
    assert queue.take().keys() == {Directory()}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("free", range(6))
def test_too_few_descriptors_leak_none(
    path: Path, events: DirectoryWatch, queue: WorkQueue, free: int
) -> None:
    events.stop()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Staging(str(path)) as staging:
        before = descriptors()
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        held = [os.open("/", os.O_RDONLY) for _ in range(highest - before)]  # no gaps left below
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + free, limits[1]))
        try:
            for _ in range(3):
                try:
                    events.follow(staging)
                except OSError as error:
                    assert error.errno == errno.EMFILE
                    assert events.watching is None
                events.stop()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for descriptor in held:
                os.close(descriptor)
        wait_for(lambda: descriptors() == before, 10, "all descriptors to be closed")
        events.follow(staging)
        assert events.watching == staging.identity


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_no_watch_or_permission(
    path: Path, events: DirectoryWatch, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    class Refusing:
        inotify_init1 = directory_watch._libc.inotify_init1

        @staticmethod
        def inotify_add_watch(*arguments: object) -> int:
            ctypes.set_errno(code)
            return -1

    with Staging(str(path)) as staging:
        with monkeypatch.context() as refusing:
            refusing.setattr(directory_watch, "_libc", Refusing)
            with pytest.raises(OSError) as caught:
                events.follow(staging)
        assert caught.value.errno == code
        assert events.watching is None
        events.follow(staging)
        assert events.watching == staging.identity


@pytest.mark.parametrize("free", range(6))
def test_too_few_threads(
    path: Path, events: DirectoryWatch, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    events.stop()
    left = [free]
    start = threading.Thread.start

    def refusing(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    with Staging(str(path)) as staging:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refusing)
            with pytest.raises(OSError, match="thread") as caught:
                events.follow(staging)
        assert caught.value.errno == errno.EAGAIN
        assert events.watching is None
        events.follow(staging)
        assert events.watching == staging.identity


# watchdog 6.0 raises in a thread that is stopped at the wrong moment
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_noticed_and_replaced(
    queue: WorkQueue, path: Path, events: DirectoryWatch
) -> None:
    threads = events._threads
    assert len(threads) >= 3
    for number in range(len(threads)):
        thread = events._threads[number]
        assert isinstance(thread, BaseThread)
        thread.stop()
        wait_for(lambda thread=thread: not thread.is_alive(), 10, "its end")  # type: ignore[misc]
        assert events.watching is None
        assert events.failure == "its thread has ended"
        with Staging(str(path)) as staging:
            events.follow(staging)
            assert events.watching == staging.identity and events.failure is None
    (path / "new").touch()
    assert File("new") in reported(queue, path / "last")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("gone", ["removed", "renamed", "made again"])
def test_the_end_of_the_threads_with_their_directory_is_no_failure(
    path: Path, events: DirectoryWatch, gone: str
) -> None:
    threads = list(events._threads)
    path.rename(path.with_name("elsewhere")) if gone == "renamed" else path.rmdir()
    if gone == "made again":
        path.mkdir()  # mostly with the same inode number
    for thread in threads:
        assert isinstance(thread, BaseThread)
        thread.stop()
        wait_for(lambda thread=thread: not thread.is_alive(), 10, "its end")  # type: ignore[misc]
    wait_for(lambda: events.failure is None, 10, "the event above it")
    assert events.watching is None


def test_a_key_that_cannot_be_put_is_a_failure_until_the_watch_is_made_again(
    queue: WorkQueue, path: Path, events: DirectoryWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert events.failure is None

    def fail(key: Key) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as failing:
        failing.setattr(queue, "put", fail)
        os.mkfifo(path / "first")
        wait_for(lambda: events.failure, 10, "the failure")
    assert events.failure == "RuntimeError: no" and events.watching is None
    with Staging(str(path)) as staging:
        events.follow(staging)
        assert events.failure is None and events.watching == staging.identity
    assert reported(queue, path / "last") == set()


def test_stop_ends_all_threads(path: Path, events: DirectoryWatch) -> None:
    events.stop()
    assert not any(_is_watchdogs(thread) for thread in threading.enumerate())
    assert events.watching is None and events.failure is None
    events.stop()


def test_watchdog_is_the_version_that_this_was_written_for() -> None:
    """Contract: an observer's threads are of this class, and it has no more than we try."""
    before = set(threading.enumerate())
    observer = Observer()
    observer.start()
    assert all(_is_watchdogs(thread) for thread in set(threading.enumerate()) - before)
    observer.stop()
    observer.join()
