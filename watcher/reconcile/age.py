# SPDX-License-Identifier: Apache-2.0
"""How long a file has been as it is, proof against steps of this host's clock, and against
the clocks of others."""

import math
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from oslo_log import log

LOG = log.getLogger(__name__)

STEP = 1.0  # seconds; what adjusts the clock smoothly stays far below this between two looks
MAX_SEEN = 10_000  # files that are remembered: 4 MB


class _Seen(NamedTuple):
    state: tuple[int, int, int]
    since: float


class AgeClock:
    """Ages of files in seconds.

    File times are of the system clock, which may be set while we run; then a young file could
    look old. After such a step no file is older than the step, until it has aged again.
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
                "System clock stepped by %+.0f s; restarting absent_grace",
                offset - self._offset,
            )
            self._stepped = monotonic
        self._offset = offset
        changed = max(status.st_mtime, status.st_ctime)
        return min(wall - changed, monotonic - self._stepped)


class Sightings:
    """How long files have been seen as they are, in seconds of this host's monotonic clock.

    Times of files on a network file system are of a server's clock, or another host's. What is
    not seen from one sweep to the end of the next is forgotten.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._before: dict[str, _Seen] = {}
        self._now: dict[str, _Seen] = {}

    def begin(self) -> None:
        """A sweep begins."""
        self._before, self._now = self._now, {}

    def age(self, name: str, status: os.stat_result) -> float:
        """Seconds since that file was first seen in this state, 0 for the first time; negative
        when there are too many to remember it."""
        if len(self._now) >= MAX_SEEN and name not in self._now:
            return -math.inf
        # Not the inode's number: in user space it may be another one at each look.
        state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        moment = self._monotonic()
        seen = self._now.get(name) or self._before.get(name)
        if seen is None or seen.state != state:
            seen = _Seen(state, moment)
        self._now[name] = seen
        return moment - seen.since
