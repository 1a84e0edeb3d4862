# SPDX-License-Identifier: Apache-2.0
"""File systems, as the kernel has them mounted."""


def mount_type(descriptor: int) -> str:
    """Type of the file system on which an open file lies, such as "ext4" or "nfs4"."""
    with open(f"/proc/self/fdinfo/{descriptor}") as info:
        mount = next(line.split()[1] for line in info if line.startswith("mnt_id:"))
    with open("/proc/self/mountinfo", errors="surrogateescape") as mounts:
        for line in mounts:
            # ID parent device root point options [optional]... - type source options
            fields = line.split()
            if fields[0] == mount:
                return fields[fields.index("-", 6) + 1]
    return "unknown"
