# SPDX-License-Identifier: Apache-2.0
"""When names came to a directory and when they went, by inotify: also those seen by no poll."""

import ctypes
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_CAME, _WENT = _CREATE | _MOVED_TO, _DELETE | _MOVED_FROM
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Witness:
    """Keeps the times, of time.monotonic(), at which names came and went."""

    def __init__(self, directory: Path) -> None:
        self._lock = threading.Condition()  # its lock can be taken again
        self._came: dict[str, float] = {}
        self._went: dict[str, float] = {}
        self._descriptor = _libc.inotify_init1(os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._add(directory)
        self._stop = str(directory / "witness-stops")
        self._thread = threading.Thread(target=self._read, name="witness", daemon=True)
        self._thread.start()

    def came(self, name: str) -> float | None:
        """When the name came the last time."""
        with self._lock:
            return self._came.get(name)

    def went(self, name: str) -> float | None:
        """When the name went, if it went after it came the last time."""
        with self._lock:
            went = self._went.get(name)
            return went if went is not None and went >= self._came.get(name, 0.0) else None

    def lifetime(self, name: str) -> float:
        """Seconds from the coming of a name, the last time, to its going."""
        came, went = self.came(name), self.went(name)
        assert came is not None and went is not None
        return went - came

    def forget(self, name: str) -> None:
        """Only what comes from now on counts."""
        with self._lock:
            self._came.pop(name, None)
            self._went.pop(name, None)

    def wait(self, moment: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait for a state of what was created and removed, without losing any time."""
        with self._lock:
            assert self._lock.wait_for(moment, timeout), "the moment never came"

    def wait_came(self, name: str, timeout: float = 60.0) -> float:
        """Wait until the name came, be it gone again by now; when it came."""
        self.wait(lambda: name in self._came, timeout)
        return self._came[name]

    def wait_went(self, name: str, timeout: float = 60.0) -> float:
        """Wait until the name came and went; when it went."""
        self.wait(lambda: self.went(name) is not None, timeout)
        return self._went[name]

    def close(self) -> None:
        """End the watch."""
        with open(self._stop, "wb"):
            pass
        os.unlink(self._stop)
        self._thread.join(10.0)
        os.close(self._descriptor)

    def _add(self, directory: Path) -> None:
        path, mask = os.fsencode(directory), _CAME | _WENT
        if _libc.inotify_add_watch(self._descriptor, path, ctypes.c_uint32(mask)) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", str(directory))

    def _read(self) -> None:
        while True:
            data = os.read(self._descriptor, 1 << 16)
            now = time.monotonic()
            while data:
                _, mask, _, length = _EVENT.unpack_from(data)
                raw = data[_EVENT.size : _EVENT.size + length]
                data = data[_EVENT.size + length :]
                name = os.fsdecode(raw.rstrip(b"\0"))
                if name == os.path.basename(self._stop):
                    return
                with self._lock:
                    if mask & _CAME:
                        self._came[name] = now
                    elif mask & _WENT:
                        self._went[name] = now
                    self._lock.notify_all()
