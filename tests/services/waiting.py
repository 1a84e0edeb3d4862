# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition instead of for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

INTERVAL = 0.02  # seconds


def wait_for(predicate: Callable[[], T], timeout: float, what: str) -> T:
    """Call ``predicate`` until its result is true, and return that result.

    Raises AssertionError naming ``what`` was awaited after ``timeout`` seconds; what the
    predicate itself raises passes through.
    """
    deadline = time.monotonic() + timeout
    while not (result := predicate()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}")
        time.sleep(INTERVAL)
    return result
