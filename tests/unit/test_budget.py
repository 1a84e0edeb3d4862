# SPDX-License-Identifier: Apache-2.0
from watcher.reconcile.budget import WINDOW, RemovalBudget


class Clock:
    """A clock that only a test moves on."""

    def __init__(self) -> None:
        self.now = 5e5

    def __call__(self) -> float:
        return self.now


def spend(budget: RemovalBudget, tries: int) -> int:
    """Removals that were let through."""
    return sum(budget.reserve() for _ in range(tries))


def test_in_24_hours_at_most_that_many() -> None:
    clock = Clock()
    budget = RemovalBudget(10, clock)
    assert spend(budget, 4) == 4
    clock.now += WINDOW / 2
    assert spend(budget, 100) == 6
    assert budget.room == 0
    clock.now += WINDOW / 2 - 1
    assert spend(budget, 1) == 0, "the first four are not a day old"
    clock.now += 1
    assert spend(budget, 100) == 4
    clock.now += 3 * WINDOW
    assert budget.room == 10


def test_never_more_than_the_limit_in_any_window() -> None:
    clock = Clock()
    budget = RemovalBudget(50, clock)
    moments: list[float] = []
    for _ in range(20_000):
        clock.now += 37.0
        if budget.reserve():
            moments.append(clock.now)
    assert len(moments) > 250, "it goes on day by day"
    for first, last in zip(moments, moments[50:], strict=False):
        assert last - first >= WINDOW


def test_a_removal_that_is_not_made_is_given_back() -> None:
    budget = RemovalBudget(1, Clock())
    for _ in range(5):
        assert budget.reserve()
        assert not budget.reserve()
        budget.refund()
    assert budget.room == 1


def test_a_limit_that_changes() -> None:
    budget = RemovalBudget(0, Clock())
    assert not budget.reserve()
    budget.limit = 3
    assert spend(budget, 5) == 3
    budget.limit = 1
    assert budget.room == 0
    budget.limit = 5
    assert spend(budget, 5) == 2


def test_what_was_not_reserved_cannot_be_given_back() -> None:
    clock = Clock()
    budget = RemovalBudget(2, clock)
    budget.refund()
    assert budget.room == 2
    assert budget.reserve()
    budget.refund()
    budget.refund()
    assert budget.room == 2 and spend(budget, 5) == 2
    clock.now += 3 * WINDOW
    assert budget.room == 2
    budget.refund()
    assert budget.room == 2


def test_a_refund_counts_for_the_time_of_its_reservation() -> None:
    clock = Clock()
    budget = RemovalBudget(3, clock)
    assert spend(budget, 1) == 1
    clock.now += 1000
    assert spend(budget, 2) == 2
    budget.refund()
    clock.now += WINDOW - 900
    assert budget.room == 2, "only the second is younger than a day"
    clock.now += 900
    assert budget.room == 3
