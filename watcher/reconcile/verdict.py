# SPDX-License-Identifier: Apache-2.0
"""What becomes of one staged file: pure decisions, no I/O."""

import enum

from watcher.database.images import ImageState

FIRST_RECHECK = 0.5  # seconds
RECHECKS = 8  # 0.5 s, 1 s, ... 64 s: two minutes in all


class Verdict(enum.Enum):
    """What to do with a file."""

    KEEP = "keep"
    REMOVE = "remove"
    RECHECK = "recheck"


def verdict(state: ImageState, *, age: float, grace: float, notified: bool = False) -> Verdict:
    """Verdict on a file of an image in that state.

    :param age: seconds since the file last changed in any way
    :param grace: age in seconds from which on an absent image's file is residue
    :param notified: Glance told that it deleted this image
    """
    if state is ImageState.DELETED:
        return Verdict.REMOVE
    if state is ImageState.LIVE:
        # Told of a deletion that the row doesn't show: a lagging replica.
        return Verdict.RECHECK if notified else Verdict.KEEP
    if state is ImageState.UNKNOWN:
        return Verdict.KEEP
    return Verdict.REMOVE if age >= grace else Verdict.RECHECK


def recheck_delay(attempt: int) -> float | None:
    """Seconds to wait for a lagging row before recheck number ``attempt`` (the first is 1).

    None when the rest is left to the sweeps.
    """
    return FIRST_RECHECK * 2.0 ** (attempt - 1) if attempt <= RECHECKS else None
