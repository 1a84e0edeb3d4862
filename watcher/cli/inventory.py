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
from watcher.reconcile.kinds import Kind, Kinds, kind_of
from watcher.reconcile.planner import Action, Decision, Planner, Reason
from watcher.staging.directory import Staging

REMOVE, RECHECK, KEEP = (each.value for each in (Action.REMOVE, Action.RECHECK, Action.KEEP))
ERROR = "error"  # residue that can't be removed
ACTIONS = (ERROR, REMOVE, RECHECK, KEEP)


class Entry(NamedTuple):
    """One file.

    :param action: one of `ACTIONS`
    :param kind: None when the file is gone, or can't be looked at
    :param status: as it was when it was looked at
    :param size: bytes on disk
    :param age: seconds since its data, name or mode last changed; None if unknown
    """

    name: str
    image_id: str | None
    state: ImageState | None
    action: str
    reason: str
    size: int
    age: float | None
    image_status: str | None = None
    kind: Kind | None = None
    status: os.stat_result | None = None


@dataclass
class Count:
    """Files, and their bytes on disk."""

    files: int = 0
    size: int = 0


class Totals:
    """Sums over entries."""

    def __init__(self) -> None:
        self.by_action = {action: Count() for action in ACTIONS}
        #: the same files by kind, for each action
        self.kinds = {action: Kinds() for action in ACTIONS}
        #: whether max_absent_removals, or a missing witness, keeps files
        self.limited = self.unwitnessed = 0
        #: of what is to be removed, or can't be
        self.oldest: Entry | None = None

    def __getitem__(self, action: str) -> Count:
        return self.by_action[action]

    @property
    def residue(self) -> int:
        """Files that ought to go."""
        return self[REMOVE].files + self[ERROR].files

    @property
    def files(self) -> int:
        """Files in all."""
        return sum(count.files for count in self.by_action.values())

    @property
    def ignored(self) -> int:
        """Files that stay, as Glance counts them."""
        return self[KEEP].files + self[RECHECK].files

    def add(self, entry: Entry) -> None:
        """Count one more."""
        count = self.by_action[entry.action]
        count.files += 1
        count.size += entry.size
        if entry.kind is not None and entry.status is not None:
            self.kinds[entry.action].add(entry.kind, entry.status)
        self.limited += entry.reason == Reason.LIMIT.value
        self.unwitnessed += entry.reason == Reason.NO_WITNESS.value
        if entry.action in (REMOVE, ERROR) and entry.age is not None:
            oldest = self.oldest.age if self.oldest else None
            if oldest is None or entry.age > oldest:
                self.oldest = entry


def entries(
    staging: Staging, planner: Planner, decisions: Iterable[Decision | Progress]
) -> Iterator[Entry]:
    """Entries on the files of these decisions, one at a time; a file that can't be removed gives
    its place in the removal budget back, as in a sweep.

    :raises ConfigError: the directory can't be read
    :raises DatabaseError: the database can't answer
    """
    clock = AgeClock()
    try:
        obstacles = _Obstacles(access_to(staging))
        for decision in decisions:
            if not isinstance(decision, Progress):
                entry = _entry(staging, decision, clock, obstacles)
                if entry.action == ERROR:
                    planner.refund(decision)
                yield entry
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


def _entry(staging: Staging, decision: Decision, clock: AgeClock, obstacles: _Obstacles) -> Entry:
    action, reason = decision.action.value, decision.reason.value
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
    if action == REMOVE and obstacle:
        action, reason = ERROR, f"{reason}, but {obstacle}"
    if decision.state is ImageState.LIVE and decision.image_status:
        reason = f"{reason}: {decision.image_status}"
    return Entry(
        decision.name,
        decision.image_id,
        decision.state,
        action,
        reason,
        status.st_blocks * 512 if status else 0,
        clock.age(status) if status else None,
        decision.image_status,
        kind_of(decision, status) if status else None,
        status,
    )
