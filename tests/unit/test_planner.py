# SPDX-License-Identifier: Apache-2.0
import pytest

from watcher.database.images import ImageState, state_of
from watcher.reconcile.verdict import RECHECKS, Verdict, recheck_delay, verdict

LIVE, DELETED, ABSENT = ImageState.LIVE, ImageState.DELETED, ImageState.ABSENT
UNKNOWN = ImageState.UNKNOWN


@pytest.mark.parametrize(
    ("state", "age", "grace", "notified", "expected"),
    [
        (LIVE, 1e9, 0, False, Verdict.KEEP),
        (LIVE, 1e9, 0, True, Verdict.RECHECK),
        (DELETED, -5, 60, False, Verdict.REMOVE),
        (DELETED, 0, 60, True, Verdict.REMOVE),
        (ABSENT, 59.9, 60, False, Verdict.RECHECK),
        (ABSENT, 60, 60, False, Verdict.REMOVE),
        (ABSENT, 59.9, 60, True, Verdict.RECHECK),
        (ABSENT, 0, 0, False, Verdict.REMOVE),
        (ABSENT, -1, 0, False, Verdict.RECHECK),
        (UNKNOWN, 1e9, 0, False, Verdict.KEEP),
        (UNKNOWN, 1e9, 0, True, Verdict.KEEP),
    ],
)
def test_verdict(
    state: ImageState, age: float, grace: float, notified: bool, expected: Verdict
) -> None:
    assert verdict(state, age=age, grace=grace, notified=notified) is expected


def test_what_nobody_told_of_is_kept_while_it_lives() -> None:
    assert verdict(LIVE, age=1e9, grace=0) is Verdict.KEEP


@pytest.mark.parametrize(
    ("column", "expected"),
    [(1, DELETED), (True, DELETED), (0, LIVE), (False, LIVE), (None, LIVE), ("1", LIVE), (2, LIVE)],
)
def test_in_doubt_a_row_lives(column: object, expected: ImageState) -> None:
    assert state_of(column) is expected


def test_rechecks_back_off_and_end() -> None:
    delays = [recheck_delay(attempt) for attempt in range(1, RECHECKS + 2)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 32, 64, None]
