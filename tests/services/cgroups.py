# SPDX-License-Identifier: Apache-2.0
"""Control groups of Linux, for process trees that must end as a whole."""

import os
from contextlib import suppress
from pathlib import Path


def writable() -> Path | None:
    """Directory of the control groups (cgroup2); None when there is none to write to."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(place, os.W_OK):
            return Path(place)
    return None


def removed(group: Path) -> bool:
    """Try to remove a control group, for which its processes must have ended; whether it's gone."""
    with suppress(OSError):
        for path, _, _ in os.walk(group, topdown=False):
            os.rmdir(path)
    return not group.exists()
