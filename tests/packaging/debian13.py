# SPDX-License-Identifier: Apache-2.0
"""Debian 13 in a directory, made by debootstrap and kept for the next run; throwaway copies of it.

The trees are kept below ``$DEBIAN13_TREES``, else in the user's cache directory; remove them to
have them made again.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.services import cgroups
from tests.services.waiting import wait_for

BUILDERS = (
    "build-essential",
    "debhelper",
    "dh-python",
    "lintian",
    "pybuild-plugin-pyproject",
    "python3-all",
    "python3-setuptools",
)
HOST = (
    "bash-completion",
    "curl",
    "dbus",
    "glance-api",
    "logrotate",
    "mariadb-server",
    "python3-venv",
    "python3-watcher",
    "rabbitmq-server",
    "sudo",
    "systemd",
    "zsh",
)
SYSTEMD = ("/lib/systemd/systemd", "--system", "--log-target=console", "--show-status=no")
START_TIMEOUT = 60.0  # seconds
RUN_TIMEOUT = 300.0  # seconds

# Installs into a tree, in a mount name space which ends with it. No daemon is to start.
INSTALL = r"""
set -e
base=$0 tree=$1; shift
mount --make-rprivate /
cp -a "$base" "$tree"
cp /etc/resolv.conf "$tree/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
chmod 755 "$tree/usr/sbin/policy-rc.d"
echo force-unsafe-io >"$tree/etc/dpkg/dpkg.cfg.d/unsafe-io"
mount -t proc proc "$tree/proc"
mount --rbind /dev "$tree/dev"
chroot "$tree" apt-get -qq update
chroot "$tree" apt-get -qq install --no-install-recommends "$@"
chroot "$tree" apt-get -qq clean
rm "$tree/usr/sbin/policy-rc.d"
"""

# The kernel's own settings and the devices of this machine stay out of reach. The root directory is
# replaced since user name spaces, which the unit has, can't be made after a mere chroot.
BOOT = r"""
set -e
echo $$ >"$1/cgroup.procs"
tree=$2 scratch=$3; shift 3
exec setpriv --pdeathsig KILL \
    unshare --mount --pid --net --ipc --cgroup --fork --kill-child sh -ec '
tree=$1 scratch=$2; shift 2
mount --make-rprivate /
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay overlay \
    -o "lowerdir=$tree,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
cp /etc/resolv.conf "$scratch/root/etc/resolv.conf"
cd "$scratch/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for node in full null random tty urandom zero; do
    touch dev/$node
    mount --bind /dev/$node dev/$node
done
mkdir dev/pts dev/shm
mount -t tmpfs tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
ip link set lo up
touch run/started
pivot_root . .
umount --lazy .
export container=test
exec chroot . "$@"' sh "$tree" "$scratch" "$@"
"""

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
} | {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}


class UnavailableError(Exception):
    """Debian 13 can't be had here, and why."""


def tree(*packages: str) -> Path:
    """Path of a Debian 13 with these packages, made if it isn't there; not to be changed.

    :raises UnavailableError: it can't be made
    """
    named = os.environ.get("DEBIAN13_TREES")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    trees = Path(named) if named else caches / "glance-staging-watcher"
    trees.mkdir(parents=True, exist_ok=True)
    with (trees / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        base = trees / "debian13"
        _make(base, "debootstrap", "--variant=minbase", "trixie")
        key = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
        made = trees / f"debian13-{key}"
        _make(made, "unshare", "--mount", "sh", "-c", INSTALL, base, packages=packages)
    return made


def _make(tree: Path, *command: str | Path, packages: Sequence[str] = ()) -> None:
    """Make a tree by a command that gets its path, unless it is there already."""
    if tree.exists():
        return
    partial = tree.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    run = subprocess.run(
        [*command, partial, *packages],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if run.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        raise UnavailableError(f"{command[0]} cannot make a Debian 13: {run.stdout[-2000:]}")
    partial.rename(tree)


class Machine:
    """A throwaway copy of a tree, with name spaces of its own which end with it; for root only.

    Its network is a loopback device.

    :param tree: what `tree` made
    :param scratch: an empty directory
    :param init: command of its first process
    """

    def __init__(self, tree: Path, scratch: Path, *init: str) -> None:
        if (place := cgroups.writable()) is None:
            raise UnavailableError("no control groups (cgroup2) to write to")
        self._cgroup = place / f"{scratch.name}-{os.getpid()}"
        self._cgroup.mkdir()
        self._console = scratch.with_suffix(".console")
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", BOOT, "sh", self._cgroup, tree, scratch, *init],
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )

    def __enter__(self) -> "Machine":
        try:
            self._first = wait_for(self._started, START_TIMEOUT, "the first process")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _started(self) -> int | None:
        if self._process.poll() is not None:
            raise UnavailableError(f"no name space for Debian 13: {self.console}")
        pid = self._process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{child}/root/run/started").exists():
                return int(child)
        return None

    @property
    def console(self) -> str:
        """What its first process said."""
        return self._console.read_text(errors="replace")

    @property
    def path(self) -> Path:
        """Its root directory, seen from outside."""
        return Path(f"/proc/{self._first}/root")

    def enter(self, *, network: bool = False) -> list[str]:
        """What to put before a command to run it inside; see `run`."""
        spaces = ["--mount", "--pid", "--ipc", "--cgroup", *([] if network else ["--net"])]
        return ["nsenter", f"--target={self._first}", *spaces, "--root", "--wd"]

    def run(self, *command: str, check: bool = True, network: bool = False) -> str:
        """Run a command inside; its output.

        :param network: with this machine's network instead of its own
        :raises RuntimeError: it fails; with its output
        """
        run = subprocess.run(
            [*self.enter(network=network), *command],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=RUN_TIMEOUT,
        )
        if check and run.returncode:
            raise RuntimeError(f"{command} failed:\n{run.stdout}")
        return run.stdout

    def files(self) -> set[str]:
        """Paths of all that is on its disk."""
        return set(self.run("find", "/", "-xdev", "-mindepth", "1").splitlines())

    def close(self) -> None:
        """End it, with all that was changed."""
        self._process.kill()
        self._process.wait()
        wait_for(
            lambda: cgroups.removed(self._cgroup),
            START_TIMEOUT,
            "the end of the machine's processes",
        )
