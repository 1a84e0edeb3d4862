# SPDX-License-Identifier: Apache-2.0
"""The one thread that touches files and the database: keys → passes of the cleaner → next keys."""

import errno
import time
from collections import deque
from collections.abc import Callable, Mapping

from oslo_log import log

from watcher import backoff as jitter
from watcher.backoff import backoff
from watcher.conditions import Condition
from watcher.conf import Limits
from watcher.database.images import Images
from watcher.errors import DatabaseError
from watcher.reconcile.cleaner import Cleaner, Outcome
from watcher.reconcile.verdict import recheck_delay
from watcher.staging.directory import Identity, Staging
from watcher.stats import Tally, Trigger
from watcher.triggers.directory_watch import DirectoryWatch
from watcher.workqueue import Directory, File, Image, Key, Sweep, Waiting, WorkQueue

LOG = log.getLogger(__name__)

CHECK_INTERVAL = 10.0  # seconds between looks for a replaced, mounted over or missing directory

# share of a wait by which it differs from host to host
JITTER = 0.1
LAG_JITTER = 0.5  # of the short ones for a lagging row


class Reconciler:
    """Takes keys off the queue and makes the directory agree with the database.

    :param sweep_interval: seconds from the end of a sweep to the next, a tenth less or more
    :param on_swept: called after the first try of a sweep
    :param on_progress: called at least each ``check_interval`` seconds, and after each step of a
        pass, unless something hangs
    """

    def __init__(
        self,
        *,
        queue: WorkQueue,
        staging: Staging,
        images: Images,
        cleaner: Cleaner,
        events: DirectoryWatch,
        sweep_interval: float,
        on_swept: Callable[[], None],
        on_progress: Callable[[], None] = lambda: None,
        check_interval: float = CHECK_INTERVAL,
    ) -> None:
        self._queue, self._staging, self._images = queue, staging, images
        self._cleaner, self._stats, self._events = cleaner, cleaner.stats, events
        self._sweep_interval = sweep_interval
        self._asked: deque[Limits] = deque(maxlen=1)  # by another thread
        self._on_swept, self._on_progress = on_swept, on_progress
        self._check_interval = check_interval
        #: moment of the monotonic clock of the last progress
        self.heartbeat = time.monotonic()
        self._known: Identity | None = None
        self._told_missing = False
        self._checked = False
        # images that Glance told to be deleted, whose files are still to be looked at
        self._owed: dict[str, Waiting] = {}
        self._told_removed = (0, 0)  # files and bytes
        #: what can be out of order, by the part of the watcher
        self.faults: Mapping[str, Condition] = {
            "database": Condition(
                LOG,
                "Cannot ask the database for images, nothing is removed until it answers: %s",
                "The database answers again",
            ),
            "directory": Condition(
                LOG,
                "Cannot read the staging directory, trying again: %s",
                "The staging directory can be read again",
            ),
            "file_events": Condition(
                LOG,
                "Cannot watch the staging directory for file events, sweeps and notifications go "
                "on: %s",
                "File events of the staging directory arrive again",
            ),
        }

    def run(self) -> None:
        """Work until the queue is closed."""
        self._queue.put(Sweep())
        self._queue.put(Directory())
        while keys := self._queue.take():
            self._progress()
            self._reconcile(keys)
            if _sweep_in(keys):
                self._on_swept()
            self._progress()

    def limit(self, limits: Limits) -> None:
        """Other limits, from the next step on, and a sweep at once. Any thread may call it."""
        self._asked.append(limits)
        self._queue.put(Sweep())

    def _progress(self, done: int = 0, count: int = 0) -> None:
        self.heartbeat = time.monotonic()
        self._on_progress()
        if self._asked:  # only between steps: one's grace chose who has the second read
            limits = self._asked.popleft()
            self._sweep_interval = limits.sweep_interval
            self._cleaner.limit(
                absent_grace=limits.absent_grace, max_absent_removals=limits.max_absent_removals
            )

    def _reconcile(self, keys: Mapping[Key, Waiting]) -> None:
        try:
            self._look(keys)
        except DatabaseError as error:
            self.faults["database"].begin(str(error))
            self._try_again(keys)
        if Directory() in keys:
            self._queue.put(Directory(), delay=self._check_interval)

    def _look(self, keys: Mapping[Key, Waiting]) -> None:
        try:
            with self._staging:
                if self._follow() or _sweep_in(keys):
                    self._owe(keys)
                    self._sweep()
                elif self.faults["database"].active:
                    self._owe(keys)  # the sweep to come sees all else
                else:
                    self._clean(keys)
        except FileNotFoundError:
            self._wait_for_directory()
            if _sweep_in(keys):
                self._ask_database()
                self._stats.swept(0.0, Tally())  # of nothing
                self._sweep_later()
        except OSError as error:
            self.faults["directory"].begin(str(error))
            self._ask_database()
            self._try_again(keys)

    def _ask_database(self) -> None:
        # No file is looked at, so nothing else would tell whether it still, or now, answers.
        self._images.check()
        self.faults["database"].end()

    def _try_again(self, keys: Mapping[Key, Waiting]) -> None:
        sweep = _sweep_in(keys)
        attempt = (sweep.attempt if sweep else 0) + 1
        delay = backoff(attempt)
        LOG.debug("Next try in %.2f s", delay)
        self._queue.put(Sweep(), delay=delay, attempt=attempt)

    def _follow(self) -> bool:
        """Watch the open directory; True when events of it, or it itself, may have been missed."""
        identity = self._staging.identity
        changed, self._known = identity != self._known, identity
        if changed and self._staging.network is not None:
            LOG.info(
                "Staging directory %s is on a network file system (%s): what other hosts write "
                "there is found by notifications and sweeps only",
                self._staging.path,
                self._staging.network,
            )
        if self._events.watching != identity:
            self._staging.forget_names()
            renewed = self._events.lost and not changed
            try:
                self._events.follow(self._staging)
            except OSError as error:
                self._cannot_watch(error)
            else:
                changed = True
                if not self.faults["file_events"].end() and not renewed:
                    LOG.info("Watching staging directory %s", self._staging.path)
        return changed

    def _wait_for_directory(self) -> None:
        forgotten = self.faults["directory"].forget()
        if forgotten or self._known is not None or not self._told_missing:
            LOG.info("Staging directory %s does not exist, waiting for it", self._staging.path)
            self._known, self._told_missing = None, True
        try:
            self._events.wait_for(self._staging.path)
        except OSError as error:
            self._cannot_watch(error)

    def _cannot_watch(self, error: OSError) -> None:
        cause = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EMFILE):
            cause += "; see fs.inotify.max_user_instances and max_user_watches"
        self.faults["file_events"].begin(cause)

    def _owe(self, keys: Mapping[Key, Waiting]) -> None:
        # To a sweep an image whose row lags is alive; only who knows that it was told looks again.
        for key in keys:
            if isinstance(key, File):
                self._staging.saw(key.name)
        for key, waiting in keys.items():
            if isinstance(key, Image) and self._staging.files_of(key.id):
                self._owed[key.id] = waiting

    def _sweep(self) -> None:
        if self.faults["database"].active or not self._checked:
            self._images.check()
            self._checked = True
        self._recheck(self._cleaner.sweep(self._clean_events), {})
        self.faults["database"].end()
        self.faults["directory"].end()
        self._events.swept()
        self._tell_removed()
        # The files of deleted images are gone now; what is left is for their rows to show it.
        self._clean({Image(found): waiting for found, waiting in self._owed.items()})
        self._sweep_later()

    def _sweep_later(self) -> None:
        self._queue.put(Sweep(), delay=jitter.around(self._sweep_interval, JITTER))

    def _tell_removed(self) -> None:
        tallies = self._stats.tallies.values()
        removed, size = sum(t.removed for t in tallies), sum(t.size for t in tallies)
        if removed > self._told_removed[0]:
            LOG.info(
                "Removed %i stale staging files, %.1f MiB, since the sweep before",
                removed - self._told_removed[0],
                (size - self._told_removed[1]) / 2**20,
            )
        self._told_removed = removed, size

    def _clean_events(self, done: int, count: int) -> None:
        self._progress()
        self._clean(self._queue.take_events())

    def _clean(self, keys: Mapping[Key, Waiting]) -> None:
        files: dict[Trigger, dict[str, float]] = {Trigger.FILE_EVENT: {}, Trigger.RECHECK: {}}
        notified: dict[str, Waiting] = {}
        for key, waiting in keys.items():
            if isinstance(key, Image):
                notified[key.id] = waiting
            elif isinstance(key, File) and self._staging.saw(key.name):
                trigger = Trigger.RECHECK if waiting.attempt else Trigger.FILE_EVENT
                files[trigger][key.name] = waiting.since
        self._owed |= notified
        for trigger, names in files.items():
            self._recheck(self._cleaner.clean(names, trigger, between=self._progress), {})
        names = {
            name: waiting.since
            for found, waiting in notified.items()
            for name in self._staging.files_of(found)
        }
        outcome = self._cleaner.clean(
            names, Trigger.NOTIFICATION, notified=notified.keys(), between=self._progress
        )
        self._owed = {k: waiting for k, waiting in self._owed.items() if k not in notified}
        self._recheck(outcome, notified)

    def _recheck(self, outcome: Outcome, notified: Mapping[str, Waiting]) -> None:
        for name, grace in outcome.young.items():
            # Later only: before its grace is over it would be in vain.
            delay = grace + jitter.within(grace * JITTER)
            self._queue.put(File(name), delay=delay, attempt=1)
        for found in outcome.lagging:
            waiting = notified[found]
            attempt = waiting.attempt + 1
            if (wait := recheck_delay(attempt)) is not None:
                self._queue.put(
                    Image(found),
                    delay=jitter.around(wait, LAG_JITTER),
                    attempt=attempt,
                    since=waiting.since,
                )


def _sweep_in(keys: Mapping[Key, Waiting]) -> Waiting | None:
    """The sweep among the keys, of several the one that was tried most; None if there is none."""
    sweeps = (waiting for key, waiting in keys.items() if isinstance(key, Sweep))
    return max(sweeps, key=lambda waiting: waiting.attempt, default=None)
