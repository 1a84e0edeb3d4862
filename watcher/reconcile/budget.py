# SPDX-License-Identifier: Apache-2.0
"""How many files of images without a row may be removed: a budget over time."""

import time
from collections import deque
from collections.abc import Callable

WINDOW = 86400.0  # seconds
_GRAIN = WINDOW / 1440  # removals of one minute are remembered as one number


class RemovalBudget:
    """At most ``limit`` removals in any 24 hours; nothing but time refills it.

    A removal is reserved before it is tried, and refunded if it isn't made. A dry run does the
    same with a budget of its own, and so agrees with the sweep.

    :param limit: ``max_absent_removals``; may be changed at any time
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._spent: deque[list[float]] = deque()  # [moment, removals]
        self._total = 0

    @property
    def room(self) -> int:
        """Removals that may still be made now."""
        oldest = self._clock() - WINDOW - _GRAIN  # a grain lasts until its last removal is old
        while self._spent and self._spent[0][0] <= oldest:
            self._total -= int(self._spent.popleft()[1])
        return max(0, self.limit - self._total)

    def reserve(self) -> bool:
        """Take one removal out of the budget; False when there is no room."""
        if not self.room:
            return False
        now = self._clock()
        if not self._spent or now - self._spent[-1][0] > _GRAIN:
            self._spent.append([now, 0])
        self._spent[-1][1] += 1
        self._total += 1
        return True

    def refund(self) -> None:
        """Give back the last reservation: its removal was not made."""
        if self._spent and self._spent[-1][1]:
            self._spent[-1][1] -= 1
            self._total -= 1
