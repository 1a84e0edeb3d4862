# SPDX-License-Identifier: Apache-2.0
"""One pass over names: plan → removal, with Glance's own counts and log lines.

A pass is a generator: between its steps the caller looks after what is more urgent.
"""

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from oslo_log import log

from watcher.database.images import ImageState
from watcher.reconcile.kinds import Kinds, kind_of
from watcher.reconcile.planner import Action, Decision, Look, Planner, Reason
from watcher.staging.directory import FileChangedError, Staging
from watcher.stats import Stats, Tally, Trigger

LOG = log.getLogger(__name__)

FILES_PER_STEP = 1000  # looked up together in a sweep
EVENTS_PER_STEP = 100  # of those that events report: a newer one waits for a step at most
STEP_TIME = 0.01  # seconds in which their status is taken
MAX_DECISION_AGE = 2.0  # seconds; older decisions are made again
MAX_FAILURES = 20  # removals that failed, logged as an ERROR from one sweep to the next
MAX_KNOWN = 10_000  # such names that are remembered
MAX_HELD = 50_000  # names that wait for a witness until the end of a pass

_NOBODY: Set[str] = frozenset()


class Removal(NamedTuple):
    """One file that the watcher removed.

    :param path: as in Glance's log lines
    :param state: what the database said of the image
    :param size: bytes on disk that it held
    :param waited: seconds from the event to the removal; None in a sweep
    """

    path: str
    image_id: str
    state: ImageState
    size: int
    trigger: Trigger
    waited: float | None


class Failure(NamedTuple):
    """One file that could not be removed."""

    decision: Decision
    error: OSError


class Progress(NamedTuple):
    """A point at which the caller may do something else.

    :param done: files of the pass that were looked at
    :param asking: what follows only reads: directory and database
    """

    done: int
    asking: bool = False


Step = Removal | Failure | Progress


@dataclass
class Outcome(Tally):
    """Result of a pass; cleaned + ignored + error = files looked at."""

    #: files to look at again, by name: seconds until their grace is over
    young: dict[str, float] = field(default_factory=dict)
    #: files that changed between decision and removal
    changed: list[str] = field(default_factory=list)
    #: ids whose deletion Glance reported while their row still says live
    lagging: set[str] = field(default_factory=set)
    #: files kept because no image seen here has a row in this database
    unwitnessed: int = 0
    #: files kept because max_absent_removals is used up
    limited: int = 0
    #: cause of the last removal that failed
    failure: OSError | None = None
    #: what a sweep leaves
    kinds: Kinds = field(default_factory=Kinds)


class Cleaner:
    """Removes residue from an open staging directory, one `Pass` at a time."""

    def __init__(self, staging: Staging, planner: Planner, stats: Stats) -> None:
        self.staging, self.planner, self.stats = staging, planner, stats
        # what couldn't be removed since the last sweep began, and in the one before
        self._failures: dict[str, int | None] = {}
        self._failed_before: dict[str, int | None] = {}
        self._logged_failures = 0

    def sweep(self, *, count: int | None = None) -> "Pass":
        """Start a pass over every file.

        :param count: of them; None: counted if the log shows it
        """
        if count is None and LOG.isEnabledFor(log.DEBUG):
            count = self.staging.count()
        self.planner.begin_sweep()
        self._failed_before, self._failures = self._failures, {}
        self._logged_failures = 0
        return Pass(self, self.staging.listing(), Trigger.SWEEP, count=count)

    def clean(
        self, names: Mapping[str, float], trigger: Trigger, *, notified: Set[str] = _NOBODY
    ) -> "Pass":
        """Start a pass over some files.

        :param names: each with the moment of the monotonic clock at which its event was reported
        :param notified: canonical ids of images whose deletion Glance reported
        """
        return Pass(self, names, trigger, count=len(names), since=names, notified=notified)

    def remove(self, decision: Decision) -> int | None:
        """Remove one file; bytes on disk that it held, None when it was gone already.

        :raises FileChangedError: it isn't the file that was decided on
        :raises DirectoryReplacedError: nor is the directory
        :raises OSError: it can't be removed
        """
        if LOG.isEnabledFor(log.DEBUG):
            LOG.debug(
                "Stale staging residue found for image %(uuid)s: %(file)r; deleting now.",
                {"uuid": decision.image_id, "file": self.staging.full_path(decision.name)},
            )
        size = self.staging.remove(decision.name, decision.status)
        self._failures.pop(decision.name, None)
        self._failed_before.pop(decision.name, None)
        return size

    def log_failure(self, name: str, failure: OSError) -> None:
        """Log a removal that failed: as an ERROR once, while its cause stays the same, and for at
        most `MAX_FAILURES` names from one sweep to the next."""
        logged = self._failures.get(name, self._failed_before.get(name)) == failure.errno
        if len(self._failures) < MAX_KNOWN:
            self._failures[name] = failure.errno
        else:
            logged = True
        if not logged:
            self._logged_failures += 1
            logged = self._logged_failures > MAX_FAILURES
        LOG.log(
            log.DEBUG if logged else log.ERROR,
            "Failed to delete stale staging path %(path)r: %(err)s",
            {"path": self.staging.full_path(name), "err": str(failure)},
        )


class Pass:
    """One look at some names. After an error it goes on where it was.

    :param names: each once
    :param count: of them, for the log; None: not known
    :param since: by name the moment of the monotonic clock at which its event was reported
    :param notified: canonical ids of images whose deletion Glance reported
    """

    def __init__(
        self,
        cleaner: Cleaner,
        names: Iterable[str],
        trigger: Trigger,
        *,
        count: int | None = None,
        since: Mapping[str, float] | None = None,
        notified: Set[str] = _NOBODY,
    ) -> None:
        self._cleaner, self._planner, self._names = cleaner, cleaner.planner, iter(names)
        self._trigger, self._count, self._since = trigger, count, since
        self._per_step = FILES_PER_STEP if trigger is Trigger.SWEEP else EVENTS_PER_STEP
        self._notified = notified
        self.outcome = Outcome()
        self._published = Tally()
        self._started = time.monotonic()
        self._pending: deque[str] = deque()  # names of the current step, not decided yet
        # names to decide on again once all others were looked at: one may be the witness
        self._held: list[str] | None = []

    @property
    def done(self) -> int:
        """Files that were looked at."""
        return self.outcome.cleaned + self.outcome.ignored + self.outcome.error

    def decisions(self) -> Iterator[Decision | Progress]:
        """Decide on each file, at the moment that the decision is asked for; nothing is changed.

        :raises DatabaseError: call again to go on
        :raises OSError: the directory can't be read
        """
        while True:
            yield Progress(self.done, asking=True)
            if not (looks := self._look()):
                return
            yield Progress(self.done, asking=True)
            asked = time.monotonic()
            decisions = self._planner.decide(looks, self._notified)
            yield Progress(self.done)
            for place, decision in enumerate(decisions):
                # At least one a query: the age of its decision is the database's time to answer.
                if place and time.monotonic() - asked > MAX_DECISION_AGE:
                    break
                self._pending.popleft()
                if decision.reason is Reason.NO_WITNESS and self._hold(decision.name):
                    continue
                yield self._planner.afford(decision)

    def steps(self) -> Iterator[Step]:
        """Decide on each file, and remove residue.

        :raises DatabaseError: call again to go on
        :raises DirectoryReplacedError: the staging directory isn't the one that was opened
        :raises OSError: the directory can't be read
        """
        if self._count:
            LOG.debug("Found %i files in staging directory for potential cleanup", self._count)
            self._count = None
        try:
            for decision in self.decisions():
                if isinstance(decision, Progress):
                    self._publish()
                    yield decision
                elif (step := self._carry_out(decision)) is not None:
                    yield step
        finally:
            self._publish()
        if self.done:
            LOG.debug(
                "Cleaned %(cleaned)i stale staging files, %(ignored)i ignored (%(error)i errors)",
                {
                    "cleaned": self.outcome.cleaned,
                    "ignored": self.outcome.ignored,
                    "error": self.outcome.error,
                },
            )
        if self._trigger is Trigger.SWEEP:
            self._cleaner.stats.swept(time.monotonic() - self._started, self.outcome)

    def _look(self) -> dict[str, Look]:
        if not self._pending:
            self._pending.extend(itertools.islice(self._names, self._per_step))
        if not self._pending and self._held:
            held, self._held = self._held, None
            self._names = iter(held)
            self._pending.extend(itertools.islice(self._names, self._per_step))
        looks: dict[str, Look] = {}
        deadline = time.monotonic() + STEP_TIME
        for name in self._pending:
            looks[name] = self._planner.look(name)
            if time.monotonic() > deadline:
                break
        return looks

    def _hold(self, name: str) -> bool:
        if self._held is None or len(self._held) >= MAX_HELD:
            return False
        self._held.append(name)
        return True

    def _publish(self) -> None:
        self._cleaner.stats.tallies[self._trigger].add(self.outcome, less=self._published)
        self._published = self.outcome.copy()

    def _carry_out(self, decision: Decision) -> Step | None:
        outcome = self.outcome
        if decision.action is Action.REMOVE:
            return self._remove(decision)
        self._count_kept(decision)
        if decision.image_id is None:
            LOG.debug(
                "Staging directory contains unexpected non-image file %r; ignoring", decision.name
            )
        elif decision.reason is Reason.YOUNG:
            outcome.young[decision.name] = decision.delay
        elif decision.action is Action.RECHECK:
            outcome.lagging.add(decision.image_id.lower())
        outcome.unwitnessed += decision.reason is Reason.NO_WITNESS
        outcome.limited += decision.reason is Reason.LIMIT
        outcome.ignored += 1
        return None

    def _count_kept(self, decision: Decision) -> None:
        if self._trigger is Trigger.SWEEP and decision.status is not None:
            self.outcome.kinds.add(kind_of(decision, decision.status), decision.status)

    def _remove(self, decision: Decision) -> Step:
        outcome, size, failure = self.outcome, None, None
        try:
            size = self._cleaner.remove(decision)
        except FileChangedError:
            outcome.changed.append(decision.name)
            outcome.ignored += 1
            self._count_kept(decision)
        except OSError as error:
            failure = error
            outcome.error += 1
            self._count_kept(decision)
        else:
            outcome.cleaned += 1
        finally:
            if size is None:
                self._planner.refund(decision)
        if failure is not None:  # not above, where oslo.log would add the error to the line
            outcome.failure = failure
            self._cleaner.log_failure(decision.name, failure)
            return Failure(decision, failure)
        if size is None:
            return Progress(self.done)
        outcome.removed += 1
        outcome.size += size
        return Removal(
            self._cleaner.staging.full_path(decision.name),
            decision.image_id or "",
            decision.state or ImageState.ABSENT,
            size,
            self._trigger,
            time.monotonic() - self._since[decision.name] if self._since else None,
        )
