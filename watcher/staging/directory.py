# SPDX-License-Identifier: Apache-2.0
"""The staging directory: name → image id, listing, identity, and removal that can't go astray.

A pass over the directory works relative to one open descriptor, so nothing that is renamed,
linked or mounted on the way to it can lead a removal elsewhere. Between passes nothing is held
open: the file system can be unmounted.
"""

import errno
import itertools
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple

from watcher.staging.mounts import network_type
from watcher.staging.names import NameIndex

# What a look at one file may fail with while the directory is in order.
_OF_ONE_FILE = (errno.EIO, errno.ESTALE)

HUGE = 1 << 30  # bytes on disk
BATCH = 50_000  # names held at a time: 10 MB


class Identity(NamedTuple):
    """What makes a directory the same one, whatever its path."""

    device: int
    inode: int


class FileChangedError(Exception):
    """The file, or the directory, isn't the one that was judged; look again."""


class Staging:
    """One staging directory; a context manager that holds it open for a pass.

    Entering raises OSError when the path can't be opened or is no directory; FileNotFoundError
    means that Glance has staged nothing yet.

    :param path: absolute path, as configured
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.identity: Identity | None = None
        #: type of the network file system that it lies on; None: it is this host's own
        self.network: str | None = None
        self.descriptor = -1
        self._index: NameIndex | None = None
        # of a listing that is under way; becomes the index when that is complete
        self._fresh: NameIndex | None = None

    def __enter__(self) -> "Staging":
        self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # By name, which fails at once when the names in it can be read but not followed.
            held = _identity(os.stat(".", dir_fd=self.descriptor))
        except OSError as error:
            self.__exit__(None, None, None)
            raise OSError(error.errno, error.strerror, self.path) from None
        if held != self.identity:
            self.identity, self._index, self._fresh = held, None, None
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

    def listing(self) -> tuple[int, Iterator[list[str]]]:
        """Number of entries, and their names in batches of at most `BATCH`.

        In one batch they are in the order of their inodes: the cheapest to remove them in. Of
        more than one batch, which come as they are asked for, the number is of the beginning.

        :raises OSError: the directory can't be read
        """
        batches = self._batches()
        first = next(batches, [])
        count = len(first)
        if count == BATCH:
            with self._scan() as entries:
                count = sum(1 for _ in entries)
        return count, itertools.chain([first] if first else [], batches)

    def _batches(self) -> Iterator[list[str]]:
        fresh = self._fresh = NameIndex()
        try:
            with self._scan() as entries:
                full = True
                while full:
                    batch = sorted((e.inode(), e.name) for e in itertools.islice(entries, BATCH))
                    names = [name for _, name in batch]
                    for name in names:
                        fresh.add(name)
                    full = len(names) == BATCH
                    if not full:
                        self._index, self._fresh = fresh, None
                    del batch
                    yield names
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

    def files_of(self, key: str) -> list[str]:
        """Names of an image's files that are there now, by its canonical id.

        The cost does not grow with the number of other files, as long as `saw` is told of every
        new name; `forget_names` says that it wasn't. What a listing that is under way hasn't come
        to is left to it.
        """
        index = self._index or self._fresh
        if index is None:
            for _ in self._batches():
                pass
            return self.files_of(key)
        return [name for name in index.files_of(key) if self.saw(name)]

    def saw(self, name: str) -> bool:
        """Take note of a name that an event told of; False when nothing of that name is there.

        :raises OSError: the directory can't be looked at
        """
        try:
            there = self.lstat(name) is not None
        except OSError as error:
            if error.errno not in _OF_ONE_FILE:
                raise
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

    def lstat(self, name: str) -> os.stat_result | None:
        """Status of an entry, links not followed; None when there is no such entry.

        :raises OSError: any other failure
        """
        try:
            return os.lstat(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            return None

    def remove(self, name: str, judged: os.stat_result | None = None) -> int | None:
        """Remove a regular file; one that is gone already is a success.

        :param judged: status on which the verdict rests; the file must still be that very one
        :returns: bytes on disk that it held; None when it was gone already
        :raises FileChangedError: the file, or the staging directory, isn't the judged one
        :raises OSError: it can't be removed; names the full path
        """
        try:
            if not self._is_in_place():
                raise FileChangedError(self.path)
            now = os.lstat(name, dir_fd=self.descriptor)
            if stat.S_ISDIR(now.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(now.st_mode):
                raise OSError(errno.EINVAL, "Not a regular file")
            if judged is not None and _version(now) != _version(judged):
                raise FileChangedError(name)
            # What is held open NFS only renames, and the server frees blocks in any case.
            if now.st_blocks * 512 >= HUGE and self.network is None:
                self._remove_huge(name)
            else:
                os.unlink(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ESTALE:  # a cache knew it by that name, the server doesn't
                raise FileChangedError(name) from None
            raise OSError(error.errno, error.strerror, self.full_path(name)) from None
        return now.st_blocks * 512

    def _is_in_place(self) -> bool:
        try:
            return _identity(os.stat(self.path)) == self.identity
        except OSError:
            return False

    def _remove_huge(self, name: str) -> None:
        # Giving back the blocks of a huge file takes seconds. Whoever holds the file last does
        # it: here a thread that does nothing else, while the name is gone at once.
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            os.unlink(name, dir_fd=self.descriptor)
        finally:
            threading.Thread(target=os.close, args=(held,), daemon=True).start()


def _identity(status: os.stat_result) -> Identity:
    return Identity(status.st_dev, status.st_ino)


def _version(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
