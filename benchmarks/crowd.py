# SPDX-License-Identifier: Apache-2.0
"""The watchers of many hosts, on one bus and one database."""

import signal
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import proc
from benchmarks.site import ROOT, Site
from tests.functional.program import Program
from tests.services import wait_for

AT_ONCE = 4  # that start at the same time: the machine has few processors
GONE_TIMEOUT = 1200.0  # seconds


class InStep(Program):
    """A watcher without jitter in its waits."""

    command = (sys.executable, "-P", str(ROOT / "benchmarks/peers/in_step.py"))


class Crowd:
    """Watchers as processes, each with a directory and a queue of its own, all listening.

    :param transport: URL of the bus
    :param files: images of which every host has a file before it starts
    :param program: which watcher
    """

    def __init__(
        self,
        site: Site,
        count: int,
        database: str,
        transport: str,
        files: Collection[str] = (),
        program: type[Program] = Program,
    ) -> None:
        self._directory = site.new_directory("crowd")

        def start(number: int) -> Program:
            directory = self._directory / str(number)
            directory.mkdir()
            own = f"pool = glance-staging-watcher-{number}\nsweep_interval = 86400"
            config = site.configure(directory, database, transport, own)
            for name in files:
                (directory / "staging" / name).touch()
            made = program(directory, "--config-file", str(config))
            site.at_close(made.kill)
            made.wait_ready()
            made.wait_for_line("Listening for notifications")
            return made

        with ThreadPoolExecutor(AT_ONCE) as starters:
            self.programs = list(starters.map(start, range(count)))

    @property
    def pids(self) -> list[int]:
        """Of all watchers."""
        return [program.process.pid for program in self.programs]

    def cpu(self) -> float:
        """Seconds on a processor, of all of them."""
        return sum(map(proc.cpu, self.pids))

    def memory(self) -> float:
        """MB of 10^6 bytes, of all of them."""
        return sum(map(proc.proportional_memory, self.pids))

    def wait_gone(self, name: str) -> None:
        """Wait until no host has that file any more."""
        numbers = range(len(self.programs))
        left = [self._directory / str(number) / "staging" / name for number in numbers]

        def gone() -> bool:
            left[:] = filter(Path.exists, left)
            return not left

        wait_for(gone, GONE_TIMEOUT, f"the removal of {name} on all hosts")

    def close(self) -> None:
        """End all of them."""
        for program in self.programs:
            program.process.send_signal(signal.SIGKILL)
        for program in self.programs:
            program.process.wait()
