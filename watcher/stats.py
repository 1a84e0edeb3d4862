# SPDX-License-Identifier: Apache-2.0
"""Numbers since the start, behind metrics, status text and report.

The reconciler's and the listener's threads write, each its own numbers; anyone may read.
"""

import enum
import time
from dataclasses import dataclass, field

#: upper bounds of the lag's histogram, in seconds
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0)


class Trigger(enum.Enum):
    """Why a file was looked at."""

    SWEEP = "sweep"
    NOTIFICATION = "notification"
    FILE_EVENT = "file_event"
    RECHECK = "recheck"


@dataclass
class Tally:
    """Glance's counts, and the bytes on disk that were given back.

    :param removed: files of ``cleaned`` that weren't gone already, as ``size`` is theirs alone:
        of several watchers on one directory only one counts a file here
    """

    cleaned: int = 0
    ignored: int = 0
    error: int = 0
    size: int = 0
    removed: int = 0

    def add(self, other: "Tally", *, less: "Tally") -> None:
        """Add another's counts, less those of it that were added before."""
        self.cleaned += other.cleaned - less.cleaned
        self.ignored += other.ignored - less.ignored
        self.error += other.error - less.error
        self.size += other.size - less.size
        self.removed += other.removed - less.removed

    def copy(self) -> "Tally":
        """The counts as they are now."""
        return Tally(self.cleaned, self.ignored, self.error, self.size, self.removed)


@dataclass(frozen=True)
class SweepRecord:
    """A sweep that ended; seconds since the epoch, and of duration."""

    ended: float
    duration: float
    tally: Tally


@dataclass
class Lag:
    """Seconds from the sending of notifications to their arrival."""

    #: how many arrived within each of `LAG_BUCKETS`, and later than all of them
    counts: list[int] = field(default_factory=lambda: [0] * (len(LAG_BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one; a sender whose clock is ahead counts as no lag."""
        seconds = max(0.0, seconds)
        self.counts[sum(seconds > bound for bound in LAG_BUCKETS)] += 1
        self.total += seconds


class Stats:
    """Running numbers of one process."""

    def __init__(self) -> None:
        self.started = time.time()
        self.tallies = {trigger: Tally() for trigger in Trigger}
        self.sweeps = 0
        self.last_sweep: SweepRecord | None = None
        #: notifications that named an image
        self.notifications = 0
        self.lag = Lag()
        #: files and images that were put back to be looked at later
        self.rechecks = 0

    def swept(self, duration: float, tally: Tally) -> None:
        """Record the end of a sweep."""
        self.sweeps += 1
        self.last_sweep = SweepRecord(time.time(), duration, tally)
