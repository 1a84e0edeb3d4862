# SPDX-License-Identifier: Apache-2.0
"""The process itself: ended at any moment, killed, doubled, run for long, its clock set."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import sqlite_url
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.program import PROGRAM, STOP_TIMEOUT, Program
from tests.services.ports import free_port
from tests.services.waiting import wait_for

database_url = sqlite_url


def test_it_ends_in_time_though_its_log_is_stuck(host: Host) -> None:
    """A pipe that nobody reads any more is full; then each line waits for ever."""
    host.stage_many(1000, deleted=True)
    reader, writer = os.pipe()
    command = [str(PROGRAM), "--config-file", str(host.config_file)]
    with os.fdopen(reader), os.fdopen(writer, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:

            def is_stuck() -> bool:
                threads = Path(f"/proc/{process.pid}/task").glob("*/wchan")
                return any("pipe_write" in thread.read_text() for thread in threads)

            wait_for(is_stuck, 30, "a thread that waits for the pipe")
            process.terminate()
            assert process.wait(STOP_TIMEOUT) == 1
        finally:
            process.kill()
            process.wait()


def blocks(program: Program, number: signal.Signals) -> bool:
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigBlk:"))
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_moment_ends_it_in_time(
    new_host: Callable[..., Host], number: signal.Signals
) -> None:
    """From the first imports to the middle of a sweep, with a broker it can't reach."""
    host = new_host(transport_url=f"rabbit://glance:s3cr3t@127.0.0.1:{free_port()}/")
    host.stage_many(3000, deleted=True)
    host.stage_live()
    chance = random.Random(7)
    for _ in range(12):
        program = host.start(ready=False)
        # Until then Python itself is starting, and a signal does what it does to any program.
        wait_for(lambda: blocks(program, number), 30, "the program's first line")  # noqa: B023
        begun, moment = time.monotonic(), chance.uniform(0, 1.2)
        wait_for(lambda: time.monotonic() - begun >= moment, 10, "the moment")  # noqa: B023
        assert program.stop(number) == 0
    program = host.start()
    assert program.stop() == 0
    assert len(os.listdir(host.staging)) == 1


def test_sigterm_during_a_huge_unlink(host: Host) -> None:
    path = host.stage_deleted()
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 3 << 30)
    host.stage_live()
    program = host.start(ready=False)
    host.wait_gone(path)
    assert program.stop() == 0


def test_a_huge_file_does_not_hold_up_others(host: Host) -> None:
    huge = host.stage_deleted()
    with huge.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 2 << 30)
    before = os.statvfs(host.staging).f_bfree
    program = host.start()
    assert not huge.exists()
    host.wait_gone(host.stage_deleted())
    wait_for(
        lambda: os.statvfs(host.staging).f_bfree - before > (1 << 30) // 4096,
        60,
        "the space to come back",
    )
    wait_for(
        lambda: not [x for x in descriptors(program) if "(deleted)" in x], 10, "no descriptor held"
    )


def descriptors(program: Program) -> list[str]:
    directory = f"/proc/{program.process.pid}/fd"
    found = []
    for name in os.listdir(directory):
        try:
            found.append(os.readlink(f"{directory}/{name}"))
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


def memory(program: Program) -> int:
    """Resident bytes that are the process's own."""
    with Path(f"/proc/{program.process.pid}/smaps_rollup").open() as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_")) << 10


def test_killed_at_any_moment_and_started_again(new_host: Callable[..., Host]) -> None:
    host = new_host()
    host.stage_many(3000, deleted=True)
    host.stage_live()
    before = set(os.listdir(host.directory))
    for count in (2900, 2000, 1000):
        program = host.start(ready=False)
        wait_for(lambda: len(os.listdir(host.staging)) < count, 30, "some removals")  # noqa: B023
        program.kill()
        host.check_live()
    assert set(os.listdir(host.directory)) - before == {"watcher.log"}, "it leaves nothing behind"
    host.start()
    assert len(os.listdir(host.staging)) == 1


def test_two_watchers_on_one_directory(new_host: Callable[..., Host]) -> None:
    host = new_host(watcher="sweep_interval = 1")
    host.stage_many(4000, deleted=True)
    host.stage_live()
    first, second = host.start(ready=False), host.start(ready=False)
    for program in (first, second):
        program.wait_ready()
    assert len(os.listdir(host.staging)) == 1
    for _ in range(20):
        host.stage_deleted()
    wait_for(lambda: len(os.listdir(host.staging)) == 1, 20, "removal by either")
    assert not first.lines("ERROR") and not second.lines("ERROR")


@pytest.mark.large
@pytest.mark.usefixtures("executed")
def test_descriptors_and_memory_stay_flat_over_100_000_events(
    new_host: Callable[..., Host], rabbitmq: object, notifier: GlanceNotifier
) -> None:
    """Files that come and go, live files written to, deletions of images staged elsewhere."""
    host = new_host(
        transport_url=rabbitmq.url(),  # type: ignore[attr-defined]
        more="[DEFAULT]\ndebug = false",
    )
    host.config_file.write_text(host.config_file.read_text().replace("debug = true\n", ""))
    program = host.start()
    program.wait_for_line("Listening for notifications")
    live = host.stage_live()
    dead = [new_id() for _ in range(500)]
    host.images.insert(*dead, deleted=True)

    def events(rounds: int) -> None:
        for _ in range(rounds):
            for image in dead:
                (host.staging / image).touch()
                with (host.staging / live).open("ab"):
                    pass
                (host.staging / f"{image}.uc").touch()
                (host.staging / "foo").touch()
            for _ in range(50):
                notifier.deleted(new_id())
            wait_for(lambda: set(os.listdir(host.staging)) == {live, "foo"}, 60, "all residue gone")

    events(4)
    counts, bytes_held = [len(descriptors(program))], [memory(program)]
    for _ in range(3):
        # created and closed, for each of four files
        events(8)
        counts.append(len(descriptors(program)))
        bytes_held.append(memory(program))
    assert max(counts) - counts[0] <= 2, counts
    assert bytes_held[-1] - bytes_held[0] < 4 << 20, bytes_held
    assert program.stop() == 0


SET_CLOCK = """
import os, sys, time
from watcher import cli
real = time.time
def stepped():
    return real() + ({step} if os.path.exists({flag!r}) else 0)
time.time = stepped
import watcher.reconcile.age
watcher.reconcile.age.AgeClock.__init__.__defaults__ = (stepped, time.monotonic)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture
def stepping_clock(tmp_path: Path) -> Iterator[Callable[[Host, float, Path], None]]:
    """Runs the program with a system clock that is set once a file exists; the real clock of a
    test machine can't be had."""
    running: list[subprocess.Popen[bytes]] = []

    def start(host: Host, step: float, flag: Path) -> None:
        script = tmp_path / "clock.py"
        script.write_text(SET_CLOCK.format(step=step, flag=str(flag)))
        with (host.directory / "watcher.log").open("ab") as log:
            running.append(
                subprocess.Popen(
                    [sys.executable, script, "--config-file", host.config_file],
                    stdout=log,
                    stderr=log,
                )
            )

    yield start
    for process in running:
        process.terminate()
        assert process.wait(STOP_TIMEOUT) == 0


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_a_step_of_the_clock_makes_no_young_file_old(
    new_host: Callable[..., Host],
    stepping_clock: Callable[[Host, float, Path], None],
    tmp_path: Path,
    step: float,
) -> None:
    host = new_host(watcher="sweep_interval = 1\nabsent_grace = 300")
    late = host.stage(new_id())  # its row comes late
    host.stage_live()
    flag = tmp_path / "set"
    stepping_clock(host, step, flag)
    log = host.directory / "watcher.log"
    wait_for(lambda: "Cleaned " in log.read_text(), 60, "a first sweep")
    flag.touch()
    wait_for(lambda: "System clock stepped by" in log.read_text(), 60, "the step")
    sweeps = log.read_text().count("Cleaned ")
    wait_for(lambda: log.read_text().count("Cleaned ") >= sweeps + 2, 60, "two more sweeps")
    assert late.exists()
    host.wait_gone(host.stage_deleted())
    assert log.read_text().count("System clock stepped by") == 1


def test_what_a_shell_sees(host: Host) -> None:
    """The output of a dry run into a pipe that is closed early is no fault."""
    for _ in range(200):
        host.stage("x" * 200 + str(_), b"")
    done = subprocess.run(
        f"{PROGRAM} sweep --dry-run --config-file {host.config_file} | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
