# SPDX-License-Identifier: Apache-2.0
"""What there is in the staging directory, and what a sweep would do with it."""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from watcher.checks.directory import Access, access_to, removal
from watcher.checks.result import Result
from watcher.database.images import ImageState
from watcher.errors import ConfigError
from watcher.reconcile.age import AgeClock
from watcher.reconcile.cleaner import Progress
from watcher.reconcile.planner import Decision, Planner, Reason, Verdict
from watcher.staging.directory import Staging

REMOVE, RECHECK, KEEP = (each.value for each in (Verdict.REMOVE, Verdict.RECHECK, Verdict.KEEP))
ERROR = "error"  # residue that can't be removed
VERDICTS = (ERROR, REMOVE, RECHECK, KEEP)


class Finding(NamedTuple):
    """One file.

    :param verdict: one of `VERDICTS`
    :param size: bytes on disk
    :param age: seconds since its data, name or mode last changed; None when that can't be told
    """

    name: str
    image_id: str | None
    state: ImageState | None
    verdict: str
    reason: str
    size: int
    age: float | None


@dataclass
class Count:
    """Files, and their bytes on disk."""

    files: int = 0
    size: int = 0


class Totals:
    """Sums over findings."""

    def __init__(self) -> None:
        self.by_verdict = {verdict: Count() for verdict in VERDICTS}
        #: whether max_absent_removals, or a missing witness, keeps files
        self.limited = self.unwitnessed = 0
        #: of what is to be removed, or can't be
        self.oldest: Finding | None = None

    def __getitem__(self, verdict: str) -> Count:
        return self.by_verdict[verdict]

    @property
    def residue(self) -> int:
        """Files that ought to go."""
        return self[REMOVE].files + self[ERROR].files

    @property
    def files(self) -> int:
        """Files in all."""
        return sum(count.files for count in self.by_verdict.values())

    @property
    def ignored(self) -> int:
        """Files that stay, as Glance counts them."""
        return self[KEEP].files + self[RECHECK].files

    def add(self, finding: Finding) -> None:
        """Count one more."""
        count = self.by_verdict[finding.verdict]
        count.files += 1
        count.size += finding.size
        self.limited += finding.reason == Reason.LIMIT.value
        self.unwitnessed += finding.reason == Reason.NO_WITNESS.value
        if finding.verdict in (REMOVE, ERROR) and finding.age is not None:
            oldest = self.oldest.age if self.oldest else None
            if oldest is None or finding.age > oldest:
                self.oldest = finding


def findings(
    staging: Staging, planner: Planner, decisions: Iterable[Decision | Progress]
) -> Iterator[Finding]:
    """Findings on the files of these decisions, one at a time; a file that can't be removed gives
    its place in the removal budget back, as in a sweep.

    :raises ConfigError: the directory can't be read
    :raises DatabaseError: the database can't answer
    """
    clock = AgeClock()
    try:
        obstacles = _Obstacles(access_to(staging))
        for decision in decisions:
            if not isinstance(decision, Progress):
                finding = _finding(staging, decision, clock, obstacles)
                if finding.verdict == ERROR:
                    planner.refund(decision)
                yield finding
    except OSError as error:
        raise ConfigError(f"Cannot read the staging directory: {error}") from None


class _Obstacles:
    """Why files can't be removed, in the words of ``check``."""

    def __init__(self, access: Access) -> None:
        self._user, self._removal = access.user, removal(access)

    def of(self, status: os.stat_result) -> str:
        """That of a file; empty when there is none."""
        if stat.S_ISDIR(status.st_mode):
            return "this is a directory"
        stuck = self._removal.result
        own = status.st_uid == self._user  # enough for the sticky bit, of which check warns
        if stuck is Result.FAILURE or (stuck is Result.WARNING and not own):
            return self._removal.found
        return ""


def _finding(
    staging: Staging, decision: Decision, clock: AgeClock, obstacles: _Obstacles
) -> Finding:
    verdict, reason = decision.verdict.value, decision.reason.value
    status: os.stat_result | None = None
    obstacle = ""
    try:
        status = staging.lstat(decision.name)
    except FileNotFoundError:
        pass
    except OSError as error:
        obstacle = error.strerror or type(error).__name__
    if status:
        obstacle = obstacles.of(status)
    if verdict == REMOVE and obstacle:
        verdict, reason = ERROR, f"{reason}, but {obstacle}"
    return Finding(
        decision.name,
        decision.image_id,
        decision.state,
        verdict,
        reason,
        status.st_blocks * 512 if status else 0,
        clock.age(status) if status else None,
    )
