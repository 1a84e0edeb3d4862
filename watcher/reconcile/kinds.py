# SPDX-License-Identifier: Apache-2.0
"""What stays in the staging directory, by kind: for operators, no decision depends on it."""

import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from watcher.database.images import ImageState
from watcher.reconcile.planner import Action, Decision

RESIDUE, LIVE, UNKNOWN, FOREIGN, DIRECTORY = NAMES = (
    "residue",  # of a deleted image, or of one without a row that is to go
    "live",  # of a live image
    "unknown",  # of an image without a row, kept for the time being
    "foreign",  # not named as Glance names files of images
    "directory",  # of any name
)
#: of live images, as Glance has them
STATUSES = (
    *("queued", "saving", "uploading", "importing", "active", "deactivated", "killed"),
    "pending_delete",
)
OTHER = "other"  # a status that Glance doesn't have, or one that may not be read


class Kind(NamedTuple):
    """A kind of file.

    :param name: one of `NAMES`
    :param image_status: one of `STATUSES` or `OTHER`; empty unless the name is `LIVE`
    """

    name: str
    image_status: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.image_status}" if self.image_status else self.name


class Share:
    """Files of one kind."""

    __slots__ = ("files", "oldest", "size")

    def __init__(self) -> None:
        self.files = 0
        #: bytes on disk
        self.size = 0
        #: moment at which the one that has not changed for longest did; seconds since the epoch
        self.oldest: float | None = None

    def add(self, status: os.stat_result) -> None:
        """Count a file."""
        self.files += 1
        self.size += status.st_blocks * 512
        changed = max(status.st_mtime, status.st_ctime)
        if self.oldest is None or changed < self.oldest:
            self.oldest = changed

    def add_all(self, other: "Share") -> None:
        """Count the files of another share too."""
        self.files += other.files
        self.size += other.size
        moments = [each for each in (self.oldest, other.oldest) if each is not None]
        self.oldest = min(moments, default=None)

    def age(self, now: float) -> float:
        """Seconds since the oldest one changed; 0 if there is none."""
        return 0.0 if self.oldest is None else max(0.0, now - self.oldest)


class Kinds(dict[Kind, Share]):
    """Files by kind; those that there are."""

    def add(self, kind: Kind, status: os.stat_result) -> None:
        """Count a file."""
        share = self.get(kind)
        if share is None:
            share = self[kind] = Share()
        share.add(status)

    def in_order(self) -> list[tuple[Kind, Share]]:
        """Kinds as `NAMES` has them, statuses in the order of an image's life."""
        order = [*STATUSES, OTHER, ""]
        return sorted(
            self.items(), key=lambda e: (NAMES.index(e[0].name), order.index(e[0].image_status))
        )


def merged(several: Iterable[Kinds]) -> Kinds:
    """The files of several sums in one."""
    found = Kinds()
    for kinds in several:
        for kind, share in kinds.items():
            found.setdefault(kind, Share()).add_all(share)
    return found


_PLAIN = {name: Kind(name) for name in NAMES}
_LIVE = {status: Kind(LIVE, status) for status in (*STATUSES, OTHER)}
#: each kind that there can be
ALL = (*(kind for name, kind in _PLAIN.items() if name != LIVE), *_LIVE.values())


def kind_of(decision: Decision, status: os.stat_result) -> Kind:
    """Kind of a file that is there.

    :param status: of the file
    """
    if stat.S_ISDIR(status.st_mode):
        return _PLAIN[DIRECTORY]
    if decision.image_id is None:
        return _PLAIN[FOREIGN]
    if decision.state is ImageState.LIVE:
        return _LIVE.get(decision.image_status or OTHER, _LIVE[OTHER])
    if decision.action is Action.REMOVE:
        return _PLAIN[RESIDUE]
    return _PLAIN[UNKNOWN]
