# SPDX-License-Identifier: Apache-2.0
"""How long a file has been as it is, proof against steps of the system clock."""

import math
import os
import time
from collections.abc import Callable

from oslo_log import log

LOG = log.getLogger(__name__)

STEP = 1.0  # seconds; what adjusts the clock smoothly stays far below this between two looks


class AgeClock:
    """Ages of files in seconds.

    File times are of the system clock, which may be set while we run; then a young file could
    look old. After such a step no file is older than the step, until it has aged anew.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._offset = wall() - monotonic()
        self._stepped = -math.inf

    def age(self, status: os.stat_result) -> float:
        """Seconds since the file's data, name or mode last changed; negative when that lies
        in the future."""
        wall, monotonic = self._wall(), self._monotonic()
        offset = wall - monotonic
        if abs(offset - self._offset) > STEP:
            LOG.warning(
                "The system clock was set by %+.0f seconds; files of unknown images wait anew",
                offset - self._offset,
            )
            self._stepped = monotonic
        self._offset = offset
        changed = max(status.st_mtime, status.st_ctime)
        return min(wall - changed, monotonic - self._stepped)
