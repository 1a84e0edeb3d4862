# SPDX-License-Identifier: Apache-2.0
"""Waits with jitter, so that many hosts that lost the same server don't return in step."""

import random

MAX_DELAY = 60.0  # seconds


def around(seconds: float, share: float) -> float:
    """Vary a wait in seconds by at most that share of it, up or down."""
    return seconds * random.uniform(1 - share, 1 + share)  # noqa: S311 - no secret


def within(seconds: float) -> float:
    """Draw a wait between 0 and that number of seconds."""
    return random.uniform(0, seconds)  # noqa: S311 - no secret


def retry_delay(attempt: int) -> float:
    """Seconds to wait before retry ``attempt``, counted from 1: doubled from one second to a
    minute, with jitter."""
    longest = min(2.0 ** min(attempt - 1, 10), MAX_DELAY)
    return longest - within(longest / 2)
