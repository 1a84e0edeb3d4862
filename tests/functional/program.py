# SPDX-License-Identifier: Apache-2.0
"""The installed program as a process, with what an operator sees of it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

from tests.functional.forked import Forked, fork
from tests.services.waiting import wait_for

PROGRAM = Path(sys.executable).with_name("glance-staging-watcher")
SECRET = "s3cr3t"  # in every password of the tests
# May read and search everywhere: the test's directories are root's, and so are coverage's files.
AS_NOBODY = [
    "env", "--unset=COVERAGE_PROCESS_CONFIG",
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--",
]  # fmt: skip
# Some variables have their effect before main(); these don't, and oslo sets the first one.
ENVIRONMENT = dict(os.environ)
LATER = {
    "EVENTLET_NO_GREENDNS",
    "COLUMNS",
    "NOTIFY_SOCKET",
    "OS_GLANCE_CONFIG_DIR",
    "PYTEST_CURRENT_TEST",
}
READY_TIMEOUT = 90.0  # seconds
STOP_TIMEOUT = 15.0  # seconds: on a busy machine, three times what the program promises


@cache
def help_of(command: str, columns: int = 200) -> str:
    """What ``--help`` of a command prints at this width; "" is the service."""
    run = run_program(*command.split(), "--help", environment={"COLUMNS": str(columns)})
    assert run.returncode == 0
    return run.stdout


def run_program(
    *arguments: str | Path, environment: Mapping[str, str] | None = None, timeout: float = 60.0
) -> "subprocess.CompletedProcess[str]":
    """Run the program to its end; see `run`."""
    return run([PROGRAM, *arguments], environment=environment, timeout=timeout)


def run(
    arguments: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end; the program without the time that importing takes.

    :param environment: variables, in addition to ours
    """
    command = [*map(str, arguments)]
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = start(command, os.environ | dict(environment or {}), stdout, stderr)
        code = process.wait(timeout)
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(command, code, stdout.read(), stderr.read())


def start(
    command: list[str], environment: Mapping[str, str], stdout: IO[Any], stderr: IO[Any]
) -> "subprocess.Popen[bytes] | Forked":
    """Fork the program from a process that has imported it; execute it where that would differ."""
    own = {name for name, _ in environment.items() ^ ENVIRONMENT.items()} - LATER
    if own or command[0] != str(PROGRAM) or "COVERAGE_PROCESS_CONFIG" in environment:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
    return fork(command, environment, stdout, stderr)


def problems(stderr: str) -> str:
    """What a command says on stderr but for the lines on removals."""
    lines = stderr.splitlines(keepends=True)
    return "".join(line for line in lines if " INFO watcher.telemetry.removals " not in line)


class Program:
    """One run of ``glance-staging-watcher``.

    :param directory: for the log and the notification socket
    """

    command: tuple[str, ...] = (str(PROGRAM),)

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._log = directory / "watcher.log"
        self._start = self._log.stat().st_size if self._log.exists() else 0
        # systemd's end of sd_notify, in the abstract name space for its short name
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind("")
        name = self._notify.getsockname()
        with self._log.open("ab") as output:
            environment = os.environ | {"NOTIFY_SOCKET": "@" + name[1:].decode()}
            self.process = self._execute([*self.command, *arguments], environment, output)

    def _execute(
        self, command: list[str], environment: Mapping[str, str], output: IO[bytes]
    ) -> "subprocess.Popen[bytes] | Forked":
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def wait_ready(self) -> None:
        """Wait for what systemd receives after the first sweep."""
        self.wait_notified("READY=1")

    def wait_notified(self, text: str) -> str:
        """Wait for a message to systemd with that text in it."""
        self._notify.settimeout(READY_TIMEOUT)
        while text not in (message := self._notify.recv(4096).decode()):
            pass
        return message

    def notified(self) -> list[str]:
        """Messages to systemd that wait to be read."""
        self._notify.setblocking(False)
        messages = []
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(self._notify.recv(4096).decode())
        return messages

    @property
    def log(self) -> str:
        """What this run has written so far."""
        with self._log.open("rb") as file:
            file.seek(self._start)
            return file.read().decode()

    def lines(self, text: str) -> list[str]:
        """Lines of the log with that text."""
        return [line for line in self.log.splitlines() if text in line]

    def wait_for_line(self, text: str, timeout: float = 30.0, count: int = 1) -> str:
        """Wait for a line of the log; the last one with that text."""
        wait_for(
            lambda: len(self.lines(text)) >= count or self.process.poll() is not None,
            timeout,
            f"the line {text!r} in\n{self.log}",
        )
        found = self.lines(text)
        assert len(found) >= count, f"no line {text!r} in\n{self.log}"
        return found[-1]

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for the program's own end; its exit code."""
        return self.process.wait(timeout)

    def ask_to_end(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal, unless it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal, in time; its exit code."""
        self.ask_to_end(number)
        code = self.process.wait(STOP_TIMEOUT)
        self.check_log()
        return code

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait()

    def check_log(self) -> None:
        """No fault is a reason for a trace, and no line may hold a secret."""
        assert "Traceback" not in self.log, self.log
        assert SECRET not in self.log, self.log
        assert "Deprecat" not in self.log, self.log


class PreloadedProgram(Program):
    """The same without the time that importing takes: most of a short run's."""

    def _execute(
        self, command: list[str], environment: Mapping[str, str], output: IO[bytes]
    ) -> "subprocess.Popen[bytes] | Forked":
        return start(command, environment, output, output)
