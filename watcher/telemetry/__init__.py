# SPDX-License-Identifier: Apache-2.0
"""What the service writes and serves: audit, metrics, HTTP, systemd, report."""

import os

MODE = 0o640  # of the files


def give_to_owner(descriptor: int, directory: str | int) -> None:
    """Give what root makes in a directory of the service user's to that user.

    :param directory: its path, or a descriptor of it
    :raises OSError: root may not, without the capability
    """
    if os.geteuid() == 0:
        owner = os.stat(directory)
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
