# SPDX-License-Identifier: Apache-2.0
import builtins
import io
import os
from pathlib import Path

import pytest

from watcher.staging import mounts
from watcher.staging.mounts import (
    UNKNOWN,
    Mount,
    mount_of,
    mount_type,
    network_type,
    parse,
    private_tmp_in,
    unit_of,
)


def test_the_type_is_that_of_the_mount() -> None:
    for path, kind in ((Path("/proc"), "proc"), (Path("/sys"), "sysfs")):
        descriptor = os.open(path, os.O_RDONLY)
        assert mount_type(descriptor) == kind
        assert network_type(descriptor) is None
        os.close(descriptor)


def test_names_of_other_mounts_may_hold_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel writes white space and \\ as numbers, but not all that could end a line."""
    table = (
        b"30 1 0:30 / /a\r\rb\x0b\x85\xff rw shared:1 - tmpfs x rw\n"
        b"31 1 0:31 / /staging rw - nfs4 h:/\r rw\n"
    )

    def opened(path: str, mode: str = "r") -> io.IOBase:
        return io.BytesIO(table) if mode == "rb" else io.StringIO("pos:\t0\nmnt_id:\t31\n")

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", opened)
        assert network_type(0) == "nfs4"


def test_a_mount_that_is_not_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: str, mode: str = "r") -> io.IOBase:
        return io.BytesIO() if mode == "rb" else io.StringIO("pos:\t0\n")

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", opened)
        assert network_type(0) == UNKNOWN


@pytest.mark.parametrize(
    ("kind", "network"),
    [
        ("nfs", True),
        ("nfs4", True),
        ("ceph", True),
        ("cifs", True),
        ("fuse.sshfs", True),
        ("fuse.glusterfs", True),
        ("ext4", False),
        ("xfs", False),
        ("tmpfs", False),
        ("overlay", False),
        ("fuse", False),
        ("fuse.mergerfs", False),
        (UNKNOWN, True),
    ],
)
def test_what_is_a_network_file_system(
    monkeypatch: pytest.MonkeyPatch, kind: str, network: bool
) -> None:
    monkeypatch.setattr(mounts, "mount_type", lambda descriptor: kind)
    assert network_type(0) == (kind if network else None)


def test_without_proc_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing /proc must not look like a missing staging directory."""

    def missing(*_: object) -> None:
        raise FileNotFoundError

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", missing)
        assert network_type(0) == UNKNOWN


TABLE = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /proc rw - proc proc rw
24 22 8:1 /srv/with\040space /mnt/with\040space rw shared:2 master:3 - ext4 /dev/sda1 rw
25 22 0:40 / /tmp rw - tmpfs tmpfs rw
26 25 0:40 /systemd-private-0123456789abcdef0123456789abcdef-UNIT-a1B2c3/tmp /tmp rw - tmpfs tmpfs rw
27 22 8:1 /var/tmp/systemd-private-0123456789abcdef0123456789abcdef-UNIT-x9Y8z7/tmp /var/tmp rw - ext4 /dev/sda1 rw
"""  # noqa: E501
WATCHER, GLANCE = "glance-staging-watcher.service", "glance-api.service"


def test_the_mount_of_a_path_is_the_one_on_top() -> None:
    table = parse(TABLE)
    assert len(table) == 6
    assert mount_of("/mnt/with space/x", table) == Mount(
        "24", "8:1", "/srv/with space", "/mnt/with space", "ext4"
    )
    for path, number in (("/", "22"), ("/tmpx", "22"), ("/tmp", "26"), ("/tmp/a/b", "26")):
        assert mount_of(path, table).number == number
    assert mount_of("/x", []).type == "unknown"


@pytest.mark.parametrize(
    ("path", "owner", "unit", "never"),
    [
        ("/tmp/staging", WATCHER, WATCHER, True),
        ("/tmp/staging/", WATCHER, WATCHER, True),
        ("/var/tmp/staging", WATCHER, WATCHER, True),
        ("/tmp/staging", GLANCE, WATCHER, False),  # JoinsNamespaceOf=
        ("/tmp/staging", "my-own@1.service", "my-own@1.service", True),
        ("/tmp/staging", WATCHER, "", True),
        ("/tmp/staging", GLANCE, "", False),
        ("/srv/staging", WATCHER, WATCHER, False),
        ("/tmpx/staging", WATCHER, WATCHER, False),
    ],
)
def test_what_can_never_appear_in_a_private_tmp(
    path: str, owner: str, unit: str, never: bool
) -> None:
    said = private_tmp_in(path, parse(TABLE.replace(b"UNIT", owner.encode())), unit)
    assert (said is not None) == never
    if said is not None:
        assert said.startswith(f"{path} can't appear: ") and "; add JoinsNamespaceOf=" in said
        assert owner in said


def test_a_tmp_that_all_share() -> None:
    table = b"".join(line for line in TABLE.splitlines(True) if b"private" not in line)
    assert private_tmp_in("/tmp/staging", parse(table), WATCHER) is None


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        (f"0::/system.slice/{WATCHER}\n", WATCHER),
        (f"0::/system.slice/{WATCHER}/payload\n", WATCHER),
        ("0::/user.slice/user-0.slice/session-1.scope\n", ""),
        ("0::/\n", ""),
        ("", ""),
    ],
)
def test_the_unit_of_this_process(cgroups: str, unit: str) -> None:
    assert unit_of(cgroups) == unit
