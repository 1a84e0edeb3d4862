# SPDX-License-Identifier: Apache-2.0
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from watcher import conf, logs
from watcher.service import Service
from watcher.telemetry import report as gmr

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
def test_each_file_of_a_step_is_a_sign_of_life(
    service: Service, tmp_path: Path, place: Callable[[Path], None]
) -> None:
    """On a slow disk a step takes longer than the watchdog waits."""
    place(tmp_path / "staging" / IMAGE)
    service._reconciler.heartbeat = 0.0
    with service._staging:
        outcome = service._reconciler._cleaner.sweep()
    assert outcome.cleaned + outcome.error == 1
    assert service._reconciler.heartbeat > 0


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


@pytest.mark.usefixtures("service")  # its configuration
def test_only_on_a_network_file_system_notified_images_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the hosts which may share it spread their looks; a local one is looked at at once."""
    file = tmp_path / "glance-api.conf"
    text = file.read_text().replace("notifications = false", "")
    file.write_text(f"{text}[DEFAULT]\ntransport_url = fake://\n")
    made = Service(conf.load(["--config-file", str(file)]))
    delay = made._notifications._endpoint._delay  # type: ignore[union-attr]
    assert delay() == 0, "before it is found"
    with made._staging:
        assert [delay() for _ in range(100)] == [0] * 100
    monkeypatch.setattr(made._staging, "network", "nfs4")
    waits = [delay() for _ in range(100)]
    assert 0 <= min(waits) < 0.2 and 0.3 < max(waits) <= 0.5
    made._images.close()
