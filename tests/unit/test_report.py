# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from watcher import conf
from watcher.stats import Stats, Tally, Trigger
from watcher.telemetry import report as gmr
from watcher.workqueue import File, Sweep, WorkQueue

SECRET = "s3cr3t"


def test_our_section() -> None:
    stats, queue = Stats(), WorkQueue()
    stats.tallies[Trigger.FILE_EVENT].add(Tally(cleaned=2, size=8192))
    queue.put(File("a"))
    queue.put(File("b"), delay=60)
    queue.put(Sweep(), delay=600)
    section = gmr.watcher_section(stats, queue, {"database": None, "notifications": "down"})
    assert section["queue"] == {"due": 1, "delayed": 2}
    assert section["conditions"] == {"database": "in order", "notifications": "down"}
    assert section["last sweep"] == "none"
    files = section["since start"]["files"]
    assert files["file_event"] == "2 cleaned (8192 bytes), 0 ignored, 0 errors"
    stats.swept(1.23456, Tally(cleaned=1, ignored=2, error=3))
    last = gmr.watcher_section(stats, queue, {})["last sweep"]
    assert last["files"] == "1 cleaned (0 bytes), 2 ignored, 3 errors"
    assert last["seconds"] == "1.235"


def test_a_section_that_fails_does_not_take_the_others_along(tmp_path: Path) -> None:
    file = tmp_path / "glance-api.conf"
    file.write_text(f"[database]\nconnection = sqlite:///{SECRET}\n")
    loaded = conf.load(["--config-file", str(file)])
    text = gmr.make(loaded, {"queue": {"due": 1}})
    assert "connection = ***" in text and "sweep_interval = 600" in text
    assert "can't be had" not in text
    file.write_text(f"{file.read_text()}[staging_watcher]\nsweep_interval = soon\n")
    loaded.mutate_config_files()
    text = gmr.make(loaded, {"queue": {"due": 1}})
    assert "can't be had: ConfigFileValueError" in text
    assert "due = 1" in text and "test_report.py" in text
    assert SECRET not in text
