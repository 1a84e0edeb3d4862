# SPDX-License-Identifier: Apache-2.0
"""A real network file system: a directory on an SFTP server, mounted by sshfs.

Each mount has a server of its own at the other end of a socket, so there is no ssh and no port.
"""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .waiting import wait_for

SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")
START_TIMEOUT = 30.0  # seconds
STOP_TIMEOUT = 30.0  # seconds


class Mount:
    """One mount of a directory, as another host would have it.

    :param directory: the server's
    :param path: an empty directory to mount it on
    :param options: of the mount, such as "dir_cache=no"
    """

    def __init__(self, directory: Path, path: Path, *options: str) -> None:
        self.path = path
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._server = subprocess.Popen(
                [str(SFTP_SERVER)], stdin=theirs.fileno(), stdout=theirs.fileno()
            )
            self._client = subprocess.Popen(
                ["sshfs", "-f", "-o", ",".join(["passive", *options]), f":{directory}", str(path)],
                stdin=ours.fileno(),
                stdout=ours.fileno(),
                stderr=subprocess.PIPE,
            )

    @classmethod
    def missing(cls) -> str | None:
        """Say what isn't there, or None when all is."""
        if not Path("/usr/bin/sshfs").exists() or not SFTP_SERVER.exists():
            return "sshfs or openssh-sftp-server is not installed"
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            return "/dev/fuse can't be used here"
        return None

    def wait_mounted(self) -> None:
        """Return as soon as it is mounted.

        Raises RuntimeError with the program's own words when it ends instead.
        """

        def mounted() -> bool:
            if self._client.poll() is not None:
                assert self._client.stderr is not None
                raise RuntimeError(f"sshfs ended: {self._client.stderr.read().decode()}")
            return self.path.is_mount()

        wait_for(mounted, START_TIMEOUT, f"the mount of {self.path}")

    def crash(self) -> None:
        """The client dies; what is left is a mount that can't be used."""
        self._client.kill()
        self._client.wait()

    def stop(self) -> None:
        """Unmount it, also when it is in use."""
        subprocess.run(["fusermount3", "-u", "-z", self.path], capture_output=True, check=False)
        try:
            self._client.wait(STOP_TIMEOUT)
        finally:
            for process in (self._client, self._server):
                process.kill()
                process.wait()
            if self._client.stderr is not None:
                self._client.stderr.close()


class Share:
    """A directory which several hosts have mounted."""

    def __init__(self, directory: Path) -> None:
        self._home = directory
        self.directory = directory / "server"
        self.directory.mkdir()
        self._mounts: list[Mount] = []

    def mount(self, *options: str, path: Path | None = None) -> Mount:
        """Mount it for one more host, or again."""
        if path is None:
            path = self._home / f"mount-{len(self._mounts) + 1}"
            path.mkdir()
        self._mounts.append(Mount(self.directory, path, *options))
        self._mounts[-1].wait_mounted()
        return self._mounts[-1]

    def close(self) -> None:
        """Unmount all."""
        for mount in self._mounts:
            mount.stop()


@contextmanager
def shared(directory: Path) -> Iterator[Share]:
    """A directory to share, with all its files below that one."""
    share = Share(directory)
    try:
        yield share
    finally:
        share.close()
