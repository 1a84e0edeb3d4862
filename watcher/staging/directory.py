# SPDX-License-Identifier: Apache-2.0
"""The staging directory: listing, identity, and removal that can't leave it.

A pass over the directory works relative to one open descriptor, so nothing that is renamed,
linked or mounted on the way to it can lead a removal elsewhere. Between passes nothing is held
open: the file system can be unmounted.
"""

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import NamedTuple

from watcher.staging.closer import Closer
from watcher.staging.mounts import UNKNOWN, network_type
from watcher.staging.names import NameIndex

HUGE = 1 << 30  # bytes on disk
BATCH = 2000  # names read at a time; events wait for it, 5 ms


class Identity(NamedTuple):
    """What makes a directory the same one under any path."""

    device: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        """Identity of the directory with this status."""
        return cls(status.st_dev, status.st_ino)


class FileChangedError(Exception):
    """The file isn't the one that was decided on; look again."""


class DirectoryReplacedError(Exception):
    """The path leads to another directory than the one that was opened."""


class Staging:
    """One staging directory; a context manager that holds it open for a pass.

    Entering raises OSError when the path can't be opened or is no directory; FileNotFoundError
    means that Glance has staged nothing yet.

    :param path: absolute path, as configured
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.identity: Identity | None = None
        #: type of the network file system that it lies on, `UNKNOWN` if it can't be found out;
        #: None: it is this host's own
        self.network: str | None = None
        self.descriptor = -1
        #: of removed huge files
        self.closer = Closer()
        self._index: NameIndex | None = None
        # of a listing that is under way; becomes the index when that is complete
        self._fresh: NameIndex | None = None

    def __enter__(self) -> "Staging":
        self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # By name, which fails at once when the names in it can be read but not followed.
            held = Identity.of(os.stat(".", dir_fd=self.descriptor))
        except OSError as error:
            self.__exit__(None, None, None)
            raise OSError(error.errno, error.strerror, self.path) from None
        if held != self.identity:
            self.identity, self._index, self._fresh = held, None, None
            self.network = network_type(self.descriptor)
        elif self.network == UNKNOWN:
            self.network = network_type(self.descriptor)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.descriptor)
        self.descriptor = -1

    def refusal(self) -> str | None:
        """Why nothing can be removed in the open directory, as far as the kernel knows untried."""
        if os.fstatvfs(self.descriptor).f_flag & os.ST_RDONLY:
            return os.strerror(errno.EROFS)
        if os.access(".", os.W_OK | os.X_OK, dir_fd=self.descriptor, effective_ids=True):
            return None
        return os.strerror(errno.EACCES)

    def count(self) -> int:
        """Number of entries, by a scan of its own."""
        with self._scan() as entries:
            return sum(1 for _ in entries)

    def listing(self) -> Iterator[str]:
        """Names of all entries, read `BATCH` at a time as they are asked for.

        Each batch is in the order of its inodes: the cheapest to remove files in.

        :raises OSError: the directory can't be read
        """
        fresh = self._fresh = NameIndex()
        try:
            with self._scan() as entries:
                full = True
                while full:
                    batch = sorted((e.inode(), e.name) for e in itertools.islice(entries, BATCH))
                    for _, name in batch:
                        fresh.add(name)
                    full = len(batch) == BATCH
                    if not full:
                        self._index, self._fresh = fresh, None
                    for _, name in batch:
                        yield name
        finally:
            if self._fresh is fresh:
                self._fresh = None

    @contextmanager
    def _scan(self) -> Iterator[Iterator[os.DirEntry[str]]]:
        # A descriptor of its own, for its position is shared by all that read from it.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptor = os.open(".", flags, dir_fd=self.descriptor)
        try:
            with os.scandir(descriptor) as entries:
                yield entries
        finally:
            os.close(descriptor)

    @property
    def is_listed(self) -> bool:
        """Whether `files_of` needs no listing of its own: there was one, or it is under way."""
        return self._index is not None or self._fresh is not None

    def files_of(self, key: str) -> list[str]:
        """Names of an image's files that are there now, by its canonical id.

        The cost does not grow with the number of other files, as long as `saw` is called with
        every new name; `forget_names` says that it wasn't. What a listing under way hasn't read
        yet is left to it.
        """
        index = self._index or self._fresh
        if index is None:
            for _ in self.listing():
                pass
            return self.files_of(key)
        return [name for name in index.files_of(key) if self.saw(name)]

    def saw(self, name: str) -> bool:
        """Take note of a name that an event reported; False when nothing of that name is there."""
        try:
            self.lstat(name)
            there = True
        except FileNotFoundError:
            there = False
        except OSError:  # of this one name; a removal will say what is wrong with it
            there = True
        for index in (self._index, self._fresh):
            if index is not None:
                (index.add if there else index.discard)(name)
        return there

    def forget_names(self) -> None:
        """Some new names may have been missed: the next look at an image's files lists all."""
        self._index = None

    def full_path(self, name: str) -> str:
        """Path of an entry, for log lines."""
        return os.path.join(self.path, name)

    def lstat(self, name: str) -> os.stat_result:
        """Status of an entry, links not followed.

        :raises FileNotFoundError: there is no such entry
        :raises OSError: any other failure
        """
        return os.lstat(name, dir_fd=self.descriptor)

    def remove(self, name: str, seen: os.stat_result | None) -> int | None:
        """Remove anything but a directory; what is gone already is a success.

        :param seen: status on which the decision rests, None if there was no such entry; it must
            still be that very one
        :returns: bytes on disk that it held; None when it was gone already
        :raises FileChangedError: it isn't that entry any more
        :raises DirectoryReplacedError: the path leads to another directory now
        :raises OSError: it can't be removed; names the full path
        """
        if not self.is_in_place():
            raise DirectoryReplacedError(self.path)
        try:
            now = self.lstat(name)
            if seen is None or _version(now) != _version(seen):
                raise FileChangedError(name)
            self._unlink(name, now)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ESTALE:  # a cache knew it by that name, the server doesn't
                raise FileChangedError(name) from None
            raise OSError(error.errno, error.strerror, self.full_path(name)) from None
        return now.st_blocks * 512

    def is_in_place(self) -> bool:
        """Whether the path still leads to the open directory."""
        try:
            return Identity.of(os.stat(self.path)) == self.identity
        except OSError:
            return False

    def _unlink(self, name: str, status: os.stat_result) -> None:
        held, flags = -1, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        # What is held open NFS only renames, and the server frees blocks in any case.
        if status.st_blocks * 512 >= HUGE and stat.S_ISREG(status.st_mode) and not self.network:
            with suppress(OSError):  # no descriptor left: the blocks are freed here
                held = os.open(name, flags, dir_fd=self.descriptor)
        try:
            os.unlink(name, dir_fd=self.descriptor)
        finally:
            if held >= 0:
                self.closer.close(held)


def _version(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
