# SPDX-License-Identifier: Apache-2.0
"""``sweep`` and ``sweep --dry-run`` as an operator runs them."""

import os
import pty
import subprocess

from tests.functional.host import Host, new_id
from tests.functional.program import PROGRAM


def test_one_sweep(host: Host) -> None:
    residue = [host.stage_deleted(), host.stage_deleted(".uc")]
    host.stage_live()
    foreign = host.stage("foo")
    code, said = host.sweep()
    assert code == 0
    assert said.splitlines()[-1] == "Cleaned 2 stale staging files, 2 ignored (0 errors)"
    assert not any(path.exists() for path in residue)
    assert foreign.exists()
    host.check_live()


def test_some_files_cannot_be_removed(host: Host) -> None:
    residue = host.stage_deleted()
    image = new_id()
    host.images.insert(image, deleted=True)
    (host.staging / image).mkdir()
    code, said = host.sweep()
    assert code == 1
    assert not residue.exists() and (host.staging / image).exists()
    assert said.splitlines()[-1] == "Cleaned 1 stale staging files, 0 ignored (1 errors)"
    path = host.staging / image
    assert f"Failed to delete stale staging path '{path}': [Errno 21] Is a directory" in said


def test_the_log_goes_to_stderr_and_the_result_to_stdout(host: Host) -> None:
    host.stage_deleted()
    run = subprocess.run(
        [PROGRAM, "sweep", "--config-file", host.config_file],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert run.stdout == "Cleaned 1 stale staging files, 0 ignored (0 errors)\n"
    assert "Stale staging residue found" in run.stderr


def test_an_absent_directory_is_all_well(host: Host) -> None:
    host.staging.rmdir()
    code, said = host.sweep()
    assert (code, said.splitlines()[-1]) == (
        0,
        f"Staging directory {host.staging} does not exist: nothing to do",
    )
    host.staging.mkdir()


def test_a_dry_run_removes_nothing_and_says_why(host: Host) -> None:
    live = host.stage_live()
    deleted = host.stage_deleted(".uc")
    deleted.write_bytes(b"x" * (3 << 20))
    young = host.stage(new_id(), b"")
    host.stage("foo", b"")
    host.stage("\x1b[31mred", b"")
    image = new_id()
    host.images.insert(image, deleted=True)
    (host.staging / image).mkdir()
    before = sorted(os.listdir(host.staging))
    code, said = host.sweep("--dry-run")
    assert code == 1
    assert sorted(os.listdir(host.staging)) == before
    lines = {line.split()[3]: line for line in said.splitlines() if "  (" in line}
    assert lines[live].startswith("keep ") and lines[live].endswith("(image is live)")
    assert lines[deleted.name].startswith("remove   3.0 MiB")
    assert lines[deleted.name].endswith("(image is deleted)")
    assert lines[young.name].startswith("keep ")
    assert "changed less than 60 s ago" in lines[young.name]
    assert lines["foo"].endswith("(not an image's file)")
    assert lines[image].startswith("error ")
    assert "\x1b[31m" not in said
    assert said.splitlines()[-1] == (
        "Would clean 1 stale staging files, 4 ignored (1 errors); 3.0 MiB to gain"
    )


def test_absent_images_wait_for_their_grace(host: Host, database_url: str) -> None:
    host.stage_live()
    path = host.stage(new_id())
    assert host.sweep()[0] == 0
    assert path.exists()
    host.configure(database_url=database_url, watcher="absent_grace = 0")
    assert host.sweep()[0] == 0
    assert not path.exists()


def test_the_brake(host: Host, database_url: str) -> None:
    host.stage_live()
    for _ in range(5):
        host.stage(new_id())
    host.configure(database_url=database_url, watcher="absent_grace = 0\nmax_absent_removals = 3")
    code, said = host.sweep()
    assert code == 0
    assert "Cleaned 3 stale staging files, 3 ignored (0 errors)" in said
    assert said.count("raise [staging_watcher] max_absent_removals") == 1
    assert len(os.listdir(host.staging)) == 3


def test_a_human_sees_progress(host: Host) -> None:
    for _ in range(3):
        host.stage_deleted()
    master, slave = pty.openpty()
    with os.fdopen(master, "rb", buffering=0) as terminal:
        done = subprocess.run(
            [PROGRAM, "sweep", "--config-file", host.config_file, "--nodebug"],
            stdout=subprocess.PIPE,
            stderr=slave,
            timeout=30,
            check=True,
        )
        os.close(slave)
        assert terminal.read(100) == b"\r3 of 3 files\r\n"
    assert done.stdout == b"Cleaned 3 stale staging files, 0 ignored (0 errors)\n"
