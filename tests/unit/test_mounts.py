# SPDX-License-Identifier: Apache-2.0
import builtins
import os
from pathlib import Path

import pytest

from watcher import mounts
from watcher.mounts import mount_type, network_type


def test_the_type_is_that_of_the_mount(tmp_path: Path) -> None:
    for path, kind in ((Path("/proc"), "proc"), (Path("/sys"), "sysfs")):
        descriptor = os.open(path, os.O_RDONLY)
        assert mount_type(descriptor) == kind
        assert network_type(descriptor) is None
        os.close(descriptor)


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
        ("unknown", False),
    ],
)
def test_what_is_a_network_file_system(
    monkeypatch: pytest.MonkeyPatch, kind: str, network: bool
) -> None:
    monkeypatch.setattr(mounts, "mount_type", lambda descriptor: kind)
    assert network_type(0) == (kind if network else None)


def test_without_proc_it_is_taken_for_a_local_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing /proc must not look like a missing staging directory."""

    def missing(*_: object) -> None:
        raise FileNotFoundError

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", missing)
        assert network_type(0) is None
