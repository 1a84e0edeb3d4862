# SPDX-License-Identifier: Apache-2.0
"""How many files of images without a row may be removed: a budget over time."""

import time
from collections import deque
from collections.abc import Callable

WINDOW = 86400.0  # seconds


class RemovalBudget:
    """At most ``limit`` removals in any 24 hours; nothing but time refills it.

    A removal is reserved before it is tried, and refunded if it isn't made. A dry run does the
    same with a budget of its own, and so agrees with the sweep.

    :param limit: ``max_absent_removals``; may be changed at any time
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._spent: deque[float] = deque()  # moments

    @property
    def room(self) -> int:
        """Removals that may still be made now."""
        now = self._clock()
        while self._spent and now - self._spent[0] >= WINDOW:
            self._spent.popleft()
        return max(0, self.limit - len(self._spent))

    def reserve(self) -> bool:
        """Take one removal out of the budget; False when there is no room."""
        if not self.room:
            return False
        self._spent.append(self._clock())
        return True

    def refund(self) -> None:
        """Give back the last reservation: its removal was not made."""
        if self._spent:
            self._spent.pop()
