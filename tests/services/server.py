# SPDX-License-Identifier: Apache-2.0
"""One private server process, which can be stopped, killed, paused and started again."""

import os
import shutil
import signal
import subprocess
import threading
from abc import ABC, abstractmethod
from pathlib import Path

from . import processes
from .ports import free_port
from .waiting import wait_for

START_TIMEOUT = 60.0  # seconds
STOP_TIMEOUT = 30.0  # seconds


class Server(ABC):
    """A server on a loopback port of its own, with all its files in ``directory``.

    The directory must exist; removing it is up to the caller. The port and the data are the
    same after every start, whether the server was stopped or killed before.
    """

    account: str | None = None
    """The system account that runs the server when we are root."""

    stop_signal = signal.SIGTERM
    """The signal which asks the server for an orderly end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def version(self) -> str | None:
        """Its version while it runs; None where nobody asks for that."""
        return None

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """Say which program isn't installed, or None when all are there."""

    def start(self) -> None:
        """Start the server and return as soon as it serves; nothing if it is running.

        Raises RuntimeError with the end of the server's log when it ends instead, and
        AssertionError when it does not serve in time.
        """
        if self._process:
            return
        if not self.data.exists():
            self._prepare()
        log = self.directory / "log"
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                self._as_account(self._command(), *_mortal()),
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = self._process

        def serving() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{self} ended at start:\n{self.log[-4000:]}")
            return self._serving()

        try:
            wait_for(serving, START_TIMEOUT, f"{self} to serve")
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop the server in order, also when paused; nothing if it is not running.

        Raises subprocess.TimeoutExpired, after killing it, when it does not end in time.
        """
        if not self._process:
            return
        self.resume()
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._process = None

    def kill(self) -> None:
        """End the server by SIGKILL, as a crash would; nothing if it is not running."""
        if not self._process:
            return
        members = processes.freeze(self._process.pid)
        processes.send(signal.SIGKILL, *members)
        self._process.wait()
        wait_for(
            lambda: not any(map(processes.alive, members)),
            STOP_TIMEOUT,
            f"the end of the killed {self}",
        )
        self._process = None

    @property
    def log(self) -> str:
        """What it has written since its last start."""
        with (self.directory / "log").open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def restart(self) -> None:
        """Stop the server in order and start it again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Halt the server: its connections stay open, but it answers nothing."""
        if self._process:
            processes.freeze(self._process.pid)

    def resume(self) -> None:
        """Let a paused server go on."""
        if self._process:
            processes.send(signal.SIGCONT, *processes.family(self._process.pid))

    def __str__(self) -> str:
        return f"{type(self).__name__} on port {self.port}"

    def _prepare(self) -> None:
        """Create the data directory before the first start."""
        self.data.mkdir(mode=0o700)
        if self.account and os.geteuid() == 0:
            shutil.chown(self.data, self.account, self.account)

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command of the server, which stays in the foreground."""

    @abstractmethod
    def _serving(self) -> bool:
        """Say whether the server serves its clients by now."""

    def _environment(self) -> dict[str, str]:
        """Return the whole environment of the server's programs."""
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.directory),
            "TMPDIR": str(self.directory),  # MariaDB removes others' files from a shared one
            "LANG": "C.UTF-8",
            "TZ": "UTC",
        }

    def _run(self, *command: str) -> str:
        """Run another program of the server and return its output; RuntimeError if it fails."""
        result = subprocess.run(
            self._as_account(list(command)),
            cwd=self.directory,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{result.stdout}{result.stderr}")
        return result.stdout

    def _as_account(self, command: list[str], *options: str) -> list[str]:
        if not self.account or os.geteuid() != 0:
            return ["setpriv", *options, *command] if options else command
        # The capability is for root's temporary directories, which are closed to others.
        return [
            "setpriv",
            f"--reuid={self.account}",
            f"--regid={self.account}",
            "--clear-groups",
            "--inh-caps=+dac_override",
            "--ambient-caps=+dac_override",
            *options,
            *command,
        ]


def _mortal() -> list[str]:
    """Options of setpriv that let a server end with these tests, also when they are killed."""
    # The kernel takes the end of the thread that started it for that of its parent.
    in_main_thread = threading.current_thread() is threading.main_thread()
    return ["--pdeathsig=KILL"] if in_main_thread else []
