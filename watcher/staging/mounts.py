# SPDX-License-Identifier: Apache-2.0
"""File systems, as the kernel has them mounted."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

#: types of file systems that other hosts may write to without a file event for this one
NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.ceph-fuse", "fuse.fuse-nfs",
    "fuse.glusterfs", "fuse.juicefs", "fuse.mfs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs",
    "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "virtiofs",
}  # fmt: skip

UNKNOWN = "unknown"
_ESCAPE = re.compile(rb"\\([0-7]{3})")
# of systemd: systemd-private-<id of the boot>-<unit>-<random>
_PRIVATE = re.compile(r"/systemd-private-[0-9a-f]+-(.+)-[^-/]+/tmp$")


def mount_type(descriptor: int) -> str:
    """Type of the file system on which an open file lies, such as "ext4" or "nfs4".

    From the table of mounts, for statfs has one number for all file systems in user space.
    """
    with open(f"/proc/self/fdinfo/{descriptor}") as info:
        mount = next((line.split()[1] for line in info if line.startswith("mnt_id:")), "")
    with open("/proc/self/mountinfo", "rb") as mounts:  # in a name a \r is no end of a line
        for line in mounts:
            # ID parent device root point options [optional]... - type source options
            fields = line.split(b" ")
            if fields[0] == mount.encode():
                return fields[fields.index(b"-", 6) + 1].decode()
    return UNKNOWN


def network_type(descriptor: int) -> str | None:
    """Type of the network file system on which an open file lies; None when it lies on none,
    `UNKNOWN` if it can't be found out."""
    try:
        kind = mount_type(descriptor)
    except OSError:  # without /proc, or without a free descriptor
        return UNKNOWN
    return kind if may_be_shared(kind) else None


def may_be_shared(kind: str) -> bool:
    """Whether other hosts may write to a file system of that type; of an unknown one they may."""
    return kind in NETWORK or kind == UNKNOWN


class Mount(NamedTuple):
    """A line of the table of mounts.

    :param device: major and minor number of the file system
    :param root: the directory in it that is mounted
    :param point: where it is mounted
    """

    number: str
    device: str
    root: str
    point: str
    type: str


NO_MOUNT = Mount("", "", "/", "/", UNKNOWN)


def parse(table: bytes) -> list[Mount]:
    """Mounts in the text of a mountinfo file, the later ones on top."""
    found = []
    for line in table.split(b"\n"):  # in a name a \r is no end of a line
        # ID parent device root point options [optional]... - type source options
        fields = [_ESCAPE.sub(_unescaped, field).decode(errors="surrogateescape")
                  for field in line.split(b" ")]  # fmt: skip
        with suppress(ValueError, IndexError):
            kind = fields[fields.index("-", 6) + 1]
            found.append(Mount(fields[0], fields[2], fields[3], fields[4], kind))
    return found


def _unescaped(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8) & 0xFF])


def mounts() -> list[Mount]:
    """Mounts of this process; none without /proc."""
    with suppress(OSError):
        return parse(Path("/proc/self/mountinfo").read_bytes())
    return []


def mount_of(path: str, table: Iterable[Mount]) -> Mount:
    """The mount in which an absolute path without links lies."""
    found = NO_MOUNT
    for mount in table:
        below = mount.point.rstrip("/") + "/"
        if (path + "/").startswith(below) and len(mount.point) >= len(found.point):
            found = mount
    return found


def private_tmp(path: str) -> str | None:
    """Why a directory below /tmp or /var/tmp can never appear here, and what to do: systemd gave
    this service a /tmp of its own. None when it may appear."""
    unit = ""
    with suppress(OSError):
        unit = unit_of(Path("/proc/self/cgroup").read_text(errors="replace"))
    return private_tmp_in(os.path.realpath(path), mounts(), unit)


def private_tmp_in(path: str, table: Iterable[Mount], unit: str) -> str | None:
    """As `private_tmp`, from a table of mounts.

    :param unit: of this process; "" when it isn't known
    """
    mount = mount_of(path, table)
    private = _PRIVATE.search(mount.root)
    if mount.point not in ("/tmp", "/var/tmp") or private is None:  # noqa: S108 - only compared
        return None
    owner = private[1]
    # With JoinsNamespaceOf= it is named after the unit that was started first.
    if owner != unit if unit else "glance-api" in owner:
        return None
    return (
        f"{path} can't appear: {mount.point} is private to {owner} (PrivateTmp=yes); add "
        "JoinsNamespaceOf= with the unit of glance-api, or let Glance stage in a directory "
        f"outside {mount.point}"
    )


def unit_of(cgroups: str) -> str:
    """The unit of systemd in the text of a cgroup file; "" when there is none."""
    names = [name for line in cgroups.splitlines() for name in line.split("/")]
    return next((name for name in reversed(names) if name.endswith(".service")), "")
