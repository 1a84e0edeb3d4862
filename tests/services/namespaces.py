# SPDX-License-Identifier: Apache-2.0
"""Private name spaces of Linux, for mounts and limits that only one program sees."""

import os
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

USER = ("unshare", "--user", "--map-root-user")
MOUNTS = [*USER, "--mount", "--propagation", "private", "--"]


def can_run(*command: str) -> bool:
    """Whether a command ends well."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def impossible(reason: str) -> NoReturn:
    """Skip what is impossible here. In CI root must be able to, but in a chroot, where the kernel
    makes no user name spaces."""
    if os.environ.get("CI") and os.geteuid() == 0 and not _is_chroot():
        pytest.fail(reason)
    pytest.skip(reason)


def _is_chroot() -> bool:
    """Whether nothing is mounted at the root directory."""
    mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    return "/" not in (line.split()[4] for line in mounts)
