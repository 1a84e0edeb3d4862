# SPDX-License-Identifier: Apache-2.0
"""The watcher on a slow disk: removing a file whose name ends with .slow takes 50 ms."""

import os
import sys
import time

from watcher import cli

REMOVAL = 0.05  # seconds

unlink = os.unlink


def slowly(path: str, *, dir_fd: int | None = None) -> None:
    """Remove a file; as the real call, it lets other threads run meanwhile."""
    if path.endswith(".slow"):
        time.sleep(REMOVAL)
    unlink(path, dir_fd=dir_fd)


os.unlink = slowly  # type: ignore[assignment]
sys.exit(cli.main())
