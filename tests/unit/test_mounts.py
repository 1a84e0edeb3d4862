# SPDX-License-Identifier: Apache-2.0
import builtins
import io
import os
from pathlib import Path

import pytest

from watcher.staging import mounts
from watcher.staging.mounts import UNKNOWN, mount_type, network_type


def test_the_type_is_that_of_the_mount(tmp_path: Path) -> None:
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
