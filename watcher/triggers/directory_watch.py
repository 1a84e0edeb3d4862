# SPDX-License-Identifier: Apache-2.0
"""File events: created, written and closed, moved in → a name on the queue.

Built on watchdog's inotify layer rather than on its observer: that hides overflows of the
kernel's queue, holds back what follows a rename by half a second, and takes three threads.
"""

import errno
import os

from oslo_log import log
from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

from watcher.staging.directory import Identity, Staging
from watcher.workqueue import Directory, File, Sweep, WorkQueue

LOG = log.getLogger(__name__)

_NAMES = InotifyConstants.IN_CREATE | InotifyConstants.IN_CLOSE_WRITE | InotifyConstants.IN_MOVED_TO
_STAGING = Mask(_NAMES | InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_MOVE_SELF)
_ANCESTOR = Mask(_NAMES & ~InotifyConstants.IN_CLOSE_WRITE | InotifyConstants.IN_ONLYDIR)
_ID = CallbackId(0)


class DirectoryWatch:
    """Watches one directory at a time, in a thread of its own that only puts keys on the queue."""

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue
        self._inotify: InotifyFD | None = None
        # what is watched: the staging directory, or one above it for this name to appear in
        self._watched: tuple[WatchDescriptor, Identity | str] | None = None
        #: events were lost since the watch began, that of its end perhaps among them
        self.lost = False
        self._told_lost = False

    @property
    def watching(self) -> Identity | None:
        """Directory whose events arrive; None when none do."""
        if self._watched is None or self._inotify is None or not self._inotify.is_alive():
            return None
        if self.lost:
            return None
        what = self._watched[1]
        return what if isinstance(what, Identity) else None

    def follow(self, staging: Staging) -> None:
        """Watch the open staging directory, and no other one any more.

        :raises OSError: there are no inotify instances or watches left, or no permission
        """
        if staging.identity is not None:
            self._watch(f"/proc/self/fd/{staging.descriptor}", _STAGING, staging.identity)

    def wait_for(self, path: str) -> None:
        """Watch the nearest directory above a path that doesn't exist, until it may.

        :raises OSError: as `follow`
        """
        above = path.rstrip("/")
        while not os.path.isdir(above):
            above, awaited = os.path.split(above)
        if above == path.rstrip("/"):
            self._queue.put(Directory())
            return
        self._watch(above, _ANCESTOR, awaited)
        if os.path.exists(os.path.join(above, awaited)):
            self._queue.put(Directory())

    def swept(self) -> None:
        """A sweep saw what lost events would have told; the next loss is told of again."""
        if not self.lost:
            self._told_lost = False

    def stop(self) -> None:
        """End the watch and its thread."""
        if self._inotify is not None:
            self._inotify.stop()
            self._inotify.join()
            self._inotify = None

    def _watch(self, path: str, mask: Mask, what: Identity | str) -> None:
        old, self._watched = self._watched, None
        self.lost = False
        if self._inotify is None or not self._inotify.is_alive():
            self._inotify = InotifyFD()
            self._inotify.start()
        elif old is not None:
            self._inotify.remove_callbacks([(old[0], _ID)])
        descriptor = self._inotify.add_callback(os.fsencode(path), mask, self, _ID)
        if descriptor == -1:  # watchdog lets this one pass
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        self._watched = (descriptor, what)

    def on_event(self, event: InotifyEvent) -> None:
        """Called by watchdog for each event."""
        watched = self._watched
        name = os.fsdecode(event.name)
        if watched is None or not event.mask & _NAMES:
            self._queue.put(Directory())
        elif isinstance(watched[1], Identity):
            self._queue.put(File(name))
        elif watched[1] == name:
            self._queue.put(Directory())

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Called by watchdog when the directory was removed or unmounted."""
        if self._watched is not None and self._watched[0] == wd:
            self._watched = None
            self._queue.put(Directory())

    def on_queue_overflow(self) -> None:
        """Called by watchdog when the kernel dropped events."""
        self.lost = True
        if not self._told_lost:
            self._told_lost = True
            LOG.info("File events were lost (inotify queue overflow); sweeping")
        self._queue.put(Sweep())
