# SPDX-License-Identifier: Apache-2.0
import pytest

from watcher.database.images import ImageState, state_of
from watcher.reconcile.planner import RECHECKS, Action, Reason, action_for, recheck_delay

LIVE, DELETED, ABSENT = ImageState.LIVE, ImageState.DELETED, ImageState.ABSENT
UNKNOWN = ImageState.UNKNOWN


KEEP, REMOVE, RECHECK = Action.KEEP, Action.REMOVE, Action.RECHECK


@pytest.mark.parametrize(
    ("state", "age", "notified", "witnessed", "expected"),
    [
        (LIVE, 1e9, False, True, (KEEP, Reason.LIVE)),
        (LIVE, 1e9, True, True, (RECHECK, Reason.LIVE)),
        (LIVE, 1e9, True, False, (RECHECK, Reason.LIVE)),
        (DELETED, -5, False, True, (REMOVE, Reason.DELETED)),
        (DELETED, 0, True, False, (REMOVE, Reason.DELETED)),
        (ABSENT, 59.9, False, True, (RECHECK, Reason.YOUNG)),
        (ABSENT, 59.9, False, False, (RECHECK, Reason.YOUNG)),
        (ABSENT, 59.9, True, True, (RECHECK, Reason.YOUNG)),
        (ABSENT, 60, False, True, (REMOVE, Reason.ABSENT)),
        (ABSENT, 60, True, False, (KEEP, Reason.NO_WITNESS)),
        (ABSENT, 1e9, False, False, (KEEP, Reason.NO_WITNESS)),
        (UNKNOWN, 1e9, False, True, (KEEP, Reason.UNKNOWN)),
        (UNKNOWN, 1e9, True, True, (KEEP, Reason.UNKNOWN)),
    ],
)
def test_decision(
    state: ImageState,
    age: float,
    notified: bool,
    witnessed: bool,
    expected: tuple[Action, Reason],
) -> None:
    assert action_for(state, age=age, grace=60, notified=notified, witnessed=witnessed) == expected


@pytest.mark.parametrize(("age", "outcome"), [(0, REMOVE), (-1, RECHECK)])
def test_without_a_grace_only_files_of_the_future_wait(age: float, outcome: Action) -> None:
    assert action_for(ABSENT, age=age, grace=0, notified=False, witnessed=True)[0] is outcome


@pytest.mark.parametrize(
    ("column", "expected"),
    [(1, DELETED), (True, DELETED), (0, LIVE), (False, LIVE), (None, LIVE), ("1", LIVE), (2, LIVE)],
)
def test_in_doubt_a_row_lives(column: object, expected: ImageState) -> None:
    assert state_of(column) is expected


def test_rechecks_back_off_and_end() -> None:
    delays = [recheck_delay(attempt) for attempt in range(1, RECHECKS + 2)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 32, 64, None]
