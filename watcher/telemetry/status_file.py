# SPDX-License-Identifier: Apache-2.0
"""What the service does, in a file for the command ``status``.

While the service runs it holds a lock beside that file, which the kernel releases when the process
ends in any way: so a reader knows whether it runs.
"""

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from oslo_log import log

from watcher.conditions import Condition
from watcher.reconcile.cleaner import Removal
from watcher.stats import Stats
from watcher.telemetry import MODE, give_to_owner
from watcher.telemetry.removals import Removals
from watcher.threads import Supervised
from watcher.workqueue import WorkQueue

LOG = log.getLogger(__name__)

INTERVAL = 1.0  # seconds between two writes
CLOSE_TIMEOUT = 1.0  # seconds for the last one
MAX_SIZE = 1 << 20  # bytes that a reader takes

RUNNING, STOPPED, UNKNOWN = "running", "not running", "unknown"


class StatusFile:
    """Writes the file in a thread of its own; where that can't be done the service runs without.

    :param path: absolute; empty: none is written
    :param make: returns what to write; see `report`
    :param is_default: a missing directory is normal
    """

    def __init__(
        self, path: str, make: Callable[[], Mapping[str, Any]], *, is_default: bool = False
    ) -> None:
        self._path, self._make, self._is_default = path, make, is_default
        self._written = ""
        self._lock: int | None = None
        self._changed, self._closed = threading.Event(), threading.Event()
        self._thread = Supervised(
            self._run,
            "status_file",
            Condition(LOG, "Status file failed, restarting it: %s", "Status file works again"),
        )

    def start(self) -> None:
        """Lock and write it, in the thread; returns at once."""
        if not self._path:
            return
        try:
            self._lock = _locked(f"{self._path}.lock")
        except OSError as error:
            cause = error
        else:
            self._changed.set()
            self._thread.start()
            return
        # Not above, where oslo.log would add the exception to the line.
        if not (self._is_default and isinstance(cause, FileNotFoundError)):
            LOG.warning(
                "Cannot write [staging_watcher] status_file %s; the command status doesn't show "
                "the service: %s",
                self._path,
                "another service holds its lock"
                if isinstance(cause, BlockingIOError)
                else cause.strerror,
            )

    def supervise(self) -> None:
        """Write it again if the thread that does ended."""
        if self._lock is not None:
            self._thread.supervise()

    def update(self) -> None:
        """Have it written if anything changed; returns at once."""
        self._changed.set()

    def close(self) -> None:
        """Remove the file: the service stops."""
        self._closed.set()
        self._changed.set()
        self._thread.stop(CLOSE_TIMEOUT)
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            os.close(self._lock)
            self._lock = None

    def _run(self) -> None:
        while self._changed.wait() and not self._closed.is_set():
            self._changed.clear()
            try:
                self._write(json.dumps(self._make()))
            except OSError as error:
                LOG.debug("Cannot write %s: %s", self._path, error)
            self._closed.wait(INTERVAL)

    def _write(self, text: str) -> None:
        if text == self._written:
            return
        new = f"{self._path}.new"
        with contextlib.suppress(FileNotFoundError):  # of a process that was killed
            os.unlink(new)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        try:
            give_to_owner(descriptor, os.path.dirname(self._path))
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
        os.rename(new, self._path)
        self._written = text


def _locked(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        give_to_owner(descriptor, os.path.dirname(path))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class ServiceState(NamedTuple):
    """What is known of the service.

    :param state: `RUNNING`, `STOPPED` or `UNKNOWN`
    :param cause: of the last
    :param report: see `report`; None if there is none
    """

    state: str
    cause: str | None
    report: dict[str, Any] | None


def read(path: str) -> ServiceState:
    """Look whether the service runs, and what it last wrote."""
    try:
        running = _is_held(f"{path}.lock")
    except FileNotFoundError:
        cause = f"no status_file {path}: the service does not run, or could not write it"
        return ServiceState(UNKNOWN, cause, None)
    except OSError as error:
        return ServiceState(UNKNOWN, f"{path}: {error.strerror}", None)
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(MAX_SIZE))
    except (OSError, ValueError):
        found = None
    state = RUNNING if running else STOPPED
    return ServiceState(state, None, found if isinstance(found, dict) else None)


def _is_held(path: str) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def report(
    stats: Stats,
    queue: WorkQueue,
    removals: Removals,
    conditions: Mapping[str, str | None],
    directory: str,
) -> dict[str, Any]:
    """Describe the service.

    :param conditions: every component, with the cause of its failure; None: healthy
    :param directory: path of the staging directory
    """
    last = stats.last_sweep
    return {
        "pid": os.getpid(),
        "directory": directory,
        "started": round(stats.started, 3),
        "last_sweep": None
        if last is None
        else {
            "ended": round(last.ended, 3),
            "duration": round(last.duration, 3),
            "removed": last.tally.removed,
            "kept": last.tally.ignored,
            "errors": last.tally.error,
            "size": last.tally.size,
        },
        "last_removals": [_removal(moment, each) for moment, each in reversed(list(removals.last))],
        "queue": {"due": queue.due, "delayed": queue.delayed},
        "conditions": dict(conditions),
    }


def _removal(moment: float, removal: Removal) -> dict[str, Any]:
    return {
        "time": round(moment, 3),
        "name": os.path.basename(removal.path),
        "size": removal.size,
        "image_id": removal.image_id,
        "trigger": removal.trigger.value,
        "latency": None if removal.waited is None else round(removal.waited, 6),
    }
