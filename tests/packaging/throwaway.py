# SPDX-License-Identifier: Apache-2.0
"""A root file system to install into: this machine's, of which nothing is changed."""

import os
import subprocess
from pathlib import Path

MOUNT = """
set -e
mount -t tmpfs tmpfs "$0"
mkdir "$0/upper" "$0/work" "$0/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" "$0/root"
mount -t proc proc "$0/root/proc"
mount --rbind /dev "$0/root/dev"
mount -t tmpfs tmpfs "$0/root/tmp"
printf '#!/bin/sh\\nexit 101\\n' >"$0/root/usr/sbin/policy-rc.d"  # no daemon is to start
chmod 755 "$0/root/usr/sbin/policy-rc.d"
echo
exec cat
"""


class Root:
    """A mount name space with an overlay of ``/``, which ends with it; for root only.

    :param directory: an empty one
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", MOUNT, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout and self._holder.stderr
        if not self._holder.stdout.readline():
            self.close()
            raise OSError(self._holder.stderr.read())
        seen = f"/proc/{self._holder.pid}/root{directory}"
        self.path = Path(seen, "root")
        self._upper = Path(seen, "upper")

    def __enter__(self) -> "Root":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the name space, and with it all that was changed."""
        self._holder.communicate()

    def run(self, *command: str, user: int = 0, check: bool = True) -> str:
        """Run a command inside, with nothing of this environment; its output.

        Raises RuntimeError with the output when it fails.
        """
        name_space = f"--mount=/proc/{self._holder.pid}/ns/mnt"
        run = subprocess.run(
            [
                *("nsenter", name_space),  # whose own --root would be looked up outside
                *("chroot", f"--userspec={user}:{user}", "--groups=", self._directory / "root"),
                *command,
            ],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
            | {name: value for name, value in os.environ.items() if name.startswith("PIP_")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if check and run.returncode:
            raise RuntimeError(f"{command} failed:\n{run.stdout}")
        return run.stdout

    def changed(self) -> set[str]:
        """Paths, without the first slash, that aren't as they were; a directory if it is new."""
        return {
            path
            for path in (str(each.relative_to(self._upper)) for each in self._upper.rglob("*"))
            if not (self._upper / path).is_dir()
            or (self._upper / path).is_symlink()
            or not Path("/", path).is_dir()
        }
