# SPDX-License-Identifier: Apache-2.0
"""File events: created, written and closed, moved in → a name on the queue.

The kernel drops events when its queue overflows; the next sweep finds what they would have named.
"""

import contextlib
import ctypes
import errno
import os
import threading

from oslo_log import log
from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.utils import BaseThread

from watcher.staging.directory import Identity, Staging
from watcher.threads import ENDED
from watcher.workqueue import Directory, File, Key, WorkQueue

LOG = log.getLogger(__name__)

OBSERVER_TIMEOUT = 2.0  # seconds

_FILES: list[type[FileSystemEvent]] = [FileCreatedEvent, FileClosedEvent, FileMovedEvent]
# of one directory in another; a symbolic link to one is a file to watchdog
_ENTRY: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileMovedEvent,
]
_DESCRIPTORS = 3  # that watchdog opens for one watch
_THREADS = 3  # that watchdog starts for one watch
_IN_CREATE = 0x100
_LIMITS = {
    errno.ENOSPC: "inotify watch limit reached",
    errno.EMFILE: "inotify instance limit reached",
}

_libc = ctypes.CDLL(None, use_errno=True)


class DirectoryWatch:
    """Watches one directory at a time, in threads of its own that only put keys on the queue."""

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue
        self._observer: BaseObserver | None = None
        self._above: BaseObserver | None = None
        self._entry: _Entry | None = None
        self._handler: _Handler | None = None
        self._threads: list[threading.Thread] = []  # without which no event arrives
        # What is watched: the staging directory, or the one above it in which a name must appear
        self._watched: Identity | tuple[str, Identity, str] | None = None
        self._path = ""  # of it

    @property
    def watching(self) -> Identity | None:
        """Directory whose events arrive; None when none do."""
        if not isinstance(self._watched, Identity) or not self._is_alive():
            return None
        return None if self._entry is not None and self._entry.changed else self._watched

    @property
    def failure(self) -> str | None:
        """Why no events arrive though the watch was started; None while they do, or if none is.

        Any thread may ask.
        """
        if (handler := self._handler) is None or self._is_alive():
            return None
        # watchdog's thread ends with its directory; then the watch goes where that is next.
        return handler.failure or (ENDED if self._is_there() else None)

    def follow(self, staging: Staging) -> None:
        """Watch the open staging directory, and no other one any more.

        :raises OSError: no inotify instance, watch, descriptor or thread is left, or permission
            is missing
        """
        if staging.identity is None:
            return
        # By the open descriptor, so that it can't be another directory; the dot, since watchdog
        # doesn't follow a link at the end of a path.
        path = f"/proc/self/fd/{staging.descriptor}/."
        self._start(path, _Files(self._queue), _FILES)
        self._path, self._watched = staging.path, staging.identity
        # Reports that the directory was moved or deleted; without it the next check finds that.
        above, name = os.path.split(staging.path.rstrip("/"))
        # By an instance of its own, whose events an overflow of the other one doesn't drop.
        with contextlib.suppress(OSError):
            self._entry = _Entry(self._queue, name)
            self._above = _observe(above, self._entry, _ENTRY)

    def wait_for(self, path: str) -> None:
        """Watch the nearest directory above a path that doesn't exist, until it may exist.

        :raises OSError: as `follow`
        """
        path = path.rstrip("/")
        above, awaited = path, ""
        while not os.path.isdir(above):
            above, awaited = os.path.split(above)
        if not awaited:
            self._queue.put(Directory())
            return
        try:
            watched = (above, Identity.of(os.stat(above)), awaited)
            if watched == self._watched and self._is_alive():
                return
            self._start(f"{above}/.", _Entry(self._queue, awaited), _ENTRY)
        except FileNotFoundError:
            if os.path.isdir(above):
                raise
            self._queue.put(Directory())  # it has gone as well
            return
        self._path, self._watched = above, watched
        if os.path.exists(os.path.join(above, awaited)):
            self._queue.put(Directory())

    def stop(self) -> None:
        """End the watch and its threads, in a few seconds at most."""
        observers = (self._observer, self._above)
        self._observer = self._above = self._entry = self._watched = self._handler = None
        for observer in observers:
            if observer is not None:
                _stop(observer)

    def _is_alive(self) -> bool:
        handler = self._handler
        return (
            handler is not None
            and handler.failure is None
            and all(thread.is_alive() for thread in self._threads)
        )

    def _is_there(self) -> bool:
        watched = self._watched
        if self._entry is not None and self._entry.changed:
            return False  # though another directory may have been given its inode number
        directory = watched if watched is None or isinstance(watched, Identity) else watched[1]
        try:
            return Identity.of(os.stat(self._path)) == directory
        except OSError:
            return False

    def _start(self, path: str, handler: "_Handler", events: list[type[FileSystemEvent]]) -> None:
        self.stop()
        before = set(threading.enumerate())
        self._observer = _observe(path, handler, events)
        self._threads = [
            thread
            for thread in threading.enumerate()
            if isinstance(thread, BaseThread) and thread not in before
        ]
        self._handler = handler


def _observe(
    path: str, handler: FileSystemEventHandler, events: list[type[FileSystemEvent]]
) -> BaseObserver:
    _check_limits(path)
    observer = None
    try:
        observer = Observer()
        observer.schedule(handler, path, event_filter=events)
        observer.start()
    except (OSError, RuntimeError) as error:
        if observer is not None:
            _stop(observer)
        if isinstance(error, OSError):
            raise
        raise _no_thread() from None
    return observer


class _Handler(FileSystemEventHandler):
    """Puts keys on the queue; an exception would end watchdog's thread."""

    #: why an event was lost
    failure: str | None = None

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog for each event."""
        try:
            key = self.key_of(event)
            if key is not None:
                self.queue.put(key)
        except Exception as error:
            LOG.debug("Cannot handle a file event", exc_info=True)
            self.failure = f"{type(error).__name__}: {error}"

    def __init__(self, queue: WorkQueue) -> None:
        self.queue = queue

    def key_of(self, event: FileSystemEvent) -> Key | None:
        """What to look at after an event."""
        raise NotImplementedError


class _Files(_Handler):
    """For files in the staging directory."""

    def key_of(self, event: FileSystemEvent) -> Key:
        return File(_name(event.dest_path or event.src_path))


class _Entry(_Handler):
    """For one name in a directory."""

    def __init__(self, queue: WorkQueue, name: str) -> None:
        super().__init__(queue)
        self._name = name
        #: it was replaced, moved or deleted
        self.changed = False

    def key_of(self, event: FileSystemEvent) -> Key | None:
        if self._name not in (_name(event.src_path), _name(event.dest_path)):
            return None
        self.changed = True
        return Directory()


def _name(path: bytes | str) -> str:
    return os.path.basename(os.fsdecode(path))


def _stop(observer: BaseObserver) -> None:
    observer.stop()
    if observer.is_alive():
        observer.join(OBSERVER_TIMEOUT)


def _check_limits(path: str) -> None:
    """Try what watchdog is going to do: where it fails it leaks descriptors, and it passes over a
    missing permission.

    :raises OSError: it would fail
    """
    opened = []
    try:
        for _ in range(_DESCRIPTORS - 1):
            opened.append(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
        opened.append(_checked(_libc.inotify_init1(os.O_CLOEXEC)))
        _checked(_libc.inotify_add_watch(opened[-1], os.fsencode(path), _IN_CREATE))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    end = threading.Event()
    threads = [threading.Thread(target=end.wait, daemon=True) for _ in range(_THREADS)]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError:
        raise _no_thread() from None
    finally:
        end.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, _LIMITS.get(code) or os.strerror(code))
    return result


def _no_thread() -> OSError:
    return OSError(errno.EAGAIN, "No thread can be started; see ulimit -u and pids.max")
