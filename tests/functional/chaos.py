# SPDX-License-Identifier: Apache-2.0
"""Faults that a test causes and ends, and a Glance that works on meanwhile."""

import contextlib
import errno
import json
import os
import queue
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.program import Program
from tests.services import Images, MariaDB, RabbitMQ, TcpProxy, wait_for

FAULT_TIMEOUT = 120.0  # seconds until it is noticed, or until it is over
LIVE_IMAGES = 200  # more are deleted again
USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
SPACE = "32m"  # of the file system with the audit log

#: by component the lines with which its condition begins and ends
LINES = {
    "notifications": (
        "Notification listener disconnected",
        "Notification listener connected again",
    ),
    "database": ("Database unavailable; removals suspended", "Database available"),
    "directory": ("Cannot read the staging directory", "Staging directory readable again"),
    "removals": ("Removals fail: ", "Removals succeed again"),
    "file_events": (
        "Cannot watch the staging directory",
        "Watching the staging directory again",
    ),
    "audit": ("not writable; removals continue", "audit.json writable again"),
    "cleaner": ("Reconciler failed", "Reconciler works again"),
    "closer": ("Descriptors of removed files are not closed", "Descriptors of removed files are"),
    "witness": ("Files without a database row are kept", "Found an image of this Glance"),
}


def place_of_audit(host: Host) -> Path:
    """Where a file system of its own is mounted for the audit log."""
    return host.directory / "audit"


def command(host: Host) -> list[str]:
    """What makes a program start in a private name space for mounts, with its audit log on a file
    system of its own, and with limits that hold: those of the number of threads don't for root."""
    script = f'mount -t tmpfs -o size={SPACE} tmpfs "{place_of_audit(host)}" && exec "$@"'
    if os.geteuid():
        return [*_unshare("--user", "--map-root-user"), "sh", "-c", script, "sh"]
    capable = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--"]
    return [*_unshare(), "sh", "-c", script, "sh", *USER, *capable]


def _unshare(*more: str) -> list[str]:
    return ["unshare", *more, "--mount", "--propagation", "private", "--"]


class Inside:
    """The private name space of a program."""

    def __init__(self, program: Program) -> None:
        self.pid = program.process.pid

    def run(self, *arguments: str | Path) -> None:
        """Run a command there."""
        user = ["--user", "--preserve-credentials"] if os.geteuid() else []
        enter = ["nsenter", f"--target={self.pid}", *user, "--mount", "--"]
        subprocess.run([*enter, *arguments], check=True, capture_output=True)

    def path(self, path: Path) -> Path:
        """What that path is there, for use from outside."""
        return Path(f"/proc/{self.pid}/root{path}")

    @contextlib.contextmanager
    def limit(self, name: str, soft: int) -> Iterator[None]:
        """Set a soft limit of the program for a while, as its own user may."""
        show = ["prlimit", f"--pid={self.pid}", f"--{name}", "--output=SOFT", "--noheadings"]
        before = self._as_user(*show)
        self._as_user("prlimit", f"--pid={self.pid}", f"--{name}={soft}:")
        try:
            yield
        finally:
            self._as_user("prlimit", f"--pid={self.pid}", f"--{name}={before}:")

    def _as_user(self, *arguments: str) -> str:
        user = [] if os.geteuid() else USER
        done = subprocess.run([*user, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    :param component: whose condition begins and ends
    :param cause: makes it, and ends it when the block ends
    :param more: components that may fail by it as well
    """

    component: str
    cause: Callable[[], contextlib.AbstractContextManager[None]]
    more: tuple[str, ...] = ()


@dataclass
class World:
    """Everything that can fail."""

    host: Host
    program: Program
    broker: RabbitMQ
    to_broker: TcpProxy
    database: MariaDB
    to_database: TcpProxy
    database_url: str

    def faults(self) -> Mapping[str, Fault]:
        """All kinds, by name."""
        return {
            "broker stopped": Fault("notifications", lambda: _down(self.broker)),
            "broker killed": Fault("notifications", lambda: _down(self.broker, kill=True)),
            "broker unreachable": Fault("notifications", lambda: _partition(self.to_broker)),
            "database killed": Fault("database", lambda: _down(self.database, kill=True)),
            "database unreachable": Fault("database", lambda: _partition(self.to_database)),
            "table locked": Fault("database", self._locked),
            "read-only": Fault("removals", self._read_only),
            "something else in its place": Fault("directory", self._file_in_place),
            "no descriptors": Fault("directory", self._no_descriptors),
            "no threads": Fault("file_events", self._no_threads),
            "audit disk full": Fault("audit", self._full),
        }

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        engine = sa.create_engine(self.database_url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql("LOCK TABLES images WRITE")
            yield

    @contextlib.contextmanager
    def _read_only(self) -> Iterator[None]:
        inside, staging = Inside(self.program), self.host.staging
        inside.run("mount", "--bind", staging, staging)
        inside.run("mount", "-o", "remount,bind,ro", staging)
        try:
            yield
        finally:
            inside.run("umount", "--lazy", staging)

    @contextlib.contextmanager
    def _file_in_place(self) -> Iterator[None]:
        aside = self.host.staging.rename(self.host.directory / "aside")
        self.host.staging.touch()
        try:
            yield
        finally:
            self.host.staging.unlink()
            aside.rename(self.host.staging)

    @contextlib.contextmanager
    def _no_descriptors(self) -> Iterator[None]:
        with Inside(self.program).limit("nofile", 8):
            yield

    @contextlib.contextmanager
    def _no_threads(self) -> Iterator[None]:
        """The directory is another one then, whose watch needs threads."""
        staging = self.host.staging
        with Inside(self.program).limit("nproc", 1):
            before = staging.rename(self.host.directory / "before")
            staging.mkdir()
            for path in before.iterdir():
                path.rename(staging / path.name)
            before.rmdir()
            yield

    @contextlib.contextmanager
    def _full(self) -> Iterator[None]:
        filler = Inside(self.program).path(place_of_audit(self.host)) / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)
        try:
            yield
        finally:
            filler.unlink()


@contextlib.contextmanager
def _down(server: RabbitMQ | MariaDB, *, kill: bool = False) -> Iterator[None]:
    if kill and isinstance(server, RabbitMQ):
        server.sync()
    server.kill() if kill else server.stop()
    try:
        yield
    finally:
        server.start()


@contextlib.contextmanager
def _partition(proxy: TcpProxy) -> Iterator[None]:
    proxy.refuse()
    proxy.reset()
    try:
        yield
    finally:
        proxy.accept()


@dataclass
class Glance:
    """Stages, deletes and notifies at random until it is stopped; a fault makes it wait.

    :param seed: of all that is random
    """

    host: Host
    images: Images
    transport_url: str
    seed: int
    #: live images' files, with their bytes
    live: dict[str, bytes] = field(default_factory=dict)
    figures: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._stop = threading.Event()
        self._outbox: queue.Queue[str | None] = queue.Queue()
        self._notifier = GlanceNotifier(self.transport_url)
        self._threads = [threading.Thread(target=each) for each in (self._work, self._send)]
        self._prepared = self.host.directory / "prepared"
        self._prepared.mkdir()

    def start(self) -> None:
        """Start working."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the current work, and send what waits."""
        self._stop.set()
        self._threads[0].join(FAULT_TIMEOUT)
        self._outbox.put(None)
        self._threads[1].join(FAULT_TIMEOUT)
        assert not any(thread.is_alive() for thread in self._threads)
        self._notifier.close()

    def _work(self) -> None:
        works = [self._stage, self._stage, self._delete, self._delete, self._come_late, self._burst]
        weights = [20, 20, 20, 15, 24, 1]
        while not self._stop.wait(self._random.uniform(0, 0.08)):
            (work,) = self._random.choices(works, weights)
            work()

    def _stage(self) -> None:
        image, data = new_id(), self._random.randbytes(64)
        self._insist(lambda: self.images.insert(image))
        name = image + self._random.choice(["", ".uc", ".qcow2"])
        self._write(name, data)
        self.live[name] = data
        self.figures["staged"] += 1
        if len(self.live) > LIVE_IMAGES:
            self._delete()

    def _delete(self) -> None:
        if self.live:
            name = self._random.choice(list(self.live))
            del self.live[name]
            image = name.partition(".")[0]
            self._insist(lambda: self.images.delete(image))
            self._outbox.put(image)
            self.figures["deleted"] += 1

    def _come_late(self) -> None:
        """A file of an image that was deleted before it."""
        image = new_id()
        self._insist(lambda: self.images.insert(image, deleted=True, status="deleted"))
        self._write(image, b"late")
        self.figures["late"] += 1

    def _burst(self) -> None:
        for _ in range(20):
            self._come_late()

    def _write(self, name: str, data: bytes) -> None:
        prepared = self._prepared / name
        prepared.write_bytes(data)
        self._insist(lambda: prepared.rename(self.host.staging / name))

    def _insist(self, action: Callable[[], object]) -> None:
        deadline = time.monotonic() + FAULT_TIMEOUT
        while True:
            try:
                action()
            except sa.exc.IntegrityError:  # committed when the connection was lost
                return
            except (sa.exc.DBAPIError, OSError):
                self.figures["tries that failed"] += 1
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def _send(self) -> None:
        while (image := self._outbox.get()) is not None:
            self._notifier.deleted(image)
            self.figures["notified"] += 1


def latencies(audit: Path, quiet: Callable[[float], bool]) -> list[float]:
    """Seconds from event to removal, of removals at moments that are quiet, the shortest first."""
    found = []
    for line in audit.read_text().splitlines():
        with contextlib.suppress(ValueError):  # cut short by a full disk
            record = json.loads(line)
            if record["latency"] is not None and record["trigger"] != "recheck":
                ended = datetime.fromisoformat(record["time"]).timestamp()
                if quiet(ended) and quiet(ended - record["latency"]):
                    found.append(float(record["latency"]))
    return sorted(found)


def recorded(audit: Path) -> set[str]:
    """Paths of all removals in an audit log."""
    found = set()
    for line in audit.read_text().splitlines():
        with contextlib.suppress(ValueError):
            found.add(str(json.loads(line)["file"]))
    return found


def threads(pid: int) -> int:
    """Number of a process's threads."""
    return len(os.listdir(f"/proc/{pid}/task"))


def missing() -> str | None:
    """Why the name spaces that this needs can't be made; None when they can."""
    probe = _unshare() if os.geteuid() == 0 else _unshare("--user", "--map-root-user")
    done = subprocess.run(
        [*probe, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
    )
    return os.strerror(errno.EPERM) if done.returncode else None


def wait_lines(program: Program, text: str, count: int) -> None:
    """Wait until the log has that many lines with a text."""
    wait_for(
        lambda: len(program.lines(text)) >= count,
        FAULT_TIMEOUT,
        f"line {count} with {text!r} in\n{program.log[-3000:]}",
    )
