# SPDX-License-Identifier: Apache-2.0
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.services import wait_for
from watcher import backoff, conf, logs
from watcher.reconcile.cleaner import Failure, Progress, Removal, Step
from watcher.service import Service
from watcher.telemetry import report as gmr
from watcher.telemetry.removals import Removals

IMAGE = "8aa29f1a-df65-415d-993e-a9e25853feb8"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """One that isn't started, with a deleted image."""
    with sqlite3.connect(tmp_path / "glance.sqlite") as database:
        database.execute("CREATE TABLE images (id VARCHAR(36) PRIMARY KEY, deleted BOOLEAN)")
        database.execute("INSERT INTO images VALUES (?, 1)", (IMAGE,))
    database.close()
    staging = tmp_path / "staging"
    staging.mkdir()
    file = tmp_path / "glance-api.conf"
    file.write_text(
        f"[DEFAULT]\nnode_staging_uri = {staging.as_uri()}\n"
        f"[database]\nconnection = sqlite:///{tmp_path}/glance.sqlite\n"
        "[staging_watcher]\nnotifications = false\n"
    )
    made = Service(conf.load(["--config-file", str(file)]))
    yield made
    made._images.close()


@pytest.mark.parametrize("place", [Path.touch, Path.mkdir], ids=["removed", "failed"])
def test_each_file_is_a_sign_of_life(
    service: Service, tmp_path: Path, place: Callable[[Path], None]
) -> None:
    """On a slow disk a step takes longer than the watchdog waits."""
    place(tmp_path / "staging" / IMAGE)
    seen = 0
    for step in service._reconciler.run():
        if isinstance(step, Removal | Failure):
            seen += 1
            service._heartbeat = 0.0
            service._follow_up(step)
            assert service._heartbeat > 0
        if service._reconciler.swept:
            service._queue.close()
    assert seen == 1


def test_a_reconciler_that_fails_is_a_condition_and_starts_again(
    service: Service,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    residue = tmp_path / "staging" / IMAGE
    seen: list[str | None] = []
    run, failures = service._reconciler.run, iter(range(3))

    def fail_at_first() -> Iterator[Step]:
        seen.append(service.conditions()["cleaner"])
        if next(failures, None) is not None:
            raise RuntimeError("a bug")
        residue.touch()
        yield from run()

    monkeypatch.setattr(service._reconciler, "run", fail_at_first)
    monkeypatch.setattr(backoff, "retry_delay", lambda attempt: 0.001)
    service.start()
    wait_for(lambda: service._reconciler.swept, 30, "the sweep")
    wait_for(lambda: not service.conditions()["cleaner"], 30, "the end of the condition")
    service.stop()
    assert not residue.exists()
    assert seen[1:] == ["RuntimeError: a bug"] * 3
    assert [record.levelname for record in caplog.records if "Reconciler" in record.message] == [
        "ERROR"
    ]


def test_each_removal_is_audited_before_the_next_is_made(tmp_path: Path, service: Service) -> None:
    class Audit:
        """Notes whether the file is gone when it is recorded."""

        def __init__(self) -> None:
            self.gone: list[bool] = []

        def record(self, removal: Removal) -> None:
            """Note it."""
            self.gone.append(not Path(removal.path).exists())
            assert len(list((tmp_path / "staging").iterdir())) == 3 - len(self.gone)

    for suffix in ("", ".uc", ".raw"):
        (tmp_path / "staging" / f"{IMAGE}{suffix}").touch()
    audit = Audit()
    service._removals = Removals(audit)  # type: ignore[arg-type]
    for step in service._reconciler.run():
        service._follow_up(step)
        if service._reconciler.swept:
            service._queue.close()
    assert audit.gone == [True] * 3


def test_systemd_hears_ready_after_the_first_sweep_and_a_ping_with_each_step(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[str] = []
    monkeypatch.setattr(service._manager, "is_there", True)
    for name in ("ready", "status", "ping"):
        monkeypatch.setattr(service._manager, name, lambda *_, name=name: reported.append(name))
    (tmp_path / "staging" / IMAGE).touch()
    pings = []
    for step in service._reconciler.run():
        reported.clear()
        service._follow_up(step)
        pings.append("ping" in reported)
        assert ("ready" in reported) <= service._reconciler.swept
        assert ("status" in reported) == isinstance(step, Progress)
        if service._reconciler.swept:
            service._queue.close()
    assert all(pings) and "ready" in reported


def test_a_report_that_fails_ends_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(gmr, "write", fail)
    service.report()
    assert "Cannot make the Guru Meditation Report; this is a bug" in caplog.messages


def test_libraries_stay_silent_after_a_reload_of_the_log(service: Service) -> None:
    logs.quieten()
    logger = logging.getLogger("watchdog")
    assert logger.level == logging.CRITICAL
    logger.setLevel(logging.NOTSET)  # as oslo.log does with log_config_append
    service.reload()
    assert logger.level == logging.CRITICAL
