# SPDX-License-Identifier: Apache-2.0
"""Passes of the cleaner, run to their end."""

from collections.abc import Mapping, Set

from watcher.database.images import Images
from watcher.reconcile.age import AgeClock
from watcher.reconcile.budget import RemovalBudget
from watcher.reconcile.cleaner import Cleaner, Outcome, Pass, Progress, Step
from watcher.reconcile.planner import Decision, Planner
from watcher.staging.directory import Staging
from watcher.stats import Stats, Trigger


def new_cleaner(
    staging: Staging,
    images: Images,
    *,
    absent_grace: float = 0,
    max_absent_removals: int = 1000,
    trusted: bool = False,
    clock: AgeClock | None = None,
) -> Cleaner:
    """A cleaner with counts and a budget of its own."""
    budget = RemovalBudget(max_absent_removals)
    planner = Planner(
        staging, images, budget, absent_grace=absent_grace, trusted=trusted, clock=clock
    )
    return Cleaner(staging, planner, Stats())


def finish(work: Pass, steps: list[Step] | None = None) -> Outcome:
    """Run a pass to its end; its outcome. ``steps`` takes its steps."""
    for step in work.steps():
        if steps is not None:
            steps.append(step)
    return work.outcome


def sweep(cleaner: Cleaner) -> Outcome:
    """One full sweep."""
    return finish(cleaner.sweep())


def clean(
    cleaner: Cleaner,
    names: Mapping[str, float],
    trigger: Trigger = Trigger.FILE_EVENT,
    notified: Set[str] = frozenset(),
) -> Outcome:
    """One pass over some names."""
    return finish(cleaner.clean(names, trigger, notified=notified))


def plan(cleaner: Cleaner) -> list[Decision]:
    """Decisions on every file; nothing is removed."""
    decisions = cleaner.sweep(count=0).decisions()
    return [each for each in decisions if not isinstance(each, Progress)]
