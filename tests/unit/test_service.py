# SPDX-License-Identifier: Apache-2.0
import faulthandler
import gc
import logging
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watchdog.utils import BaseThread

from tests.services import wait_for
from watcher import backoff, conf, logs, startup
from watcher import service as service_module
from watcher.reconcile.cleaner import Failure, Progress, Removal, Step
from watcher.service import Service
from watcher.telemetry import http
from watcher.telemetry import report as gmr
from watcher.telemetry.removals import Removals
from watcher.workqueue import Directory, Key, Waiting

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
    made._watch.stop()
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


def test_a_reconciler_that_fails_again_waits_longer_until_it_worked(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []
    outcomes = iter([None, None, Progress(0), None])

    def run() -> Iterator[Step]:
        for outcome in outcomes:
            if outcome is None:
                raise RuntimeError("a bug")
            yield outcome
        service._queue.close()

    monkeypatch.setattr(service._reconciler, "run", run)
    monkeypatch.setattr(backoff, "retry_delay", lambda attempt: attempts.append(attempt) or 0.0)  # type: ignore[func-returns-value]
    service._run()
    assert attempts == [1, 2, 1]


def test_each_removal_is_audited_before_the_next_is_made(tmp_path: Path, service: Service) -> None:
    class Audit:
        """Notes whether the file is gone when it is recorded."""

        def __init__(self) -> None:
            self.gone: list[bool] = []

        def record(self, removal: Removal) -> None:
            """Note it."""
            self.gone.append(not Path(removal.path).exists())
            assert len(list((tmp_path / "staging").iterdir())) == 3 - len(self.gone)

        def flush(self) -> None:
            """Nothing waits."""

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


# Threads


@pytest.fixture
def started(service: Service) -> Iterator[Service]:
    """One that has swept."""
    service.start()
    wait_for(lambda: service._reconciler.swept, 30, "the sweep")
    yield service
    service.stop()


def levels(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.levelname for record in caplog.records if text in record.message]


def test_all_threads_are_alive_then_and_no_line_says_so(
    started: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caplog.clear()
    started.supervise()
    assert started.alive() == {"cleaner": None, "file_events": None, "closer": None}
    assert not any(started.conditions().values())
    assert not caplog.messages


def test_a_reconciler_that_is_to_end_goes_on(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by sys.exit() in a library."""
    take, ends = service._queue.take, iter([SystemExit(), KeyboardInterrupt()])

    def end_at_first() -> dict[Key, Waiting]:
        if (error := next(ends, None)) is not None:
            raise error
        return take()

    monkeypatch.setattr(service._queue, "take", end_at_first)
    monkeypatch.setattr(backoff, "retry_delay", lambda attempt: 0.001)
    service.start()
    wait_for(lambda: service._reconciler.swept, 30, "the sweep")
    service.stop()


def test_a_reconciler_whose_thread_ended_is_a_condition_and_starts_again(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with monkeypatch.context() as ending:
        ending.setattr(service._thread, "_target", lambda: None)
        service.start()
        wait_for(lambda: service._thread.ended, 30, "its end")
    assert service.conditions()["cleaner"] == "its thread has ended"
    assert service.alive()["cleaner"] == "its thread has ended"
    service.supervise()
    wait_for(lambda: service._reconciler.swept, 30, "the sweep")
    service.supervise()
    assert service.alive()["cleaner"] is None and service.conditions()["cleaner"] is None
    service.stop()
    assert levels(caplog, "Reconciler") == ["ERROR", "INFO"]


def test_a_watch_whose_thread_ended_is_a_condition_and_starts_again(
    started: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    thread = started._watch._threads[0]
    assert isinstance(thread, BaseThread)
    thread.stop()
    wait_for(lambda: not thread.is_alive(), 30, "its end")
    assert started.conditions()["file_events"] == "its thread has ended"
    assert started.alive()["file_events"] == "its thread has ended"
    started.supervise()
    wait_for(lambda: started._watch.watching, 30, "another")
    assert started.alive()["file_events"] is None
    started._queue.put(Directory())
    wait_for(lambda: not started.conditions()["file_events"], 30, "the end of the condition")
    (tmp_path / "staging" / IMAGE).touch()
    wait_for(lambda: not (tmp_path / "staging" / IMAGE).exists(), 30, "the removal")
    assert levels(caplog, "atch the staging directory") == ["ERROR"]
    assert levels(caplog, "Watching the staging directory again") == ["INFO"]


def test_a_closer_whose_thread_ended_is_a_condition_and_starts_again(
    started: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    closer = started._staging.closer
    closer._thread = threading.Thread(target=lambda: None)
    closer._waiting.put(os.open(tmp_path, os.O_RDONLY))
    assert started.conditions()["closer"] == started.alive()["closer"] == "its thread has ended"
    started.supervise()
    wait_for(lambda: not started.alive()["closer"], 30, "another")
    started.supervise()
    assert started.conditions()["closer"] is None
    assert levels(caplog, "Descriptors of removed files") == ["ERROR", "INFO"]


def test_the_listener_and_the_server_are_supervised(service: Service) -> None:
    class Component:
        """Counts the looks at it."""

        looks = 0
        failure = condition = "ended"

        def supervise(self) -> None:
            """Look."""
            self.looks += 1

    service._listener, service._http = Component(), Component()  # type: ignore[assignment]
    service.supervise()
    assert service._listener.looks == service._http.looks == 1  # type: ignore[union-attr]
    assert service.alive()["notifications"] == service.conditions()["notifications"] == "ended"


def test_health_is_that_of_all_threads(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def keep(conf: object, **options: object) -> object:
        given.update(options)
        return None

    monkeypatch.setattr(http, "new_server", keep)
    service._conf.set_override("metrics_port", 1, group=conf.GROUP)
    other = Service(service._conf)
    assert given["alive"] == other.alive and given["conditions"] == other.conditions
    other._images.close()


def test_threads_are_looked_after_between_signals(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[None] = []
    frozen: list[bool] = []
    alarm = signal.SIGALRM
    received = iter([alarm, alarm, signal.SIGHUP, alarm, signal.SIGTERM])
    monkeypatch.setattr(service_module, "Service", lambda conf: service)
    monkeypatch.setattr(signal, "sigwait", lambda awaited: next(received))
    timers: list[tuple[float, ...]] = []
    monkeypatch.setattr(signal, "setitimer", lambda kind, *seconds: timers.append(seconds))
    monkeypatch.setattr(startup, "announce", lambda conf: None)
    monkeypatch.setattr(service, "supervise", lambda: looks.append(None))
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(service._thread.ended))
    monkeypatch.setattr(threading, "Timer", lambda *_: threading.Thread())
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        assert service_module.run(service._conf) == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        faulthandler.disable()
    assert len(looks) == 3 and timers == [(5.0, 5.0)]
    assert frozen == [True], "before the threads start, whose garbage is to be found"


def test_the_end_of_a_thread_is_one_debug_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(threading, "excepthook", service_module._log_end)

    def fail() -> None:
        raise RuntimeError("a bug")

    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    assert caplog.messages == ["Thread worker ended: RuntimeError('a bug')"]
