# SPDX-License-Identifier: Apache-2.0
"""The file in which the service says what it does, and its lock."""

import json
import logging
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.services import wait_for
from watcher.database.images import ImageState
from watcher.reconcile.cleaner import Outcome, Removal
from watcher.stats import Stats, Trigger
from watcher.telemetry import status_file
from watcher.telemetry.removals import Removals
from watcher.telemetry.status_file import RUNNING, STOPPED, UNKNOWN, StatusFile, read, report
from watcher.workqueue import Image, Sweep, WorkQueue

NAME = "8aa29f1a-df65-415d-993e-a9e25853feb8"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "status.json")


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is written."""
    monkeypatch.setattr(status_file, "INTERVAL", 0.001)
    return {"number": 0}


def wait_written(path: str, expected: dict[str, Any]) -> None:
    wait_for(lambda: read(path).report == expected, 30.0, f"{expected} in {path}")


def test_from_start_to_stop(path: str, numbers: dict[str, Any]) -> None:
    cause = f"no status_file {path}: the service does not run, or could not write it"
    assert read(path) == (UNKNOWN, cause, None)
    file = StatusFile(path, lambda: numbers)
    assert read(path) == (UNKNOWN, cause, None)
    file.start()
    assert read(path).state == RUNNING
    for number in range(3):
        numbers["number"] = number
        file.update()
        wait_written(path, {"number": number})
    assert read(path).state == RUNNING
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    file.close()
    assert read(path) == (STOPPED, None, None)


def test_a_process_that_was_killed(path: str, numbers: dict[str, Any]) -> None:
    killed = (
        "import os, sys; from watcher.telemetry.status_file import StatusFile\n"
        "StatusFile(sys.argv[1], lambda: {'number': 0}).start()\n"
        "while not os.path.exists(sys.argv[1]): pass\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", killed, path], check=True)
    Path(f"{path}.new").touch()
    assert read(path) == (STOPPED, None, {"number": 0})
    file = StatusFile(path, lambda: {"number": 7})
    file.start()
    wait_written(path, {"number": 7})
    file.close()


def test_two_services_with_one_file(
    path: str, numbers: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    first = StatusFile(path, lambda: numbers)
    first.start()
    wait_written(path, {"number": 0})
    other = StatusFile(path, lambda: {"other": True})
    other.start()
    other.close()
    assert read(path) == (RUNNING, None, {"number": 0})
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        f"Cannot write [staging_watcher] status_file {path}; the command status doesn't show the "
        "service: another service holds its lock"
    )
    first.close()


@pytest.mark.parametrize(("is_default", "levels"), [(True, []), (False, ["WARNING"])])
def test_without_its_directory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_default: bool, levels: list[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    path = str(tmp_path / "missing" / "status.json")
    file = StatusFile(path, dict, is_default=is_default)
    file.start()
    file.update()
    file.close()
    assert [record.levelname for record in caplog.records] == levels
    assert all("No such file or directory" in line for line in caplog.messages)
    assert read(path).state == UNKNOWN


def test_no_file_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    before = threading.active_count()
    file = StatusFile("", dict)
    file.start()
    assert threading.active_count() == before
    file.close()
    assert not caplog.records


def test_what_cannot_be_written_or_read_is_no_report(path: str, numbers: dict[str, Any]) -> None:
    file = StatusFile(path, lambda: numbers)
    Path(f"{path}.new").mkdir()  # can't be unlinked
    file.start()
    file.update()
    assert read(path) == (RUNNING, None, None)
    Path(path).write_text("[half")
    assert read(path) == (RUNNING, None, None)
    Path(path).write_text("[]")
    assert read(path) == (RUNNING, None, None)
    file.close()


def test_a_link_in_place_of_the_lock_is_not_followed(path: str, tmp_path: Path) -> None:
    (tmp_path / "victim").touch()
    os.symlink(tmp_path / "victim", f"{path}.lock")
    StatusFile(path, dict).close()
    assert read(path).state == UNKNOWN


def test_the_report() -> None:
    stats, queue, removals = Stats(), WorkQueue(), Removals(None)
    conditions = {"database": "gone", "directory": None}
    before = report(stats, queue, removals, conditions, "/staging")
    assert (before["last_sweep"], before["last_removals"]) == (None, [])
    stats.swept(0.25, Outcome(cleaned=3, ignored=2, error=1, size=4096, removed=2))
    for number in range(2):
        path = f"/staging/{NAME}.{number}"
        removals.report(
            Removal(path, NAME, ImageState.DELETED, 10, Trigger.NOTIFICATION, 0.0018765432)
        )
    queue.put(Image("x"))
    queue.put(Sweep(), delay=60)
    found = report(stats, queue, removals, conditions, "/staging")
    assert abs(time.time() - found["started"]) < 60
    assert found["pid"] == os.getpid() and found["directory"] == "/staging"
    assert abs(time.time() - found["last_sweep"].pop("ended")) < 60
    assert found["last_sweep"] == {
        "duration": 0.25,
        "removed": 2,
        "kept": 2,
        "errors": 1,
        "size": 4096,
    }
    assert [each["name"] for each in found["last_removals"]] == [f"{NAME}.1", f"{NAME}.0"]
    assert found["last_removals"][0]["latency"] == 0.001877
    assert found["queue"] == {"due": 1, "delayed": 1}
    assert found["conditions"] == conditions
    assert json.loads(json.dumps(found)) == found


def test_a_thread_that_ended_writes_again(
    path: str, numbers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = iter([True])

    def make() -> dict[str, Any]:
        if next(fails, False):
            raise RuntimeError("a bug")
        return numbers

    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    file = StatusFile(path, make)
    file.supervise()
    assert file._thread.ended, "it isn't started yet"
    file.start()
    wait_for(lambda: file._thread.ended, 30.0, "its end")
    file.supervise()
    file.update()
    wait_written(path, numbers)
    file.close()
