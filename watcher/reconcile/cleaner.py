# SPDX-License-Identifier: Apache-2.0
"""One pass: names → decisions → removal, with Glance's own counts and log lines."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from oslo_log import log

from watcher.database.images import Images, ImageState
from watcher.reconcile.planner import Decision, Planner
from watcher.reconcile.verdict import Verdict
from watcher.staging.directory import FileChangedError, Staging
from watcher.stats import Removal, Stats, Tally, Trigger

LOG = log.getLogger(__name__)

FILES_PER_STEP = 1000  # looked up together in a sweep; events wait for at most one step

_NOBODY: Set[str] = frozenset()


@dataclass
class Outcome(Tally):
    """What came of a pass; cleaned + ignored + error = files looked at."""

    #: files to look at again, by name: seconds until their grace is over
    young: dict[str, float] = field(default_factory=dict)
    #: ids that Glance told to be deleted while their row still says live
    lagging: set[str] = field(default_factory=set)


class Cleaner:
    """Removes residue from an open staging directory.

    :param absent_grace: seconds; see `watcher.conf`
    :param max_absent_removals: from one sweep to the next; see `watcher.conf`
    :param stats: takes the counts
    :param on_removal: called after each removal
    :param on_failure: called after each removal that failed
    :param stopping: asked before each removal; nothing more is removed once it is true
    """

    def __init__(
        self,
        staging: Staging,
        images: Images,
        *,
        absent_grace: float,
        max_absent_removals: int,
        stats: Stats | None = None,
        on_removal: Callable[[Removal], None] | None = None,
        on_failure: Callable[[Decision, OSError], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._staging = staging
        self._judge = Planner(
            staging, images, absent_grace=absent_grace, max_absent_removals=max_absent_removals
        )
        self.stats = stats or Stats()
        self._on_removal, self._on_failure = on_removal, on_failure
        self._stopping = stopping
        # what couldn't be removed since the last sweep began, and in the one before
        self._failures: dict[str, int | None] = {}
        self._failed_before: dict[str, int | None] = {}

    @property
    def braked(self) -> bool:
        """Whether ``max_absent_removals`` was hit since the last sweep began."""
        return self._judge.braked

    def limit(self, *, absent_grace: float, max_absent_removals: int) -> None:
        """Other limits from now on; not during a pass."""
        self._judge.grace, self._judge.max_absent = absent_grace, max_absent_removals

    def sweep(self, between: Callable[[int, int], None] = lambda done, count: None) -> Outcome:
        """Look at every file; ``between`` is called after each step, with the number of files
        that it has looked at and that of all.

        :raises DatabaseError: nothing more is removed
        :raises OSError: the directory can't be read
        """
        count, batches = self._staging.listing()
        self._judge.begin()
        self._failed_before, self._failures = self._failures, {}
        started = time.monotonic()
        outcome = self._pass(count, batches, Trigger.SWEEP, between=between)
        self.stats.swept(time.monotonic() - started, outcome)
        return outcome

    def clean(
        self,
        names: Mapping[str, float],
        trigger: Trigger,
        *,
        notified: Set[str] = _NOBODY,
        between: Callable[[int, int], None] = lambda done, count: None,
    ) -> Outcome:
        """Look at some files.

        :param names: each with the moment of the monotonic clock at which its event came
        :param notified: canonical ids of images that Glance told to be deleted
        :param between: as for `sweep`
        :raises DatabaseError: nothing more is removed
        """
        return self._pass(
            len(names), [list(names)], trigger, notified=notified, since=names, between=between
        )

    def plan(
        self, between: Callable[[int, int], None] = lambda done, count: None
    ) -> Iterator[Decision]:
        """Decisions on every file, for a dry run; nothing is removed.

        :param between: as for `sweep`
        :raises DatabaseError: the database can't tell
        :raises OSError: the directory can't be read
        """
        count, batches = self._staging.listing()
        done = 0
        for step in _steps(batches):
            for decision in self._judge.decide(step, _NOBODY):
                removed = decision.verdict is Verdict.REMOVE
                self._judge.absent_removed += removed and decision.state is ImageState.ABSENT
                yield decision
            done += len(step)
            between(done, count)

    def _pass(
        self,
        count: int,
        batches: Iterable[Sequence[str]],
        trigger: Trigger,
        *,
        notified: Set[str] = _NOBODY,
        since: Mapping[str, float] | None = None,
        between: Callable[[int, int], None] = lambda done, count: None,
    ) -> Outcome:
        outcome = Outcome()
        if not count:
            return outcome
        LOG.debug("Found %i files in staging directory for potential cleanup", count)
        braked = self._judge.braked
        try:
            for step in _steps(batches):
                for decision in self._judge.decide(step, notified):
                    if self._stopping():
                        return outcome
                    self._carry_out(decision, outcome, trigger, since)
                between(outcome.cleaned + outcome.ignored + outcome.error, count)
        finally:
            self.stats.tallies[trigger].add(outcome)
            self.stats.rechecks += len(outcome.young) + len(outcome.lagging)
            self.stats.brakes += self._judge.braked and not braked
        LOG.debug(
            "Cleaned %(cleaned)i stale staging files, %(ignored)i ignored (%(error)i errors)",
            {"cleaned": outcome.cleaned, "ignored": outcome.ignored, "error": outcome.error},
        )
        return outcome

    def _carry_out(
        self,
        decision: Decision,
        outcome: Outcome,
        trigger: Trigger,
        since: Mapping[str, float] | None,
    ) -> None:
        if decision.image_id is None:
            LOG.debug(
                "Staging directory contains unexpected non-image file %r; ignoring", decision.name
            )
        elif decision.verdict is Verdict.REMOVE:
            size = self._remove(decision, outcome)
            if size is not None and self._on_removal is not None:
                came = since.get(decision.name) if since else None
                self._on_removal(
                    Removal(
                        self._staging.full_path(decision.name),
                        decision.image_id,
                        decision.state or ImageState.ABSENT,
                        size,
                        trigger,
                        None if came is None else time.monotonic() - came,
                    )
                )
            return
        elif decision.verdict is Verdict.RECHECK and decision.state is ImageState.LIVE:
            outcome.lagging.add(decision.image_id.lower())
        elif decision.verdict is Verdict.RECHECK:
            outcome.young[decision.name] = decision.delay
        outcome.ignored += 1

    def _remove(self, decision: Decision, outcome: Outcome) -> int | None:
        """Bytes that a file held on disk; None when it stays, or somebody else removed it."""
        if LOG.isEnabledFor(log.DEBUG):
            LOG.debug(
                "Stale staging residue found for image %(uuid)s: %(file)r; deleting now.",
                {"uuid": decision.image_id, "file": self._staging.full_path(decision.name)},
            )
        absent = decision.state is ImageState.ABSENT
        size, failure = None, None
        try:
            # A file of an absent image that vanished meanwhile must not be looked up again: one
            # of that name that comes now is another, and young.
            if not absent or decision.status is not None:
                size = self._staging.remove(decision.name, decision.status)
        except FileChangedError:
            outcome.ignored += 1
            outcome.young[decision.name] = max(self._judge.grace, 1.0)
            return None
        except OSError as error:
            failure = error
        if failure is not None:  # not above, where oslo.log would add the error to the line
            outcome.error += 1
            self._tell_failure(decision.name, failure)
            if self._on_failure is not None:
                self._on_failure(decision, failure)
            return None
        outcome.cleaned += 1
        if size is not None:
            outcome.removed += 1
            outcome.size += size
            self._judge.absent_removed += absent
        self._failures.pop(decision.name, None)
        self._failed_before.pop(decision.name, None)
        return size

    def _tell_failure(self, name: str, failure: OSError) -> None:
        told = self._failures.get(name, self._failed_before.get(name)) == failure.errno
        self._failures[name] = failure.errno
        LOG.log(
            log.DEBUG if told else log.ERROR,
            "Failed to delete stale staging path %(path)r: %(err)s",
            {"path": self._staging.full_path(name), "err": str(failure)},
        )


def _steps(batches: Iterable[Sequence[str]]) -> Iterator[Sequence[str]]:
    for names in batches:
        for start in range(0, len(names), FILES_PER_STEP):
            yield names[start : start + FILES_PER_STEP]
