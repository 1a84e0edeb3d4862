# SPDX-License-Identifier: Apache-2.0
"""Chance in waits: what happens to many hosts at once must not bring them all back in step."""

import random

MAX_DELAY = 60.0  # seconds


def around(seconds: float, share: float) -> float:
    """About so many seconds: at most that share of them less or more."""
    return seconds * random.uniform(1 - share, 1 + share)  # noqa: S311 - no secret


def within(seconds: float) -> float:
    """At most so many seconds."""
    return random.uniform(0, seconds)  # noqa: S311 - no secret


def backoff(attempt: int) -> float:
    """Seconds before try number ``attempt`` (the first repetition is 1): doubled from one
    second to a minute, with jitter, lest many hosts come back in step."""
    longest = min(2.0 ** min(attempt - 1, 10), MAX_DELAY)
    return longest - within(longest / 2)
