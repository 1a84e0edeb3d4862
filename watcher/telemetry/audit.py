# SPDX-License-Identifier: Apache-2.0
"""The audit: one line of JSON for each removed file, appended to a file that others may rotate."""

import contextlib
import datetime
import errno
import json
import os
import stat

from oslo_log import log

from watcher.conditions import Condition
from watcher.errors import ConfigError
from watcher.reconcile.cleaner import Removal

LOG = log.getLogger(__name__)

MODE = 0o640
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK  # a FIFO that nobody reads must not block


class AuditLog:
    """Takes note of removals; a file that can't be written to never holds them up.

    Not by `logging`, which waits at the end of the process for handlers in use.

    :raises ConfigError: the file can't be opened, or is no regular file
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._before = b""  # what must be written before the next line
        self._descriptor: int | None = None
        try:
            self._descriptor = _open(path)
        except OSError as error:
            raise ConfigError(
                f"Cannot write [staging_watcher] audit_log {path}: {error.strerror}; "
                "run as the user that runs glance-api"
            ) from None
        self.condition = Condition(
            LOG,
            f"Cannot write the audit to {path}, removals go on without it: %s",
            f"The audit is written to {path} again",
        )

    def record(self, removal: Removal) -> None:
        """Append one line: ``time`` (UTC, ISO 8601), ``file``, ``image``, ``size`` (bytes on
        disk), ``trigger``, ``state`` (of the image's row), ``latency`` (seconds from the event
        to the removal; null in a sweep).

        A name that isn't UTF-8 has ``\\udcXX`` in place of each byte XX that is none.
        """
        now = datetime.datetime.now(datetime.UTC)
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
        try:
            self._append(f"{line}\n".encode("ascii"))
        except OSError as error:
            self.condition.begin(error.strerror or str(error))
        else:
            self.condition.end()

    def _append(self, line: bytes) -> None:
        if self._descriptor is None or not _is_at(self._path, self._descriptor):
            self._close()
            self._descriptor = _open(self._path)
        rest = self._before + line
        while rest:  # once, unless there is no room for all of it: the next try tells why
            rest = rest[os.write(self._descriptor, rest) :]
            self._before = b"\n" if rest else b""

    def _close(self) -> None:
        descriptor, self._descriptor, self._before = self._descriptor, None, b""
        if descriptor is not None:
            try:
                os.close(descriptor)
            except OSError as error:  # of earlier lines; the new file may be in order
                self.condition.begin(error.strerror or str(error))


def _is_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _open(path: str) -> int:
    descriptor = _open_or_create(path)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file")
    return descriptor


def _open_or_create(path: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, FLAGS)
    with contextlib.suppress(FileExistsError):  # another was faster
        return _create(*os.path.split(os.path.realpath(path)))
    return os.open(path, FLAGS)


def _create(directory: str, name: str) -> int:
    """A new file, which belongs to the directory's owner and group if root makes it: the
    service's user is to write it after a sweep by root."""
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        descriptor = os.open(name, FLAGS | os.O_CREAT | os.O_EXCL, MODE, dir_fd=place)
        if os.geteuid() == 0:
            owner = os.fstat(place)
            with contextlib.suppress(OSError):  # root without that capability
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return descriptor
    finally:
        os.close(place)
