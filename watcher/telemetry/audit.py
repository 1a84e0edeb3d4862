# SPDX-License-Identifier: Apache-2.0
"""Write the audit log: one line of JSON for each removed file; anyone may rotate it."""

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Iterator
from datetime import datetime, timezone

from oslo_log import log

from watcher.conditions import Condition
from watcher.errors import ConfigError
from watcher.reconcile.cleaner import Removal
from watcher.telemetry import MODE, give_to_owner

LOG = log.getLogger(__name__)

UTC = timezone.utc

# A FIFO without a reader must not block.
FLAGS = os.O_RDWR | os.O_APPEND | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_WAITING = 1 << 20  # bytes of records that wait until the file is writable
WRITABLE_INTERVAL = 10.0  # seconds between looks whether it still is
MAX_LINKS = 40  # symbolic links in a path, as in the kernel

_LINK = "The file is a symbolic link; name its target"


class AuditLog:
    """Appends removals to a file. A file that can't be written delays or prevents no removal:
    records, the oldest `MAX_WAITING` bytes of them, wait for it in memory.

    Not by `logging`, which waits for its handlers when the process ends.

    No symbolic link is followed in place of the file or its directory, nor any that belongs to
    another user than root or this one. Root writes only to a file of root's or of the directory's
    owner that has no second name. So who owns the directory can't direct root's writes elsewhere.

    :raises ConfigError: the file can't be opened
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._before = b""  # ends a half line before the next record
        self._descriptor: int | None = None
        self._waiting = bytearray()
        self._lost = 0  # records that didn't wait
        self._looked = time.monotonic()
        #: failing while records can't be written
        self.condition = Condition(
            LOG,
            f"Audit log {path} not writable; removals continue without it: %s",
            f"Audit log {path} writable again",
        )
        try:
            self._open()
        except OSError as error:
            remedy = {
                errno.ENOENT: f"make {os.path.dirname(self._path)} for the user that runs "
                "glance-api, or name another file",
                errno.EISDIR: "name a file",
            }.get(
                error.errno or 0,
                "run as the user that runs glance-api, or name a file that it can write",
            )
            raise ConfigError(
                f"Cannot write [staging_watcher] audit_log {path}: {error.strerror}; {remedy}"
            ) from None

    def record(self, removal: Removal) -> None:
        r"""Append one line.

        Fields: ``time`` (UTC, ISO 8601), ``file`` (path; ``\udcXX`` for a byte XX that isn't
        UTF-8), ``image``, ``size`` (bytes on disk), ``trigger``, ``state`` (of the image's row),
        ``latency`` (seconds from event to removal; null in a sweep).
        """
        now = datetime.now(UTC)
        line = json.dumps(
            {
                "time": now.isoformat(timespec="milliseconds"),
                "file": removal.path,
                "image": removal.image_id,
                "size": removal.size,
                "trigger": removal.trigger.value,
                "state": removal.state.value,
                "latency": None if removal.waited is None else round(removal.waited, 6),
            }
        )
        record = f"{line}\n".encode("ascii")
        if len(self._waiting) + len(record) > MAX_WAITING:
            self._lost += 1
        else:
            self._waiting += record
        self._write()

    def flush(self) -> None:
        """Write records that wait, and look whether the file is still writable; to be called
        often."""
        now = time.monotonic()
        if now - self._looked > WRITABLE_INTERVAL:
            self._looked = now
            self._write()

    def close(self) -> None:
        """Write what waits, for the last time."""
        self._write()
        self._lost += self._waiting.count(b"\n")
        self._waiting.clear()
        self._log_lost()
        self._close()

    def _write(self) -> None:
        try:
            self._append()
        except OSError as error:
            self.condition.begin(error.strerror or str(error))
            return
        self.condition.end()
        self._log_lost()

    def _log_lost(self) -> None:
        if self._lost:
            LOG.error("Audit log %s lacks %i removals", self._path, self._lost)
            self._lost = 0

    def _append(self) -> None:
        descriptor = self._descriptor
        if descriptor is None or not _is_at(self._path, descriptor):
            self._close()
            descriptor = self._open()
        if os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        while self._waiting:  # once, unless the disk is full: then the next write raises
            if self._before:
                os.write(descriptor, self._before)
                self._before = b""
            written = os.write(descriptor, self._waiting)
            # A record of which a part was written is written again, on a line of its own.
            whole = self._waiting.rfind(b"\n", 0, written) + 1
            del self._waiting[:whole]
            if whole < written:
                self._before = b"\n"

    def _open(self) -> int:
        self._descriptor = descriptor = _open(self._path)
        size = os.fstat(descriptor).st_size
        whole = size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
        self._before = b"" if whole else b"\n"
        return descriptor

    def _close(self) -> None:
        descriptor, self._descriptor, self._before = self._descriptor, None, b""
        if descriptor is not None:
            try:
                os.close(descriptor)
            except OSError as error:  # of earlier lines; the next file may be writable
                self.condition.begin(error.strerror or str(error))


def refusal(path: str) -> str | None:
    """Why `AuditLog` would refuse a file, apart from permissions; nothing is opened for writing.

    None also where the file isn't there yet.

    :raises OSError: the path can't be looked at
    """
    place, name = os.path.split(os.path.abspath(path))
    try:
        with _directory(place) as directory:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                return _LINK
            return _refusal(found, os.fstat(directory))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return error.strerror
        raise


def _is_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


def _open(path: str) -> int:
    place, name = os.path.split(path)
    with _directory(place) as directory:
        descriptor = _open_or_create(name, directory)
        try:
            if refusal := _refusal(os.fstat(descriptor), os.fstat(directory)):
                raise OSError(errno.EPERM, refusal)
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


def _refusal(file: os.stat_result, directory: os.stat_result) -> str | None:
    if not stat.S_ISREG(file.st_mode):
        return "Not a regular file"
    if os.geteuid() == 0:
        if file.st_nlink > 1:
            return "The file has several hard links"
        if file.st_uid not in (0, directory.st_uid):
            return "The file belongs to another user than root and the directory's owner"
    return None


def _open_or_create(name: str, directory: int) -> int:
    try:
        with contextlib.suppress(FileNotFoundError):
            return os.open(name, FLAGS, dir_fd=directory)
        with contextlib.suppress(FileExistsError):  # created by another process meanwhile
            return _create(name, directory)
        return os.open(name, FLAGS, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(error.errno, _LINK) from None
        raise


def _create(name: str, directory: int) -> int:
    """Create the file, so that the service can append to it also after a sweep by root."""
    descriptor = os.open(name, FLAGS | os.O_CREAT | os.O_EXCL, MODE, dir_fd=directory)
    with contextlib.suppress(OSError):
        give_to_owner(descriptor, directory)
    return descriptor


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    """Open a directory, by its absolute path, one component after the other.

    :raises OSError: it can't be opened, or a link was met that must not be followed
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    waiting = path.split("/")[::-1]
    links = 0
    descriptor = os.open("/", flags)
    try:
        while waiting:
            name = waiting.pop()
            if name in ("", "."):
                continue
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                if not waiting:
                    raise OSError(
                        errno.ELOOP, "Its directory is a symbolic link; name the link's target"
                    )
                if found.st_uid not in (0, os.geteuid()) or links > MAX_LINKS:
                    raise OSError(errno.ELOOP, "A symbolic link in the path is not followed")
                target = os.readlink(name, dir_fd=descriptor)
                waiting += target.split("/")[::-1]
                following = os.open(
                    "/" if target.startswith("/") else ".", flags, dir_fd=descriptor
                )
            else:
                following = os.open(name, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = following
        yield descriptor
    finally:
        os.close(descriptor)
