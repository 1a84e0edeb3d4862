# SPDX-License-Identifier: Apache-2.0
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
