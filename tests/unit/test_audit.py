# SPDX-License-Identifier: Apache-2.0
import contextlib
import errno
import json
import logging
import os
import resource
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from watcher.database.images import ImageState
from watcher.errors import ConfigError
from watcher.reconcile.cleaner import Removal
from watcher.stats import Trigger
from watcher.telemetry import audit as audit_module
from watcher.telemetry.audit import AuditLog

IMAGE = "8aa29f1a-df65-415d-993e-a9e25853feb8"


def removal(name: str = IMAGE, waited: float | None = 0.0012345678) -> Removal:
    return Removal(
        f"/staging/{name}", IMAGE, ImageState.DELETED, 4096, Trigger.NOTIFICATION, waited
    )


def records(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="ascii")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.json"


def test_a_record(path: Path) -> None:
    path.write_text('{"before": true}\n')
    AuditLog(str(path)).record(removal())
    before, record = records(path)
    assert before == {"before": True}, "it is appended to"
    age = datetime.now().astimezone() - datetime.fromisoformat(record.pop("time"))
    assert timedelta() <= age < timedelta(minutes=1)
    assert record == {
        "file": f"/staging/{IMAGE}",
        "image": IMAGE,
        "size": 4096,
        "trigger": "notification",
        "state": "deleted",
        "latency": 0.001235,
    }


def test_no_latency_in_a_sweep(path: Path) -> None:
    AuditLog(str(path)).record(removal(waited=None))
    assert records(path)[0]["latency"] is None


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", "ü".encode(), b'"\n\\{', b"\x00\x1f\x7f", "💾".encode()]
)
def test_any_name_is_one_line_and_comes_back(path: Path, name: bytes) -> None:
    AuditLog(str(path)).record(removal(os.fsdecode(name)))
    (record,) = records(path)
    assert path.read_text()[:-1].isprintable(), "harmless to a terminal"
    assert os.fsencode(record["file"]) == b"/staging/" + name


def test_only_its_user_and_group_read_it(path: Path) -> None:
    mask = os.umask(0)
    try:
        AuditLog(str(path))
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_line_is_one_write(path: Path) -> None:
    """Else lines of two writers, as of a sweep by hand beside the service, could be mixed up."""
    audit = AuditLog(str(path))
    position, ends = os.open(path, os.O_RDONLY), []
    for _ in range(3):
        audit.record(removal("x" * 5000))
        ends.append(os.read(position, 65536)[-1:])
    os.close(position)
    assert ends == [b"\n"] * 3


def test_rotated_by_renaming(path: Path, tmp_path: Path) -> None:
    audit = AuditLog(str(path))
    audit.record(removal("1"))
    path.rename(tmp_path / "audit.json.1")
    audit.record(removal("2"))
    path.unlink()
    audit.record(removal("3"))
    assert [r["file"] for r in records(tmp_path / "audit.json.1")] == ["/staging/1"]
    assert [r["file"] for r in records(path)] == ["/staging/3"]


def test_rotated_by_copying_and_truncating(path: Path, tmp_path: Path) -> None:
    audit = AuditLog(str(path))
    audit.record(removal("1"))
    shutil.copy(path, tmp_path / "audit.json.1")
    os.truncate(path, 0)
    audit.record(removal("2"))
    assert [r["file"] for r in records(path)] == ["/staging/2"]


def link(path: Path, target: Path, owner: int | None = None) -> None:
    path.symlink_to(target)
    if owner is not None:
        os.chown(path, owner, owner, follow_symlinks=False)


def refused(path: Path) -> str:
    with pytest.raises(ConfigError, match="audit_log") as caught:
        AuditLog(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        (
            "none/audit.json",
            "make {d}/none for the user that runs glance-api, or name another file",
        ),
        ("", "name a file"),
    ],
)
def test_the_remedy_is_that_of_the_cause(tmp_path: Path, file: str, remedy: str) -> None:
    said = refused(tmp_path / file)
    assert said.endswith(f"; {remedy.format(d=tmp_path)}") and "run as" not in said


def test_no_link_is_followed(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("kept\n")
    link(path, victim / "file")
    assert "The file is a symbolic link; name its target" in refused(path)
    path.unlink()
    link(path, victim / "new")
    assert "The file is a symbolic link" in refused(path)
    link(tmp_path / "directory", victim)
    assert "Its directory is a symbolic link" in refused(tmp_path / "directory" / "file")
    assert [each.name for each in victim.iterdir()] == ["file"]
    assert (victim / "file").read_text() == "kept\n"


def test_a_link_in_place_of_the_rotated_file_is_not_followed(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    audit = AuditLog(str(path))
    path.rename(tmp_path / "audit.json.1")
    link(path, tmp_path / "victim")
    audit.record(removal("late"))
    assert "symbolic link" in (audit.condition.cause or "")
    path.unlink()
    audit.record(removal("1"))
    assert audit.condition.cause is None
    assert not (tmp_path / "victim").exists()
    assert [r["file"] for r in records(path)] == ["/staging/late", "/staging/1"]
    assert began_and_ended(caplog, "symbolic link"), caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_links_above_the_directory_must_be_roots_or_our_own(tmp_path: Path) -> None:
    """As /var/log may be; but one by the service's user could lead root anywhere."""
    (tmp_path / "real" / "log").mkdir(parents=True)
    for name, target in (("one", Path("real")), ("two", tmp_path / "one")):
        link(tmp_path / name, target)
        AuditLog(str(tmp_path / name / "log" / "audit.json")).record(removal(name))
    assert len(records(tmp_path / "real" / "log" / "audit.json")) == 2
    link(tmp_path / "foreign", tmp_path / "real", 64321)
    said = refused(tmp_path / "foreign" / "log" / "audit.json")
    assert "A symbolic link in the path is not followed" in said


def test_links_in_a_circle(tmp_path: Path) -> None:
    link(tmp_path / "loop", tmp_path / "loop")
    for bad in (tmp_path / "loop" / "x" / "audit.json", tmp_path / "loop" / "audit.json"):
        assert "symbolic link" in refused(bad)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes to files of others")
def test_root_writes_to_no_file_that_another_name_or_user_has(path: Path, tmp_path: Path) -> None:
    """Who owns the directory could have put it there."""
    os.chown(tmp_path, 64321, 64321)
    victim = tmp_path / "victim"
    victim.write_text("kept\n")
    path.hardlink_to(victim)
    assert "several hard links" in refused(path)
    path.unlink()
    path.touch()
    os.chown(path, 64322, 64322)
    assert "belongs to another user" in refused(path)
    assert (victim.read_text(), path.read_text()) == ("kept\n", "")
    os.chown(path, 64321, 64321)
    AuditLog(str(path)).record(removal())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for bad, cause in (
        (tmp_path / "missing" / "audit.json", "No such file or directory"),
        (tmp_path / "file" / "audit.json", "Not a directory"),
        (tmp_path, "Is a directory"),
    ):
        assert cause in refused(bad)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_nothing_but_a_regular_file_is_written_to(path: Path) -> None:
    """Any other could block removals, as a FIFO without a reader does."""
    assert "audit_log /dev/full: Not a regular file" in refused(Path("/dev/full"))
    os.mkfifo(path)
    assert "Not a regular file" in refused(path)


def test_a_fifo_in_its_place_holds_nobody_up(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audit = AuditLog(str(path))
    path.unlink()
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    for _ in range(1000):  # more than a FIFO takes
        audit.record(removal())
    os.close(reader)
    assert ["Not a regular file" in message for message in caplog.messages] == [True]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_new_file_by_root_is_the_directorys_owners(path: Path) -> None:
    os.chown(path.parent, 64321, 64322)
    audit = AuditLog(str(path))
    for number in range(2):
        made = path.stat()
        assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (64321, 64322, 0o640)
        path.rename(f"{path}.{number}")
        audit.record(removal())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_that_is_there_keeps_its_owner(path: Path) -> None:
    path.touch()
    os.chown(path.parent, 64321, 64322)
    AuditLog(str(path)).record(removal())
    assert (path.stat().st_uid, path.stat().st_gid) == (0, os.getegid())


def test_root_without_the_right_to_give_files_away(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", refuse)
    AuditLog(str(path)).record(removal())
    assert len(records(path)) == 1


def test_made_by_another_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.open

    def late(name: str, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_EXCL and name == path.name:
            path.write_text('{"before": true}\n')
        return really(name, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", late)
    AuditLog(str(path)).record(removal())
    assert len(records(path)) == 2


def test_a_failure_is_logged_once_and_is_a_condition(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    audit = AuditLog(str(directory / "audit.json"))
    shutil.rmtree(directory)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            audit.record(removal())
            assert audit.condition.cause == "No such file or directory"
        directory.mkdir()
        for _ in range(2):
            audit.record(removal())
            assert audit.condition.cause is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert "No such file or directory" in caplog.messages[0]
    assert len(records(directory / "audit.json")) == 5


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process can get longer, as on a full disk; size in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def began_and_ended(caplog: pytest.LogCaptureFixture, cause: str) -> bool:
    levels = [record.levelname for record in caplog.records]
    return levels == ["ERROR", "INFO"] and cause in caplog.messages[0]


def test_no_room_until_there_is_some(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    audit = AuditLog(str(path))
    audit.record(removal("1"))
    with room_for(path.stat().st_size):
        for _ in range(100):
            audit.record(removal("late"))
    audit.record(removal("2"))
    files = [r["file"] for r in records(path)]
    assert files == ["/staging/1", *["/staging/late"] * 100, "/staging/2"]
    assert began_and_ended(caplog, "File too large"), caplog.text


def test_a_line_cut_short_spoils_no_other(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    audit = AuditLog(str(path))
    audit.record(removal("1"))
    with room_for(path.stat().st_size + 10):
        for _ in range(100):
            audit.record(removal("late"))
    for name in "23":
        audit.record(removal(name))
    lines = path.read_text().splitlines()
    whole = [json.loads(line)["file"] for line in (lines[0], *lines[2:])]
    assert whole == ["/staging/1", *["/staging/late"] * 100, "/staging/2", "/staging/3"]
    assert len(lines[1]) == 10
    assert began_and_ended(caplog, "File too large"), caplog.text


@pytest.mark.parametrize("before", ["", '{"whole": 1}\n', "\n", '{"whole": 1}\n{"ha', "x"])
def test_a_half_line_of_an_earlier_process_spoils_no_record(path: Path, before: str) -> None:
    path.write_text(before)
    AuditLog(str(path)).record(removal("1"))
    *kept, last = path.read_text().splitlines()
    assert json.loads(last)["file"] == "/staging/1"
    assert kept == before.splitlines()


def test_no_room_until_rotated(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path.write_text("x" * 4085 + "\n")
    audit = AuditLog(str(path))
    with room_for(4096):
        for _ in range(100):
            audit.record(removal("late"))
        path.rename(tmp_path / "audit.json.1")
        audit.record(removal("1"))
    audit.record(removal("2"))
    files = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):  # cut short
            files.append(json.loads(line)["file"])
    assert files == [*["/staging/late"] * 100, "/staging/1", "/staging/2"]
    assert began_and_ended(caplog, "File too large"), caplog.text


def test_a_failure_to_close_the_rotated_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on NFS, which writes when a file is closed."""
    caplog.set_level(logging.INFO)
    really = os.close

    def close(descriptor: int) -> None:
        old = os.fstat(descriptor).st_ino == rotated.stat().st_ino
        really(descriptor)
        if old:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    audit = AuditLog(str(path))
    rotated = path.rename(tmp_path / "audit.json.1")
    monkeypatch.setattr(os, "close", close)
    audit.record(removal("1"))
    monkeypatch.undo()
    audit.record(removal("2"))
    assert [r["file"] for r in records(path)] == ["/staging/1", "/staging/2"]
    assert began_and_ended(caplog, "Disk quota exceeded"), caplog.text


def test_records_that_wait_are_bounded_and_the_rest_is_counted(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    audit = AuditLog(str(path))
    monkeypatch.setattr(audit_module, "MAX_WAITING", 1000)
    with room_for(0):
        for number in range(100):
            audit.record(removal(str(number)))
        assert len(audit._waiting) <= 1000
    audit.record(removal("last"))
    kept = len(records(path)) - 1
    assert 1 < kept < 10
    assert [r["file"] for r in records(path)][:kept] == [f"/staging/{n}" for n in range(kept)]
    assert caplog.messages[-1] == f"Audit log {path} lacks {100 - kept} removals"


def test_a_fault_is_found_and_ended_without_a_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "log" / "audit.json"
    path.parent.mkdir()
    audit = AuditLog(str(path))
    audit.flush()
    directory = path.parent.rename(path.parent.with_name("aside"))
    audit.flush()
    assert audit.condition.cause is None, "it was writable a moment ago"
    monkeypatch.setattr(audit_module, "WRITABLE_INTERVAL", -1.0)
    audit.flush()
    assert audit.condition.cause == "No such file or directory"
    audit.record(removal("1"))
    directory.rename(path.parent)
    audit.flush()
    assert audit.condition.cause is None
    assert [r["file"] for r in records(path)] == ["/staging/1"]
    assert began_and_ended(caplog, "No such file"), caplog.text


def test_a_read_only_file_system_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Status:
        """Of a file system."""

        f_flag = os.ST_RDONLY

    audit = AuditLog(str(path))
    monkeypatch.setattr(audit_module, "WRITABLE_INTERVAL", -1.0)
    with monkeypatch.context() as read_only:
        read_only.setattr(os, "fstatvfs", lambda descriptor: Status)
        audit.flush()
    assert audit.condition.cause == "Read-only file system"


def test_what_waits_at_the_end_is_written_or_counted(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("late", "lost"):
        audit = AuditLog(str(path))
        size = path.stat().st_size
        with room_for(size):
            audit.record(removal(name))
            if name == "lost":
                audit.close()
        audit.close()
    assert [r["file"] for r in records(path)] == ["/staging/late"]
    assert caplog.messages[-1] == f"Audit log {path} lacks 1 removals"
