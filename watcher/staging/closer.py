# SPDX-License-Identifier: Apache-2.0
"""Closes descriptors of removed huge files, whose blocks take seconds to free, in one thread."""

import os
import queue
import threading
import time
from contextlib import suppress

from watcher.threads import ENDED, STALL_TIMEOUT

MAX_OPEN = 16  # descriptors that wait to be closed


class Closer:
    """One thread, started when it is first needed.

    Whoever closes a removed file last frees its blocks. Where the thread can't be had, or has
    enough to do, that is the caller.
    """

    def __init__(self) -> None:
        self._waiting: queue.Queue[int] = queue.Queue(MAX_OPEN)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._busy_since: float | None = None  # with the current descriptor

    @property
    def failure(self) -> str | None:
        """Why descriptors aren't closed; None while they are, or none waits."""
        busy_since, thread = self._busy_since, self._thread
        if (thread is None or not thread.is_alive()) and not self._waiting.empty():
            return ENDED
        if busy_since is None or (busy := time.monotonic() - busy_since) <= STALL_TIMEOUT:
            return None
        return f"closing a removed file takes {busy:.0f} s"

    def supervise(self) -> None:
        """Start the thread again if it ended while descriptors wait."""
        if not self._waiting.empty():
            self._start()

    def close(self, descriptor: int) -> None:
        """Close a descriptor, in the thread if possible."""
        try:
            self._waiting.put_nowait(descriptor)
        except queue.Full:
            _close(descriptor)
            return
        self._start()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="closer", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no thread can be started
                    self._close_waiting()
                else:
                    self._thread = thread

    def _close_waiting(self) -> None:
        with suppress(queue.Empty):
            while True:
                _close(self._waiting.get_nowait())

    def _run(self) -> None:
        while True:
            descriptor = self._waiting.get()
            self._busy_since = time.monotonic()
            try:
                _close(descriptor)
            finally:
                self._busy_since = None


def _close(descriptor: int) -> None:
    with suppress(OSError):  # an error of the device; the name is gone
        os.close(descriptor)
