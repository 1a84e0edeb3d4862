# SPDX-License-Identifier: Apache-2.0
"""Closes descriptors of removed huge files, whose blocks take seconds to free, in one thread."""

import os
import queue
import threading
from contextlib import suppress

MAX_OPEN = 16  # descriptors that wait to be closed


class Closer:
    """One thread, started when it is first needed.

    Whoever closes a removed file last frees its blocks. Where the thread can't be had, or has
    enough to do, that is the caller.
    """

    def __init__(self) -> None:
        self._waiting: queue.Queue[int] = queue.Queue(MAX_OPEN)
        self._thread: threading.Thread | None = None

    def close(self, descriptor: int) -> None:
        """Close a descriptor, in the thread if possible."""
        try:
            self._waiting.put_nowait(descriptor)
        except queue.Full:
            _close(descriptor)
            return
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
            _close(self._waiting.get())


def _close(descriptor: int) -> None:
    with suppress(OSError):  # an error of the device; the name is gone
        os.close(descriptor)
