# SPDX-License-Identifier: Apache-2.0
"""The kernel's inotify, with nothing around it."""

import ctypes
import os
import struct
import threading
import time
from collections.abc import Iterator

CREATE, CLOSE_WRITE, MOVED_TO, DELETE = 0x100, 0x8, 0x80, 0x200
TIMEOUT = 120.0  # seconds

_libc = ctypes.CDLL(None, use_errno=True)
_HEADER = struct.Struct("iIII")


class Inotify:
    """Events of one directory."""

    def __init__(self, directory: str, mask: int) -> None:
        self.descriptor = _libc.inotify_init1(os.O_CLOEXEC)
        if _libc.inotify_add_watch(self.descriptor, os.fsencode(directory), mask) < 0:
            raise OSError(ctypes.get_errno(), directory)

    def read(self) -> Iterator[str]:
        """Wait for events; their names."""
        data, start = os.read(self.descriptor, 1 << 16), 0
        while start < len(data):
            _, _, _, size = _HEADER.unpack_from(data, start)
            start += _HEADER.size
            yield os.fsdecode(data[start : start + size].rstrip(b"\0"))
            start += size


class Removals:
    """Notes when files of a directory are removed; a thread that waits for the kernel to say so."""

    def __init__(self, directory: str) -> None:
        self._inotify = Inotify(directory, DELETE)
        self._changed = threading.Condition()
        self._gone: dict[str, float] = {}
        threading.Thread(target=self._run, daemon=True).start()

    def wait(self, name: str, timeout: float = 30.0) -> float:
        """Wait until a file is gone; when that was, by `time.perf_counter`."""
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._gone, timeout):
                raise TimeoutError(f"{name} is not removed")
            return self._gone.pop(name)

    def wait_for_all(self, count: int) -> float:
        """Wait until that many files are gone; when the last one was."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._gone) >= count, TIMEOUT):
                raise TimeoutError(f"{count - len(self._gone)} files are not removed")
            last = max(self._gone.values())
            self._gone.clear()
            return last

    def _run(self) -> None:
        while True:
            names = list(self._inotify.read())
            now = time.perf_counter()
            with self._changed:
                self._gone.update(dict.fromkeys(names, now))
                self._changed.notify_all()
