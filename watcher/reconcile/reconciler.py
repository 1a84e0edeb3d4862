# SPDX-License-Identifier: Apache-2.0
"""The one thread that touches files and the database: keys → passes of the cleaner → next keys."""

import errno
import logging
import time
from collections.abc import Generator, Iterator, Mapping
from itertools import islice
from typing import Protocol

from oslo_log import log

from watcher import backoff
from watcher.conditions import Condition
from watcher.conf import Limits
from watcher.database.images import Images
from watcher.errors import DatabaseError
from watcher.reconcile.cleaner import Cleaner, Outcome, Pass, Progress, Step
from watcher.reconcile.planner import recheck_delay
from watcher.staging.directory import DirectoryReplacedError, Identity, Staging
from watcher.staging.mounts import UNKNOWN, private_tmp
from watcher.stats import Tally, Trigger
from watcher.threads import RENEW_INTERVAL
from watcher.units import counted, human_size
from watcher.workqueue import Directory, File, Image, Key, Sweep, Waiting, WorkQueue

LOG = log.getLogger(__name__)

CHECK_INTERVAL = 10.0  # seconds between looks for a replaced, mounted over or missing directory
NEWER_INTERVAL = 0.005  # seconds; newer events gather meanwhile, for fewer queries
MAX_DEPTH = 2  # looks that wait for one at newer events
PROOF_INTERVAL = 60.0  # seconds after which the database is asked whether it still answers
CHANGED_DELAY = 0.1  # seconds until a file that changed after its decision is looked at again
MAX_YOUNG = 1000  # files whose grace is waited for one by one; others are left to the sweeps

# share of a wait by which it differs from host to host
JITTER = 0.1
LAG_JITTER = 0.5  # of the short ones for a lagging row

# Seconds over which hosts that may share a directory spread their looks at a notified image.
TURN_SPREAD = 0.5


class Watch(Protocol):
    """What puts file events on the queue; `watcher.triggers.directory_watch` is one."""

    @property
    def watching(self) -> Identity | None:
        """Directory whose events are reported; None when none are."""

    @property
    def failure(self) -> str | None:
        """Why none are though the watch was started."""

    def follow(self, staging: Staging) -> None:
        """Watch the open staging directory, and no other one any more."""

    def wait_for(self, path: str) -> None:
        """Watch the nearest directory above a path that doesn't exist, until it may."""


class Reconciler:
    """Takes keys off the queue and makes the directory agree with the database.

    :param check_interval: seconds between looks at the directory's identity; `run` yields at
        least that often, unless a system call or a query hangs
    """

    def __init__(
        self,
        *,
        queue: WorkQueue,
        staging: Staging,
        images: Images,
        cleaner: Cleaner,
        watch: Watch,
        limits: Limits,
        check_interval: float = CHECK_INTERVAL,
    ) -> None:
        self._queue, self._staging, self._images = queue, staging, images
        self._cleaner, self._planner, self._watch = cleaner, cleaner.planner, watch
        self._stats = cleaner.stats
        self._limits = self._asked_limits = limits
        self._check_interval = check_interval
        #: the first sweep was tried
        self.swept = False
        self._refusal: str | None = None  # why nothing can be removed, known untried
        self._watch_attempts, self._watch_at = 0, 0.0
        self._sweep: Pass | None = None  # one that an error interrupted, or that is under way
        self._failed_tries, self._retry_at = 0, 0.0
        self._known: Identity | None = None
        self._logged_missing = False
        self._checked = False
        self._logged_removed = (0, 0)  # files and bytes
        #: components that can fail, by name
        self.conditions: Mapping[str, Condition] = {
            "database": Condition(
                LOG,
                "Database unavailable; removals suspended: %s",
                "Database available; removals continue",
            ),
            "directory": Condition(
                LOG,
                "Cannot read the staging directory, retrying: %s",
                "Staging directory readable again",
            ),
            "file_events": Condition(
                LOG,
                "Cannot watch the staging directory; sweeps and notifications continue: %s",
                "Watching the staging directory again",
            ),
            "removals": Condition(LOG, "Removals fail: %s", "Removals succeed again"),
            "absent_removals_limit": Condition(
                LOG,
                "Limit of max_absent_removals reached; further files without a database row are "
                "kept: %s",
                "Room within max_absent_removals again",
            ),
            "witness": Condition(
                LOG,
                "Files without a database row are kept: %s",
                "Found an image of this Glance in the database; files without a row are removed "
                "again",
                level=logging.WARNING,
            ),
        }

    def run(self) -> Iterator[Step]:
        """Work until the queue is closed; the caller does its own work between steps."""
        self._queue.put(Sweep())
        self._queue.put(Directory())
        while keys := self._queue.take():
            self._apply_limits()
            yield from self._reconcile(keys)
            self.swept = self.swept or Sweep() in keys
            yield Progress(0)

    def reconfigure(self, limits: Limits) -> None:
        """Use other limits from the next keys on, and sweep at once. Any thread may call it."""
        self._asked_limits = limits
        self._queue.put(Sweep())

    def _apply_limits(self) -> None:
        self._limits = self._asked_limits
        self._planner.grace = self._limits.absent_grace
        self._planner.budget.limit = self._limits.max_absent_removals
        self._update_limit()

    def _reconcile(self, keys: dict[Key, Waiting]) -> Iterator[Step]:
        is_check = keys.pop(Directory(), None) is not None
        if is_check:
            self._queue.put(Directory(), delay=self._check_interval)
        try:
            with self._staging:
                if self._follow():
                    keys.setdefault(Sweep(), Waiting(0, time.monotonic()))
                if is_check:
                    self._check_removals()
                yield from self._handle(keys)
        except FileNotFoundError:
            self._wait_for_directory()
            if Sweep() in keys:
                yield from self._sweep_nothing()
            elif self._is_unproved():
                self._ask_database()
        except DirectoryReplacedError:
            self._sweep = None
            self._queue.put(Sweep())
        except OSError as error:
            self._sweep = None
            self.conditions["directory"].begin(str(error))
            yield from self._sweep_nothing()
            self._retry(keys)

    def _handle(self, keys: Mapping[Key, Waiting]) -> Iterator[Step]:
        """Events first, then the sweep; what an error leaves undone is put back."""
        if self.conditions["database"].active and time.monotonic() < self._retry_at:
            self._queue.requeue(keys, delay=self._retry_at - time.monotonic())
            return
        if Sweep() in keys and not keys[Sweep()].attempt:
            self._sweep = None  # a retry goes on with it; anything else is to look at everything
        if Sweep() in keys and self._sweep is None and not self._staging.is_listed:
            # The sweep's listing is enough; one just for them would delay all events.
            images: dict[Key, Waiting] = {k: w for k, w in keys.items() if isinstance(k, Image)}
            self._queue.requeue(images, delay=0.0)
            keys = {key: waiting for key, waiting in keys.items() if key not in images}
        try:
            yield from self._clean(keys)
            if Sweep() in keys:
                yield from self._sweep_all()
            elif self._is_unproved():
                self._images.check()
        except DatabaseError as error:
            self.conditions["database"].begin(str(error))
            self._retry(keys)
        else:
            self._failed_tries = 0
            if Sweep() in keys:  # else it wasn't listed
                self.conditions["directory"].end()

    def _is_unproved(self) -> bool:
        """Whether the database didn't answer for long, and isn't known to be unavailable."""
        silent = time.monotonic() - self._images.answered
        return silent > PROOF_INTERVAL and not self.conditions["database"].active

    def _check_removals(self) -> None:
        before, self._refusal = self._refusal, self._staging.refusal()
        if self._refusal is not None:
            self.conditions["removals"].begin(self._refusal)
        elif before is not None:
            self.conditions["removals"].end()

    def _retry(self, keys: Mapping[Key, Waiting]) -> None:
        """Put keys back, and a sweep: it goes on where it was, or begins."""
        self._failed_tries += 1
        delay = backoff.retry_delay(self._failed_tries)
        self._retry_at = time.monotonic() + delay
        LOG.debug("Next try in %.2f s", delay)
        self._queue.requeue({**keys, Sweep(): Waiting(1, time.monotonic())}, delay=delay)

    def _sweep_all(self) -> Iterator[Step]:
        if self.conditions["database"].active or not self._checked:
            self._images.check()
            self._checked = True
        goes_on = self._sweep is not None
        if self._sweep is None:
            self._sweep = self._cleaner.sweep()
        for step in self._sweep.steps():
            yield step
            is_listed = goes_on or self._staging.is_listed  # or nothing is going to list it
            if is_listed and (events := self._queue.take_events()):
                yield from self._requeue_on_error(events, self._clean(events))
            if self._queue.closed:
                return
        outcome, self._sweep = self._sweep.outcome, None
        self.conditions["database"].end()
        self._evaluate(outcome, swept=True)
        self._log_sweep(outcome)
        self._requeue_files(outcome, {})
        self._queue.put(Sweep(), delay=backoff.around(self._limits.sweep_interval, JITTER))

    def _requeue_on_error(
        self, events: Mapping[Key, Waiting], steps: Iterator[Step]
    ) -> Iterator[Step]:
        try:
            yield from steps
        except DatabaseError:
            self._queue.requeue(events, delay=CHANGED_DELAY)
            raise

    def _sweep_nothing(self) -> Iterator[Step]:
        """Count a sweep of no file; the database's state must still be known."""
        if self._ask_database():
            self._stats.swept(0.0, Tally())
            self._queue.put(Sweep(), delay=backoff.around(self._limits.sweep_interval, JITTER))
        yield Progress(0)

    def _ask_database(self) -> bool:
        try:
            self._images.check()
        except DatabaseError as error:
            self.conditions["database"].begin(str(error))
            self._retry({})
            return False
        self.conditions["database"].end()
        return True

    def _clean(self, keys: Mapping[Key, Waiting], depth: int = 0) -> Iterator[Step]:
        """Look at the files and images among the keys; at newer ones between two removals.

        While newer ones are looked at, only those of the other kind come between: no burst of
        one kind holds up the other, and nothing is put off for ever.

        :param depth: looks that wait for this one
        """
        for steps, other in ((self._clean_files(keys), Image), (self._clean_images(keys), File)):
            began = time.monotonic()
            for step in steps:
                yield step
                if depth < MAX_DEPTH and time.monotonic() - began > NEWER_INTERVAL:
                    if newer := self._queue.take_events(other if depth else None):
                        yield from self._requeue_on_error(newer, self._clean(newer, depth + 1))
                    began = time.monotonic()

    def _clean_files(self, keys: Mapping[Key, Waiting]) -> Iterator[Step]:
        files: dict[Trigger, dict[str, Waiting]] = {Trigger.FILE_EVENT: {}, Trigger.RECHECK: {}}
        for key, waiting in keys.items():
            if isinstance(key, File) and self._staging.saw(key.name):
                trigger = Trigger.RECHECK if waiting.attempt else Trigger.FILE_EVENT
                files[trigger][key.name] = waiting
        for trigger, found in files.items():
            if found:
                outcome = yield from self._pass(self._cleaner.clean(_since(found), trigger))
                self._requeue_files(outcome, found)

    def _clean_images(self, keys: Mapping[Key, Waiting]) -> Iterator[Step]:
        notified = {
            key.id: waiting
            for key, waiting in keys.items()
            if isinstance(key, Image) and not self._leave_to_others(key, waiting)
        }
        if not notified:
            return
        self._planner.look_for_witness(notified.keys())
        names = {
            name: waiting
            for image, waiting in notified.items()
            for name in self._staging.files_of(image)
        }
        outcome = yield from self._pass(
            self._cleaner.clean(_since(names), Trigger.NOTIFICATION, notified=notified.keys())
        )
        self._requeue_files(outcome, {})
        self._requeue_lagging(outcome, notified)

    def _leave_to_others(self, image: Image, waiting: Waiting) -> bool:
        """Whether a notified image is looked at later: on a directory that hosts share, mostly
        the first does the work, and the others find no file."""
        if self._staging.network is None or waiting.attempt:
            return False
        delay = backoff.within(TURN_SPREAD)
        self._queue.put(image, delay=delay, attempt=1, since=waiting.since)
        return True

    def _pass(self, work: Pass) -> Generator[Step, None, Outcome]:
        yield from work.steps()
        self._evaluate(work.outcome)
        return work.outcome

    def _requeue_files(self, outcome: Outcome, waited: Mapping[str, Waiting]) -> None:
        young = {
            name: delay
            for name, delay in islice(outcome.young.items(), MAX_YOUNG)
            if delay <= self._limits.sweep_interval  # else a sweep is earlier
        }
        if self._queue.delayed >= MAX_YOUNG:
            young = {}
        for name, delay in young.items():
            # Later only: before its grace is over the file would stay.
            self._queue.put(File(name), delay=delay + backoff.within(delay * JITTER), attempt=1)
        for name in outcome.changed[:MAX_YOUNG]:
            attempt = waited[name].attempt if name in waited else 0
            delay = min(CHANGED_DELAY * 2.0 ** min(attempt, 10), backoff.MAX_DELAY)
            self._queue.put(File(name), delay=delay, attempt=attempt + 1)
        self._stats.rechecks += len(young) + len(outcome.changed[:MAX_YOUNG])

    def _requeue_lagging(self, outcome: Outcome, notified: Mapping[str, Waiting]) -> None:
        for image in outcome.lagging:
            waiting = notified[image]
            attempt = waiting.attempt + 1
            if (wait := recheck_delay(attempt)) is not None:
                self._stats.rechecks += 1
                self._queue.put(
                    Image(image),
                    delay=backoff.around(wait, LAG_JITTER),
                    attempt=attempt,
                    since=waiting.since,
                )

    def _evaluate(self, outcome: Outcome, *, swept: bool = False) -> None:
        """Update the conditions by what a pass met."""
        failure, limit = outcome.failure, self._planner.budget.limit
        if outcome.removed or (swept and failure is None and self._refusal is None):
            self.conditions["removals"].end()
        elif failure is not None and _is_general(failure, swept=swept):
            self.conditions["removals"].begin(failure.strerror or str(failure))
        if limit and not self._planner.budget.room:
            self.conditions["absent_removals_limit"].begin(
                f"{limit} in 24 hours; if [database] connection is this Glance's database, raise "
                "[staging_watcher] max_absent_removals"
            )
        self._update_limit()
        witness = self.conditions["witness"]
        if outcome.unwitnessed:
            witness.begin(
                f"none of the image files here ({outcome.unwitnessed} of them old enough) has a "
                "row in the database; is [database] connection this Glance's database?"
            )
        elif self._planner.witnessed and witness.end():
            self._queue.put(Sweep())
        elif swept:
            witness.forget()

    def _update_limit(self) -> None:
        if self._planner.budget.room:
            self.conditions["absent_removals_limit"].end()

    def _log_sweep(self, outcome: Outcome) -> None:
        tallies, last = self._stats.tallies.values(), self._stats.last_sweep
        removed, size = sum(t.removed for t in tallies), sum(t.size for t in tallies)
        by_events = removed - self._logged_removed[0] - outcome.removed
        freed = size - self._logged_removed[1] - outcome.size
        looked_at = outcome.cleaned + outcome.ignored + outcome.error
        if last is not None and (looked_at or by_events):
            LOG.info(
                "Sweep finished in %.1f s: %s removed, %s; %s kept; %s; events since the previous "
                "sweep: %s removed, %s",
                last.duration,
                counted(outcome.removed, "file"),
                human_size(outcome.size),
                counted(outcome.ignored, "file"),
                counted(outcome.error, "error"),
                counted(by_events, "file"),
                human_size(freed),
            )
        self._logged_removed = removed, size

    def _follow(self) -> bool:
        """Watch the open directory; True when events of it, or it itself, may have been missed."""
        identity = self._staging.identity
        changed, self._known = identity != self._known, identity
        if changed:
            self._sweep = None
            if self._staging.network == UNKNOWN:
                LOG.info(
                    "File system of staging directory %s unknown, treated as a network file "
                    "system: files that other hosts write are found by notifications and sweeps "
                    "only",
                    self._staging.path,
                )
            elif self._staging.network is not None:
                LOG.info(
                    "Staging directory %s is on a network file system (%s): files that other hosts "
                    "write are found by notifications and sweeps only",
                    self._staging.path,
                    self._staging.network,
                )
        if self._watch.watching == identity:
            self.conditions["file_events"].end()  # since then it works
            if time.monotonic() - self._watch_at > RENEW_INTERVAL:
                self._watch_attempts = 0
            return changed
        self._staging.forget_names()
        failure = None if changed else self._watch.failure
        if failure is not None:
            self.conditions["file_events"].begin(failure)
        is_retry = not changed and self.conditions["file_events"].active
        if is_retry and time.monotonic() < self._watch_at:
            return False
        try:
            self._watch.follow(self._staging)
        except OSError as error:
            if not self._staging.is_in_place():  # it has gone since it was opened
                raise DirectoryReplacedError(self._staging.path) from None
            self._cannot_watch(error)
            self._delay_watch()
            return changed
        if failure is not None:  # the next look shows whether it works now
            self._delay_watch()
        elif not self.conditions["file_events"].end():
            LOG.info("Watching staging directory %s", self._staging.path)
        return True

    def _delay_watch(self) -> None:
        self._watch_attempts += 1
        self._watch_at = time.monotonic() + backoff.retry_delay(self._watch_attempts)

    def _wait_for_directory(self) -> None:
        self._sweep = None
        if (cause := private_tmp(self._staging.path)) is not None:
            self.conditions["directory"].begin(cause)
        elif (
            self.conditions["directory"].forget()
            or self._known is not None
            or not self._logged_missing
        ):
            LOG.info("Staging directory %s does not exist, waiting for it", self._staging.path)
            self._logged_missing = True
        self._known = None
        try:
            self._watch.wait_for(self._staging.path)
        except OSError as error:
            self._cannot_watch(error)

    def _cannot_watch(self, error: OSError) -> None:
        cause = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EMFILE):
            cause += "; see fs.inotify.max_user_instances and max_user_watches"
        self.conditions["file_events"].begin(cause)


def _since(waiting: Mapping[str, Waiting]) -> dict[str, float]:
    return {name: each.since for name, each in waiting.items()}


def _is_general(failure: OSError, *, swept: bool) -> bool:
    """Whether it concerns more than the one file; after a sweep that removed none, it may."""
    may = swept and failure.errno in (errno.EACCES, errno.EPERM, errno.EIO)
    return may or failure.errno == errno.EROFS
