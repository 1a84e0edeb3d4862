# SPDX-License-Identifier: Apache-2.0
import pytest

from watcher import backoff

MANY = 500


def test_around_is_as_much_less_as_more() -> None:
    waits = {backoff.around(600, 0.1) for _ in range(MANY)}
    assert len(waits) == MANY
    assert 540 <= min(waits) < 560 and 640 < max(waits) <= 660


def test_within_is_any_time_up_to_the_longest() -> None:
    waits = {backoff.within(10) for _ in range(MANY)}
    assert len(waits) == MANY
    assert 0 <= min(waits) < 1 and 9 < max(waits) <= 10


@pytest.mark.parametrize(
    ("attempt", "longest"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (10**6, 60)]
)
def test_retry_delay_doubles_up_to_a_minute_with_jitter(attempt: int, longest: float) -> None:
    delays = {backoff.retry_delay(attempt) for _ in range(50)}
    assert all(longest / 2 <= delay <= longest for delay in delays)
    assert len(delays) > 1
