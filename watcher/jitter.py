# SPDX-License-Identifier: Apache-2.0
"""Chance in waits: what happens to many hosts at once must not bring them all back in step."""

import random


def around(seconds: float, share: float) -> float:
    """About so many seconds: at most that share of them less or more."""
    return seconds * random.uniform(1 - share, 1 + share)  # noqa: S311 - no secret


def within(seconds: float) -> float:
    """At most so many seconds."""
    return random.uniform(0, seconds)  # noqa: S311 - no secret
