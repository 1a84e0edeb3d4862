# SPDX-License-Identifier: Apache-2.0
"""A real glance-api as a process."""

import os
import re
import signal
import subprocess
from pathlib import Path

from tests.acceptance.client import Client
from tests.acceptance.environment import Environment
from tests.services import processes
from tests.services.ports import free_port
from tests.services.waiting import wait_for

START_TIMEOUT = 180.0  # seconds
STOP_TIMEOUT = 30.0


class GlanceApi:
    """One glance-api.

    :param config_directory: holds its glance-api.conf
    """

    def __init__(self, environment: Environment, config_directory: Path) -> None:
        self._environment = environment
        self._directory = config_directory
        self._log = config_directory / "glance-api.log"
        self._read = b""
        self.port = free_port()
        self.client = Client(self.port)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """All it has written so far."""
        with self._log.open("rb") as file:
            file.seek(len(self._read))
            self._read += file.read()
        return self._read.decode(errors="replace")

    def start(self) -> None:
        """Start it, without waiting."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._environment.inside("serve.py"), str(self.port)],
                cwd=self._directory,
                env=self._environment.variables() | {"OS_GLANCE_CONFIG_DIR": str(self._directory)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until it serves."""
        process = self._process
        assert process is not None
        wait_for(lambda: process.poll() is not None or self.client.ready(), START_TIMEOUT, self.url)
        assert process.poll() is None, self.log[-4000:]

    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def ended_imports(self, image: str) -> int:
        """Number of an image's imports that ended, well or not, by its log."""
        log = self.log
        tasks = set(re.findall(rf"Image {image} import task (\S+) lock confirmed", log))
        ends = r"Failed to execute task {0}|\[{0}\] status changing from processing to"
        return sum(bool(re.search(ends.format(task), log)) for task in tasks)

    def freeze(self) -> None:
        """Halt it and what it started, for instance qemu-img, in the middle of its work."""
        assert self._process is not None
        processes.freeze(self._process.pid)

    def resume(self) -> None:
        """Let it go on, if it wasn't killed."""
        if self._process is not None and self.running():
            processes.send(signal.SIGCONT, *processes.family(self._process.pid))

    def stop(self) -> None:
        """End it in order; it waits for its imports, so after some time by force."""
        if self._process is None or self._process.poll() is not None:
            return
        self.resume()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it and what it started by SIGKILL, as a crash of the host would."""
        if self._process is None or self._process.poll() is not None:
            return
        members = processes.freeze(self._process.pid)
        processes.send(signal.SIGKILL, *members)
        self._process.wait()
        wait_for(lambda: not any(map(processes.alive, members)), STOP_TIMEOUT, "a killed Glance")

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def descriptors(self) -> int:
        """Number of its open files."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))
