# SPDX-License-Identifier: Apache-2.0
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from watcher.stats import Stats, Tally
from watcher.telemetry.systemd import Manager, status_text


class Listener:
    """systemd's end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        name = self.socket.getsockname()
        self.environ = {
            "NOTIFY_SOCKET": name if isinstance(name, str) else "@" + name[1:].decode(),
        }

    def heard(self) -> list[str]:
        messages = []
        try:
            while True:
                messages.append(self.socket.recv(4096, socket.MSG_DONTWAIT).decode())
        except BlockingIOError:
            return messages


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    made = Listener(str(tmp_path / "notify") if request.param == "path" else "")
    yield made
    made.socket.close()


def test_the_life_of_a_service(listener: Listener) -> None:
    manager = Manager(listener.environ)
    manager.reloading()
    manager.reloaded()
    assert listener.heard() == [], "a reload must not look like the end of the start"
    for _ in range(2):
        manager.ready()
        manager.status("all\nis  well\nMAINPID=1")
    assert listener.heard() == ["READY=1", "STATUS=all is well MAINPID=1"]
    before = time.monotonic_ns() // 1000
    manager.reloading()
    manager.reloaded()
    manager.status("another")
    manager.stopping()
    reloading, *others = listener.heard()
    first, second = reloading.split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert others == ["READY=1", "STATUS=another", "STOPPING=1"]


def test_what_was_not_received_is_sent_again(tmp_path: Path) -> None:
    manager = Manager({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"})
    calls = (manager.ready, manager.ping, lambda: manager.status("well"))
    for each in calls:
        each()
    listener = Listener(str(tmp_path / "notify"))
    for each in calls * 2:
        each()
    assert listener.heard() == ["READY=1", "WATCHDOG=1", "STATUS=well"]
    listener.socket.close()


def fill(manager: Manager) -> None:
    for number in range(2000):  # more than any socket takes
        manager.status(str(number))


def test_a_manager_that_does_not_listen_holds_nobody_up(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float | None] = []

    class Socket(socket.socket):
        def settimeout(self, value: float | None) -> None:
            waits.append(value)
            super().settimeout(value)

    monkeypatch.setattr(socket, "socket", Socket)
    manager = Manager(listener.environ | {"WATCHDOG_USEC": "300000000"})
    fill(manager)
    for each in (manager.ready, manager.ping, manager.reloading, manager.reloaded):
        each()
    manager.stopping()
    assert set(waits) == {0.0}
    heard = listener.heard()
    assert 0 < len(heard) < 2000 and "READY=1" not in heard
    manager.ready()
    assert listener.heard() == ["READY=1"], "the next time"


def test_the_end_of_a_reload_that_was_not_received(listener: Listener) -> None:
    manager = Manager(listener.environ)
    manager.ready()
    manager.reloading()
    fill(manager)
    manager.reloaded()
    assert listener.heard().count("READY=1") == 1
    for _ in range(2):
        manager.ready()
    assert listener.heard() == ["READY=1"], "once more, else it reloads for ever"


def test_bytes_that_are_no_text(listener: Listener) -> None:
    manager = Manager(listener.environ)
    manager.status(os.fsdecode(b"at \xff: \xc3\xbc"))
    assert listener.heard() == ["STATUS=at \\udcff: ü"]


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "300000000"}, 300.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "300000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog(listener: Listener, environ: dict[str, str], seconds: float | None) -> None:
    manager = Manager(listener.environ | environ)
    assert manager.watchdog == seconds
    for _ in range(10):
        manager.ping()
    assert listener.heard() == ([] if seconds is None else ["WATCHDOG=1"]), "once in a while"


def test_without_systemd() -> None:
    manager = Manager({"WATCHDOG_USEC": "1000000"})
    assert manager.watchdog is None
    for each in (manager.ready, manager.ping, manager.reloading, manager.reloaded):
        each()
    manager.status("well")
    manager.stopping()


def swept() -> Stats:
    stats = Stats()
    stats.swept(0.123, Tally(cleaned=3, ignored=120))
    return stats


SWEPT = "Last sweep: 3 cleaned, 120 ignored, 0 errors in 0.1 s"


@pytest.mark.parametrize(
    ("stats", "conditions", "text"),
    [
        (
            Stats(),
            {"database": None, "directory": None},
            "No sweep yet; healthy; notifications disabled",
        ),
        (
            Stats(),
            {"database": "down", "notifications": "not connected yet"},
            "No sweep yet; failing: database: down; notifications: not connected yet",
        ),
        (swept(), {"database": None, "notifications": None}, f"{SWEPT}; healthy"),
        (
            swept(),
            {"database": None, "file_events": "no watch left"},
            f"{SWEPT}; failing: file events: no watch left; notifications disabled",
        ),
    ],
)
def test_status_text(stats: Stats, conditions: dict[str, str | None], text: str) -> None:
    assert status_text(stats, conditions) == text


def test_the_status_is_bounded() -> None:
    causes: dict[str, str | None] = {"database": "x" * 100_000, "notifications": "y" * 201}
    text = status_text(swept(), causes)
    assert "x" * 199 + "…; notifications: " + "y" * 199 + "…" in text
    assert len(text) < 600
