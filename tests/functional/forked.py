# SPDX-License-Identifier: Apache-2.0
"""Processes that `tests.functional.forking` forks, with what `subprocess.Popen` has."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

SCRIPT = Path(__file__).with_name("forking.py")


class Forked:
    """A forked process.

    :param report: brings its id and its wait status
    """

    def __init__(self, report: socket.socket) -> None:
        self._report = report
        self.pid = int(report.recv(32))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its exit code.

        :raises subprocess.TimeoutExpired: it goes on
        """
        if self.returncode is None:
            self._report.settimeout(timeout)
            try:
                status = self._report.recv(32)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0) from None
            self.returncode = os.waitstatus_to_exitcode(int(status))
            self._report.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send it SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


def fork(
    command: list[str], environment: Mapping[str, str], stdout: IO[Any], stderr: IO[Any]
) -> Forked:
    """Fork a process that is like the executed program."""
    request = {"arguments": command, "environment": dict(environment), "directory": os.getcwd()}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        descriptors = [theirs.fileno(), stdout.fileno(), stderr.fileno()]
        requests, _ = _server()
        socket.send_fds(requests, [json.dumps(request).encode()], descriptors)
    return Forked(ours)


@cache
def _server() -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    """It ends when the socket is closed: with the tests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, SCRIPT],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,  # Python buffers as it does for a file
        )
        return ours, process
