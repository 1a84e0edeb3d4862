# SPDX-License-Identifier: Apache-2.0
"""File systems, as the kernel has them mounted."""

#: types of file systems that other hosts may write to without a file event for this one
NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse.ceph", "fuse.ceph-fuse", "fuse.fuse-nfs",
    "fuse.glusterfs", "fuse.juicefs", "fuse.mfs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs",
    "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "virtiofs",
}  # fmt: skip

UNKNOWN = "unknown"


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
    `UNKNOWN` when that can't be told."""
    try:
        kind = mount_type(descriptor)
    except OSError:  # without /proc, or without a free descriptor
        return UNKNOWN
    return kind if kind in NETWORK or kind == UNKNOWN else None
