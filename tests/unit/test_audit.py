# SPDX-License-Identifier: Apache-2.0
import json
import logging
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from watcher.account import Removal, Trigger
from watcher.audit import AuditLog
from watcher.conf import ConfigError
from watcher.images import ImageState

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


def test_a_line_is_one_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    for bad in (tmp_path / "missing" / "audit.json", tmp_path):
        with pytest.raises(ConfigError, match="audit_log") as caught:
            AuditLog(str(bad))
        assert "\n" not in str(caught.value)


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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk(caplog: pytest.LogCaptureFixture) -> None:
    audit = AuditLog("/dev/full")
    for _ in range(100):
        audit.record(removal())
    assert caplog.messages.count(caplog.messages[0]) == len(caplog.messages) == 1
    assert "No space left on device" in caplog.messages[0]
