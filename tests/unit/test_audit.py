# SPDX-License-Identifier: Apache-2.0
import contextlib
import errno
import json
import logging
import os
import resource
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from watcher.database.images import ImageState
from watcher.errors import ConfigError
from watcher.stats import Removal, Trigger
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
    age = datetime.now(UTC) - datetime.fromisoformat(record.pop("time"))
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


def test_a_link_is_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    path.symlink_to(tmp_path / "place" / "audit.json")
    audit = AuditLog(str(path))
    audit.record(removal("1"))
    path.rename(tmp_path / "link")
    path.symlink_to(tmp_path / "place" / "another.json")
    audit.record(removal("2"))
    assert [r["file"] for r in records(tmp_path / "place" / "audit.json")] == ["/staging/1"]
    assert [r["file"] for r in records(tmp_path / "place" / "another.json")] == ["/staging/2"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for bad in (tmp_path / "missing" / "audit.json", tmp_path, tmp_path / "loop"):
        with pytest.raises(ConfigError, match="audit_log") as caught:
            AuditLog(str(bad))
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_nothing_but_a_regular_file_is_written_to(path: Path) -> None:
    """Any other could hold up removals, as a FIFO that nobody reads does."""
    with pytest.raises(ConfigError, match="audit_log /dev/full: Not a regular file"):
        AuditLog("/dev/full")
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="audit_log"):
        AuditLog(str(path))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(ConfigError, match="Not a regular file"):
        AuditLog(str(path))
    os.close(reader)


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
@pytest.mark.parametrize("linked", [False, True])
def test_a_new_file_by_root_is_the_directorys_owners(
    path: Path, tmp_path: Path, linked: bool
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    os.chown(place, 64321, 64322)
    if linked:
        path.symlink_to(place / "audit.json")
    audit = AuditLog(str(path if linked else place / "audit.json"))
    for _ in range(2):
        made = (place / "audit.json").stat()
        assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (64321, 64322, 0o640)
        (place / "audit.json").rename(place / "audit.json.1")
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
        if flags & os.O_EXCL:
            path.write_text('{"before": true}\n')
        return really(name, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", late)
    AuditLog(str(path)).record(removal())
    assert len(records(path)) == 2


def test_trouble_is_told_once_and_removals_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    audit = AuditLog(str(directory / "audit.json"))
    shutil.rmtree(directory)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            audit.record(removal())
        directory.mkdir()
        for _ in range(2):
            audit.record(removal())
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert "No such file or directory" in caplog.messages[0]
    assert len(records(directory / "audit.json")) == 2


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
            audit.record(removal("lost"))
    audit.record(removal("2"))
    assert [r["file"] for r in records(path)] == ["/staging/1", "/staging/2"]
    assert began_and_ended(caplog, "File too large"), caplog.text


def test_a_line_cut_short_spoils_no_other(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    audit = AuditLog(str(path))
    audit.record(removal("1"))
    with room_for(path.stat().st_size + 10):
        for _ in range(100):
            audit.record(removal("lost"))
    for name in "23":
        audit.record(removal(name))
    lines = path.read_text().splitlines()
    whole = [json.loads(line)["file"] for line in (lines[0], *lines[2:])]
    assert whole == ["/staging/1", "/staging/2", "/staging/3"]
    assert len(lines[1]) == 10
    assert began_and_ended(caplog, "File too large"), caplog.text


def test_no_room_until_rotated(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path.write_text("x" * 4085 + "\n")
    audit = AuditLog(str(path))
    with room_for(4096):
        for _ in range(100):
            audit.record(removal("lost"))
        path.rename(tmp_path / "audit.json.1")
        audit.record(removal("1"))
    assert [r["file"] for r in records(path)] == ["/staging/1"]
    assert began_and_ended(caplog, "File too large"), caplog.text


def test_trouble_at_the_close_of_a_rotated_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As NFS has it, which writes when a file is closed."""
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
