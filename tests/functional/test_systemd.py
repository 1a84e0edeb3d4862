# SPDX-License-Identifier: Apache-2.0
"""The unit, run by a real systemd with all that it forbids.

It is the first process of namespaces of its own: nothing of it is seen outside, and all of it
ends with its parent.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import cgroups
from tests.services.waiting import wait_for

ROOT = Path(__file__).parents[2]
NAME = "glance-staging-watcher.service"
PYTHON = Path("/usr/bin/python3")  # any user may run it
UID = 64321
TIMEOUT = 60.0  # seconds

BOOT = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
umount -R /sys/fs/cgroup || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for empty in /run /opt /var/lib /var/log /etc/systemd /lib/systemd/system \\
        /lib/systemd/system-generators; do
    mount -t tmpfs tmpfs $empty
done
mkdir -p /etc/systemd/system /var/lib/glance /var/log/glance /opt/glance-staging-watcher
cp units/* /lib/systemd/system
mount --bind passwd /etc/passwd
mount --bind group /etc/group
mount --bind lib /var/lib/glance
mount --bind log /var/log/glance
mount --bind program /opt/glance-staging-watcher
mount --bind {packages} /opt/glance-staging-watcher/packages
mount --bind {source} /opt/glance-staging-watcher/watcher
export container=test
exec /lib/systemd/systemd --system --log-target=console --show-status=no
"""

PROGRAM = """#!/usr/bin/python3
import sys
sys.path[:0] = ["/opt/glance-staging-watcher", "/opt/glance-staging-watcher/packages"]
from watcher.cli import main
sys.exit(main())
"""

TARGETS = ("default", "sysinit", "basic", "shutdown", "network-online", "multi-user")


class Manager:
    """A systemd that knows our unit only.

    :param directory: for all files
    """

    def __init__(self, directory: Path, cgroup: Path) -> None:
        self.directory = directory
        self._cgroup = cgroup
        self.staging = directory / "lib" / "os_glance_staging_store"
        self.log = directory / "log" / "glance-staging-watcher.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._prepare()

    def start(self) -> None:
        """Start it, or skip the test where that can't be."""
        self._cgroup.mkdir()
        boot = BOOT.format(packages=Path(pytest.__file__).parents[1], source=ROOT / "watcher")
        (self.directory / "boot").write_text(boot)
        enter = f"echo $$ > {self._cgroup}/cgroup.procs; exec unshare -mpCf --kill-child sh boot"
        with (self.directory / "console").open("wb") as output:
            self._process = subprocess.Popen(
                ["sh", "-c", enter],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        wait_for(self._running, TIMEOUT, "systemd")

    def _prepare(self) -> None:
        for name in ("units", "lib", "log", "program/bin", "program/packages", "program/watcher"):
            (self.directory / name).mkdir(parents=True)
        self.staging.mkdir()
        for target in TARGETS:
            (self.directory / "units" / f"{target}.target").write_text(
                "[Unit]\nDefaultDependencies=no\n"
            )
        text = (ROOT / "etc" / NAME).read_text()
        for old, new in (
            (
                "glance-staging-watcher --log-file",
                "glance-staging-watcher --config-file "
                "/opt/glance-staging-watcher/glance-api.conf --log-file",
            ),
            ("WatchdogSec=5min", "WatchdogSec=4s"),
            ("RestartSec=5", "RestartSec=0"),
        ):
            assert old in text
            text = text.replace(old, new)
        (self.directory / "units" / NAME).write_text(text)
        for kind, line in (("passwd", f"glance:x:{UID}:{UID}::/:/bin/false"), ("group", "")):
            accounts = Path("/etc", kind).read_text()
            kept = [each for each in accounts.splitlines() if not each.startswith("glance:")]
            kept.append(line or f"glance:x:{UID}:")
            (self.directory / kind).write_text("\n".join(kept) + "\n")
        program = self.directory / "program" / "bin" / "glance-staging-watcher"
        program.write_text(PROGRAM)
        program.chmod(0o755)

    def _running(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.skip(f"systemd can't run here: {self.console()}")
        state = self.call("systemctl", "is-system-running").stdout.strip()
        return state in ("running", "degraded")

    def console(self) -> str:
        """What systemd said."""
        return (self.directory / "console").read_text()

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside systemd."""
        assert self._process is not None
        thread = self._process.pid
        children = Path(f"/proc/{thread}/task/{thread}/children").read_text().split()
        return subprocess.run(
            ["nsenter", "-t", children[0] if children else "0", "-m", "-p", "-C", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )

    def do(self, verb: str) -> None:
        """Have systemd do something with the unit."""
        done = self.call("systemctl", verb, NAME)
        assert done.returncode == 0, f"{done.stderr}\n{self.console()}"

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.call("systemctl", "show", "--value", "-p", name, NAME).stdout.strip()

    def close(self) -> None:
        """End it, and all that it started."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        wait_for(lambda: cgroups.removed(self._cgroup), TIMEOUT, "the end of systemd")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    place = cgroups.writable()
    if os.geteuid() != 0 or place is None:
        pytest.skip("only root can start a systemd of its own")
    for needed in ("/lib/systemd/systemd", PYTHON, shutil.which("unshare") or "/usr/bin/unshare"):
        if not os.path.exists(needed):
            pytest.skip(f"{needed} is not installed")
    version = subprocess.run([PYTHON, "-V"], capture_output=True, text=True, check=True).stdout
    if version.split()[1].split(".")[:2] != [str(part) for part in sys.version_info[:2]]:
        pytest.skip(f"{PYTHON} can't run the packages of this environment")
    with contextlib.ExitStack() as stack:
        made = Manager(tmp_path, place / f"glance-staging-watcher-{os.getpid()}")
        stack.callback(made.close)
        made.start()
        yield made


@pytest.fixture
def database(manager: Manager) -> Iterator[sqlite3.Connection]:
    path = manager.directory / "lib" / "glance.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE images (id VARCHAR(36) PRIMARY KEY, deleted BOOLEAN)")
        yield connection


def stage(manager: Manager, database: sqlite3.Connection, deleted: bool) -> Path:
    image = str(uuid.uuid4())
    database.execute("INSERT INTO images VALUES (?, ?)", (image, deleted))
    path = manager.staging / image
    path.touch()
    return path


def test_the_unit_as_systemd_runs_it(manager: Manager, database: sqlite3.Connection) -> None:
    live, swept = stage(manager, database, False), stage(manager, database, True)
    config = manager.directory / "program" / "glance-api.conf"
    config.write_text(
        "[DEFAULT]\nenabled_backends = a:file\n"
        "[os_glance_staging_store]\n"
        "filesystem_store_datadir = /var/lib/glance/os_glance_staging_store\n"
        "[database]\nconnection = sqlite:////var/lib/glance/glance.sqlite\n"
        "[staging_watcher]\nnotifications = false\n"
        "audit_log = /var/log/glance/audit.json\n"
    )
    for name in ("lib", "log"):
        for path in (manager.directory / name, *(manager.directory / name).rglob("*")):
            os.chown(path, UID, UID)

    manager.do("start")
    assert not swept.exists(), "removed before systemd counts it as started"
    wait_for(lambda: "1 cleaned, 1 ignored" in manager.show("StatusText"), TIMEOUT, "its status")
    status = manager.call("cat", f"/proc/{manager.show('MainPID')}/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert fields["Uid"].split() == [str(UID)] * 4
    assert {fields[kind] for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")

    seen = stage(manager, database, True)
    wait_for(lambda: not seen.exists(), TIMEOUT, "the removal")
    assert len((manager.directory / "log" / "audit.json").read_text().splitlines()) == 2

    config.write_text(config.read_text() + "sweep_interval = 7200\n")
    manager.do("reload")
    line = "Configuration reloaded, changed: [staging_watcher] sweep_interval"
    wait_for(lambda: line in manager.log.read_text(), TIMEOUT, "the reload")
    wait_for(lambda: manager.show("ActiveState") == "active", TIMEOUT, "its end")

    assert manager.show("NRestarts") == "0"
    manager.call("kill", f"-{signal.SIGSTOP.value}", manager.show("MainPID"))
    wait_for(lambda: manager.show("NRestarts") == "1", TIMEOUT, "the watchdog's restart")
    again = stage(manager, database, True)
    wait_for(lambda: not again.exists(), TIMEOUT, "the removal")

    manager.do("stop")
    assert (manager.show("Result"), manager.show("ExecMainStatus")) == ("success", "0")
    assert live.exists() and "ERROR" not in manager.log.read_text()
