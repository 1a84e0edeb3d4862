# SPDX-License-Identifier: Apache-2.0
"""What the kernel counts of a process."""

import re
import time
from contextlib import suppress
from pathlib import Path

TIMEOUT = 120.0  # seconds

_SWITCHES = re.compile(r"^(?:non)?voluntary_ctxt_switches:\s+(\d+)", re.MULTILINE)


def wakeups(pid: int) -> int:
    """Context switches of all threads, asked for or not."""
    total = 0
    for task in _tasks(pid):
        with suppress(OSError):
            total += sum(map(int, _SWITCHES.findall((task / "status").read_text())))
    return total


def cpu(pid: int) -> float:
    """Seconds on a processor, of all threads that live; exact, not in ticks."""
    total = 0
    for task in _tasks(pid):
        with suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def memory(pid: int | str, what: str = "VmRSS") -> float:
    """Resident memory (VmRSS), or the most there was of it (VmHWM), in MB of 10^6 bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{what}:\s+(\d+) kB", status, re.MULTILINE)
    assert found
    return int(found[1]) * 1024 / 1e6


def forget_most(pid: int) -> None:
    """Reset VmHWM."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def proportional_memory(pid: int) -> float:
    """Resident memory in MB of 10^6 bytes, of what several processes share its part only (PSS)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert found
    return int(found[1]) * 1024 / 1e6


def descriptors(pid: int) -> int:
    """Number of open files and sockets."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int) -> int:
    """Number of threads."""
    return len(_tasks(pid))


def bytes_read(pid: int) -> int:
    """Bytes that it was given by read and the like."""
    found = re.search(r"^rchar: (\d+)", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def settle(pid: int, quiet: float = 0.4) -> None:
    """Wait until a process has used no processor for a while."""
    deadline = time.monotonic() + TIMEOUT
    last, since = -1.0, time.monotonic()
    while time.monotonic() - since < quiet:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not come to rest")
        now = cpu(pid)
        if now - last > 0.0005:
            last, since = now, time.monotonic()
        time.sleep(0.05)


def _tasks(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())
