# SPDX-License-Identifier: Apache-2.0
"""One pass: names → states → verdicts → removal, with Glance's own counts and log lines."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from oslo_log import log

from watcher.age import AgeClock
from watcher.images import Images, ImageState
from watcher.staging import FileChangedError, Staging, image_id
from watcher.verdict import Verdict, verdict

LOG = log.getLogger(__name__)

MAX_DELAY = 86400.0  # seconds; for files of the future
FILES_PER_STEP = 1000  # looked up together in a sweep; events wait for at most one step


@dataclass
class Outcome:
    """What came of a pass, in Glance's counts; cleaned + ignored + error = files looked at."""

    cleaned: int = 0
    ignored: int = 0
    error: int = 0
    #: files to look at again, by name: seconds until their grace is over
    young: dict[str, float] = field(default_factory=dict)
    #: ids that Glance told to be deleted while their row still says live
    lagging: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Decision:
    """Verdict on one file, and why."""

    name: str
    image_id: str | None
    state: ImageState | None
    verdict: Verdict
    reason: str
    status: os.stat_result | None = None
    delay: float = 0.0


class _Sighting(NamedTuple):
    status: os.stat_result | None
    age: float


class Cleaner:
    """Removes residue from an open staging directory.

    :param absent_grace: seconds; see `watcher.conf`
    :param max_absent_removals: from one sweep to the next; see `watcher.conf`
    :param stopping: asked before each removal; nothing more is removed once it is true
    """

    def __init__(
        self,
        staging: Staging,
        images: Images,
        *,
        absent_grace: float,
        max_absent_removals: int,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._staging, self._images = staging, images
        self._grace, self._max_absent = absent_grace, max_absent_removals
        self._stopping = stopping
        self._clock = AgeClock()
        self._absent_removed = 0
        self._braked = False
        # what couldn't be removed since the last sweep began, and in the one before
        self._failures: dict[str, int | None] = {}
        self._failed_before: dict[str, int | None] = {}

    def sweep(self, between: Callable[[int, int], None] = lambda done, count: None) -> Outcome:
        """Look at every file; ``between`` is called after each step, with the number of files
        that it has looked at and that of all.

        :raises DatabaseError: nothing more is removed
        :raises OSError: the directory can't be read
        """
        count, batches = self._staging.listing()
        self._absent_removed, self._braked = 0, False
        self._failed_before, self._failures = self._failures, {}
        return self._pass(count, batches, between=between)

    def clean(self, names: Sequence[str], notified: Set[str] = frozenset()) -> Outcome:
        """Look at some files.

        :param notified: canonical ids of images that Glance told to be deleted
        :raises DatabaseError: nothing more is removed
        """
        return self._pass(len(names), [names], notified=notified)

    def plan(self) -> Iterator[Decision]:
        """Decisions on every file, for a dry run; nothing is removed.

        :raises DatabaseError: the database can't tell
        :raises OSError: the directory can't be read
        """
        for step in _steps(self._staging.listing()[1]):
            for decision in self._decide(step, frozenset()):
                removed = decision.verdict is Verdict.REMOVE
                self._absent_removed += removed and decision.state is ImageState.ABSENT
                yield decision

    def _pass(
        self,
        count: int,
        batches: Iterable[Sequence[str]],
        *,
        notified: Set[str] = frozenset(),
        between: Callable[[int, int], None] = lambda done, count: None,
    ) -> Outcome:
        outcome = Outcome()
        if not count:
            return outcome
        LOG.debug("Found %i files in staging directory for potential cleanup", count)
        for step in _steps(batches):
            for decision in self._decide(step, notified):
                if self._stopping():
                    return outcome
                self._carry_out(decision, outcome)
            between(outcome.cleaned + outcome.ignored + outcome.error, count)
        LOG.debug(
            "Cleaned %(cleaned)i stale staging files, %(ignored)i ignored (%(error)i errors)",
            {"cleaned": outcome.cleaned, "ignored": outcome.ignored, "error": outcome.error},
        )
        return outcome

    def _decide(self, names: Sequence[str], notified: Set[str]) -> Iterator[Decision]:
        ids = {name: image_id(name) for name in names}
        states = self._images.states({found for found in ids.values() if found})
        # An age is taken once: a file that comes of age meanwhile has not had its second read.
        seen = {
            name: self._see(name)
            for name, found in ids.items()
            if found and states[found] is ImageState.ABSENT
        }
        suspects = {
            found
            for name, found in ids.items()
            if found and name in seen and seen[name].age >= self._grace
        }
        states |= self._images.states_in_any_case(suspects)
        for name, found in ids.items():
            if found is None:
                yield Decision(name, None, None, Verdict.KEEP, "not an image's file")
            else:
                sighting = seen.get(name, _Sighting(None, math.inf))
                yield self._judge(name, found, states[found], sighting, found.lower() in notified)

    def _see(self, name: str) -> _Sighting:
        try:
            status = self._staging.lstat(name)
        except OSError:  # a broken file system; in doubt the file is young
            return _Sighting(None, -math.inf)
        return _Sighting(status, self._clock.age(status) if status else math.inf)

    def _judge(
        self, name: str, found: str, state: ImageState, seen: _Sighting, notified: bool
    ) -> Decision:
        outcome = verdict(state, age=seen.age, grace=self._grace, notified=notified)
        delay = 0.0
        if state is not ImageState.ABSENT:
            reason = f"image is {state.value}"
        elif outcome is Verdict.RECHECK:
            delay = min(self._grace - seen.age, MAX_DELAY) + 0.05  # past it, not just at it
            reason = f"image is not in the database, changed less than {self._grace:g} s ago"
        elif self._absent_removed >= self._max_absent:
            outcome, reason = Verdict.KEEP, "image is not in the database, max_absent_removals hit"
            self._brake()
        else:
            reason = "image is not in the database"
        return Decision(name, found, state, outcome, reason, seen.status, delay)

    def _brake(self) -> None:
        if not self._braked:
            self._braked = True
            LOG.error(
                "No more than %i files of images that are not in the database are removed from "
                "one sweep to the next; the others stay. If [database] connection is the right "
                "database, raise [staging_watcher] max_absent_removals",
                self._max_absent,
            )

    def _carry_out(self, decision: Decision, outcome: Outcome) -> None:
        if decision.image_id is None:
            LOG.debug(
                "Staging directory contains unexpected non-image file %r; ignoring", decision.name
            )
        elif decision.verdict is Verdict.REMOVE:
            self._remove(decision, decision.image_id, outcome)
            return
        elif decision.verdict is Verdict.RECHECK and decision.state is ImageState.LIVE:
            outcome.lagging.add(decision.image_id.lower())
        elif decision.verdict is Verdict.RECHECK:
            outcome.young[decision.name] = decision.delay
        outcome.ignored += 1

    def _remove(self, decision: Decision, found: str, outcome: Outcome) -> None:
        path = self._staging.full_path(decision.name)
        LOG.debug(
            "Stale staging residue found for image %(uuid)s: %(file)r; deleting now.",
            {"uuid": found, "file": path},
        )
        absent = decision.state is ImageState.ABSENT
        failure = None
        try:
            # A file of an absent image that vanished meanwhile must not be looked up again: one
            # of that name that comes now is another, and young.
            if not absent or decision.status is not None:
                self._staging.remove(decision.name, decision.status)
        except FileChangedError:
            outcome.ignored += 1
            outcome.young[decision.name] = max(self._grace, 1.0)
            return
        except OSError as error:
            failure = error
        if failure is None:
            outcome.cleaned += 1
            self._absent_removed += absent
            self._failures.pop(decision.name, None)
            self._failed_before.pop(decision.name, None)
        else:
            outcome.error += 1
            self._tell(decision.name, path, failure)

    def _tell(self, name: str, path: str, failure: OSError) -> None:
        told = self._failures.get(name, self._failed_before.get(name)) == failure.errno
        self._failures[name] = failure.errno
        LOG.log(
            log.DEBUG if told else log.ERROR,
            "Failed to delete stale staging path %(path)r: %(err)s",
            {"path": path, "err": str(failure)},
        )


def _steps(batches: Iterable[Sequence[str]]) -> Iterator[Sequence[str]]:
    for names in batches:
        for start in range(0, len(names), FILES_PER_STEP):
            yield names[start : start + FILES_PER_STEP]
