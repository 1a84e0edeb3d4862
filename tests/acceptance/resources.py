# SPDX-License-Identifier: Apache-2.0
"""Memory and descriptors of a process over time."""

import os
import threading
from pathlib import Path
from typing import NamedTuple

INTERVAL = 1.0  # seconds
MIB = 1 << 20


class Sample(NamedTuple):
    """Resident bytes that are the process's own, open descriptors, CPU seconds."""

    memory: int
    descriptors: int
    cpu: float


class Resources:
    """Samples a process until it is stopped."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.samples: list[Sample] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more samples."""
        self._stop.set()
        self._thread.join()

    def peak(self, start: float, end: float) -> Sample:
        """Highest values in a part of the time, from 0 to 1."""
        count = len(self.samples)
        part = self.samples[int(start * count) : max(int(end * count), 1)]
        return Sample(*(max(values) for values in zip(*part, strict=True)))

    def now(self) -> Sample:
        """One sample."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        memory = next(line for line in status.splitlines() if line.startswith("RssAnon:"))
        times = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return Sample(
            int(memory.split()[1]) * 1024,
            len(os.listdir(f"/proc/{self._pid}/fd")),
            sum(map(int, times)) / os.sysconf("SC_CLK_TCK"),
        )

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.samples.append(self.now())
