# SPDX-License-Identifier: Apache-2.0
import time
from pathlib import Path

import pytest

from watcher import conf
from watcher.stats import Stats, Tally, Trigger
from watcher.telemetry import report as gmr
from watcher.workqueue import File, Sweep, WorkQueue

SECRET = "s3cr3t"


def test_our_section() -> None:
    stats, queue = Stats(), WorkQueue()
    stats.tallies[Trigger.FILE_EVENT].add(Tally(cleaned=2, size=8192), less=Tally())
    queue.put(File("a"))
    queue.put(File("b"), delay=60)
    queue.put(Sweep(), delay=600)
    section = gmr.watcher_section(stats, queue, {"database": None, "notifications": "down"})
    assert section["queue"] == {"due": 1, "delayed": 2}
    assert section["conditions"] == {"database": "healthy", "notifications": "down"}
    assert section["last sweep"] == "none"
    files = section["since start"]["files"]
    assert files["file_event"] == "2 cleaned (8192 bytes), 0 ignored, 0 errors"
    stats.swept(1.23456, Tally(cleaned=1, ignored=2, error=3))
    last = gmr.watcher_section(stats, queue, {})["last sweep"]
    assert last["files"] == "1 cleaned (0 bytes), 2 ignored, 3 errors"
    assert last["seconds"] == "1.235"


def test_a_long_cause_is_cut() -> None:
    section = gmr.watcher_section(Stats(), WorkQueue(), {"database": "x" * 100_000})
    assert len(section["conditions"]["database"]) == gmr.MAX_CAUSE


def test_the_report_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "glance-api.conf"
    file.write_text("")
    loaded = conf.load(["--config-file", str(file)])
    whole = gmr.make(loaded, {"queue": {"due": 1}})
    assert len(whole) < gmr.MAX_REPORT and "cut" not in whole.splitlines()[-1]
    text = gmr.make(loaded, {"queue": {"due": "x" * gmr.MAX_REPORT}})
    assert len(text) == gmr.MAX_REPORT
    assert text.splitlines()[-1].startswith("... cut, ")


def test_a_report_follows_no_link(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "glance-api.conf"
    file.write_text(f"[oslo_reports]\nlog_dir = {tmp_path}\n")
    loaded = conf.load(["--config-file", str(file)])
    now = time.time()
    for second in range(60):
        moment = time.strftime("%Y%m%d%H%M%S", time.gmtime(now + second))
        name = f"{conf.DISTRIBUTION}_gurumeditation_{moment}"
        (tmp_path / name).symlink_to(tmp_path / "victim")
    gmr.write(loaded, {})
    assert not (tmp_path / "victim").exists()
    assert "Too many levels of symbolic links" in caplog.text


def test_a_section_that_fails_does_not_prevent_the_others(tmp_path: Path) -> None:
    file = tmp_path / "glance-api.conf"
    file.write_text(f"[database]\nconnection = sqlite:///{SECRET}\n")
    loaded = conf.load(["--config-file", str(file)])
    text = gmr.make(loaded, {"queue": {"due": 1}})
    assert "connection = ***" in text and "sweep_interval = 600" in text
    assert "not available" not in text
    file.write_text(f"{file.read_text()}[staging_watcher]\nsweep_interval = soon\n")
    loaded.mutate_config_files()
    text = gmr.make(loaded, {"queue": {"due": 1}})
    assert "not available: ConfigFileValueError" in text
    assert "due = 1" in text and "test_report.py" in text
    assert SECRET not in text
