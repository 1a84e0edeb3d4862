# SPDX-License-Identifier: Apache-2.0
"""Signals for a process together with its descendants, from /proc."""

import os
import signal
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from tests.services.waiting import wait_for


def family(pid: int) -> list[int]:
    """Return the process and its descendants, parents before children."""
    children = defaultdict(list)
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            _, parent = _state_and_parent(int(process.name))
            children[parent].append(int(process.name))
    found = [pid]
    for parent in found:
        found += children[parent]
    return found


def freeze(pid: int) -> list[int]:
    """Stop the process, then its descendants; return them all. No thread of theirs runs then."""
    send(signal.SIGSTOP, pid)  # at first, so that it does not fork any more
    processes = family(pid)
    send(signal.SIGSTOP, *processes)
    for each in processes:
        wait_for(lambda each=each: _halted(each), 10.0, f"process {each} to halt")  # type: ignore[misc]
    return processes


def send(number: signal.Signals, *pids: int) -> None:
    """Send a signal to those of the processes which still exist."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def alive(pid: int) -> bool:
    """Say whether the process exists and is no zombie."""
    try:
        return _state_and_parent(pid)[0] not in "ZX"
    except OSError:
        return False


def _halted(pid: int) -> bool:
    # A signal is sent at once, but reaches a thread that runs on another processor later.
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):
            if thread.read_text().rpartition(")")[2].split()[0] not in "TtZX":
                return False
    return True


def _state_and_parent(pid: int) -> tuple[str, int]:
    state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return state, int(parent)
