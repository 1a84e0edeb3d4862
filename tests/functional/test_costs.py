# SPDX-License-Identifier: Apache-2.0
"""What the program costs: counts, which a slow or busy machine doesn't change, never times.

System calls are counted by strace, statements by the database, wake-ups by the kernel, bytes by
Python's own count of its objects and by the kernel's of the process.
"""

import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import name_of, on
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.program import PROGRAM, Program
from tests.services import Database, MariaDB, wait_for
from tests.services.ports import free_port
from tests.services.requirements import unavailable

pytestmark = pytest.mark.usefixtures("executed")

SQLITE = on("sqlite")
SERVERS = on("mariadb", "postgresql")

CONNECTING = 20  # statements of SQLAlchemy and the driver for a new connection
IDLE_WAKE_UPS = 120  # a minute; oslo.messaging and watchdog look once a second
MODULES = 750
PRIVATE_BYTES = 300  # for each file of a sweep, afterwards
PIECES = 100  # of 1 MiB, of each of two imports

LISTENING = "Listening for notifications"
INVALID = "without a valid image id"

# Those who may find them in their environment would pay for them at each start.
UNWANTED = {
    *("alembic", "glance", "glance_store", "hypothesis", "mypy"),
    *("oslo_db", "pytest", "_pytest", "sqlalchemy.orm", "tests"),
    # of metrics, which are off
    *(
        "http.server",
        "prometheus_client",
        "wsgiref",
        "watcher.telemetry.metrics",
        "watcher.telemetry.http",
    ),
    "confluent_kafka",  # of another bus
    "dns",  # of eventlet
}

# Python imports it at its start; then it waits without a wake-up, for who opens the FIFO.
PROBE = """
import _tracemalloc, gc, os, sys, threading

def answer():
    place = os.path.dirname(os.path.abspath(__file__))
    while True:
        with open(place + "/ask") as asked:
            asked.read()
        modules = sorted(name for name, module in sys.modules.items() if module is not None)
        gc.collect()
        with open(place + "/reported.new", "w") as reported:
            print(_tracemalloc.get_traced_memory()[0], *modules, file=reported)
        os.rename(place + "/reported.new", place + "/reported")

threading.Thread(target=answer, daemon=True).start()
"""


def quiet(host: Host) -> Host:
    """The host, with Glance's usual log level."""
    host.config_file.write_text(host.config_file.read_text().replace("debug = true\n", ""))
    return host


# System calls


@pytest.fixture(scope="module")
def strace() -> str:
    """The program strace, where it is installed and may trace."""
    found = shutil.which("strace", path="/usr/sbin:/usr/bin")
    if found is None:
        unavailable("strace is not installed")
    tried = subprocess.run(
        [found, "-o", os.devnull, "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        unavailable(f"strace may not trace here: {' '.join(tried.stderr.split())}")
    return found


class Trace:
    """The system calls of a process and all its threads, one line each, as strace writes them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, text: str = "") -> list[str]:
        """Finished calls with that text, their two halves joined."""
        begun: dict[str, str] = {}
        found = []
        for line in self.path.read_text(errors="replace").splitlines():
            thread, _, call = line.partition(" ")
            call = call.strip()
            if call.endswith("<unfinished ...>"):
                begun[thread] = call.removesuffix("<unfinished ...>")
                continue
            if resumed := re.match(r"<\.\.\. \w+ resumed>", call):
                call = begun.pop(thread, "") + call[resumed.end() :]
            if text in call:
                found.append(call)
        return found

    def count(self, text: str = "") -> Counter[str]:
        """How often each system call was called, with that text in it."""
        matches = (re.match(r"(\w+)\(", line) for line in self.lines(text))
        return Counter(match[1] for match in matches if match)


@contextmanager
def traced(strace: str, program: Program, path: Path, calls: str) -> Iterator[Trace]:
    """Trace some system calls of a running program for a while."""
    reported = path.with_suffix(".reported")
    with reported.open("wb") as output:
        tracer = subprocess.Popen(
            [
                strace,
                "-f",
                "-y",
                "-e",
                f"trace={calls}",
                "-o",
                path,
                "-p",
                str(program.process.pid),
            ],
            stdin=subprocess.DEVNULL,
            stderr=output,
        )
    try:
        wait_for(
            lambda: " attached" in reported.read_text() or tracer.poll() is not None, 30, "strace"
        )
        assert tracer.poll() is None, reported.read_text()
        yield Trace(path)
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(30)


def calls_of_a_sweep(strace: str, host: Host, cleaned: int, ignored: int) -> Counter[str]:
    path = host.directory / "trace"
    command: list[str | Path] = [strace, "-f", "-o", path, PROGRAM, "sweep"]
    done = subprocess.run(
        [*command, "--config-file", host.config_file], capture_output=True, text=True, check=True
    )
    said = f"Cleaned {cleaned} stale staging files, {ignored} ignored (0 errors)"
    assert said in done.stdout, done.stderr
    return Trace(path).count()


@SQLITE
@pytest.mark.parametrize("deleted", [True, False])
def test_system_calls_of_a_sweep(strace: str, host: Host, deleted: bool) -> None:
    """A look at each file before its row is read; for a removal another one, whether it is still
    the same, one at the directory, whether it is in its place, unlink, and one line of the log.

    Sweeps of different size are compared, so that start and end drop out.
    """
    count, runs = 200, []
    quiet(host)
    for files in (count, 2 * count):
        for path in host.staging.iterdir():
            path.unlink()
        host.stage_many(files, deleted=deleted)
        cleaned, ignored = (files, 0) if deleted else (0, files)
        runs.append(calls_of_a_sweep(strace, host, cleaned, ignored))
    grown = Counter(runs[1])
    grown.subtract(runs[0])
    looks = sum(grown[name] for name in ("stat", "lstat", "newfstatat", "statx"))
    unlinks = grown["unlink"] + grown["unlinkat"]
    assert unlinks == (count if deleted else 0), grown
    expected = (3 if deleted else 1) * count
    assert abs(looks - expected) <= count // 5, grown
    lines = grown["write"] + grown["getpid"]
    assert lines <= (2 * count if deleted else 0), grown
    # All else: the listing, pages of the database, memory.
    assert sum(grown.values()) - looks - unlinks - lines <= count // 4, grown


@SQLITE
def test_file_look_ups_for_a_notification_do_not_grow_with_the_directory(
    strace: str, bus_host: Host, notifier: GlanceNotifier
) -> None:
    residue = bus_host.stage_many(10_000, suffix=".uc")[0]
    program = start_listening(bus_host, notifier)
    image = residue.stem
    path = bus_host.directory / "trace"
    notified = 100
    with traced(strace, program, path, "%file,getdents,getdents64") as trace:
        for _ in range(notified):
            notifier.deleted(new_id())
        bus_host.images.delete(image)
        notifier.deleted(image)
        bus_host.wait_gone(residue)
    calls = trace.count(str(bus_host.staging))
    assert calls["unlinkat"] + calls["unlink"] == 1, calls
    assert not calls["getdents"] + calls["getdents64"], "the directory was listed"
    # One look for the file, two calls to hold the directory when it comes alone.
    assert sum(calls.values()) <= 3 * notified + 20, calls


# Statements


class Statements:
    """Statements that the program sends to the database, as the server logs them."""

    def __init__(self, server: Database, name: str) -> None:
        self._server = server
        if isinstance(server, MariaDB):
            server.execute("SET GLOBAL log_output = 'TABLE'")
            server.execute("TRUNCATE mysql.general_log")
            server.execute("SET GLOBAL general_log = 1")
        else:
            self._log = server.directory / "log"
            self._start = self._log.stat().st_size
            server.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")

    def close(self) -> None:
        """Log no more."""
        if isinstance(self._server, MariaDB):
            self._server.execute("SET GLOBAL general_log = 0")

    def all(self) -> list[str]:
        """All statements so far of the sessions that asked for images."""
        logged = list(self._logged())
        ours = {session for session, text in logged if self.is_read(text)}
        return [text for session, text in logged if session in ours]

    def reads(self) -> int:
        """How many of them asked for images."""
        return sum(map(self.is_read, self.all()))

    @staticmethod
    def is_read(text: str) -> bool:
        """Whether a statement is the program's and reads images; the test's own never do."""
        return re.search(r"SELECT (/\*\+.*?\*/ )?images\.", text) is not None

    def _logged(self) -> Iterator[tuple[str, str]]:
        if isinstance(self._server, MariaDB):
            yield from self._server.execute(
                "SELECT thread_id, CONVERT(argument USING utf8mb4) FROM mysql.general_log"
                " WHERE command_type IN ('Query', 'Execute') ORDER BY event_time"
            )
        else:
            with self._log.open(errors="replace") as log:
                log.seek(self._start)
                for line in log:
                    if found := re.search(
                        r" \[(\d+)\] LOG:  (?:statement|execute [^:]+): (.*)", line
                    ):
                        yield found[1], found[2]


@pytest.fixture
def statements(database_server: Database, database_url: str) -> Iterator[Statements]:
    """The statements sent to the database at ``database_url``, of a server."""
    made = Statements(database_server, name_of(database_url))
    yield made
    made.close()


@contextmanager
def locked(database_url: str) -> Iterator[None]:
    """Whoever asks for images waits."""
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE images IN ACCESS EXCLUSIVE MODE")
        else:
            connection.exec_driver_sql("LOCK TABLES images WRITE")
        yield
        if engine.dialect.name != "postgresql":
            connection.exec_driver_sql("UNLOCK TABLES")
    engine.dispose()


def start_listening(host: Host, notifier: GlanceNotifier) -> Program:
    """Start the service; it has swept after it began to listen, and nothing waits any more."""
    warming = host.stage_many(10)
    program = host.start()
    program.wait_for_line(LISTENING)
    for path in warming:
        host.images.delete(path.name)
        notifier.deleted(path.name)
        host.wait_gone(path)

    def swept() -> bool:
        log = program.log
        return log.count(" Found ") == log.count(" Cleaned ")

    wait_for(swept, 60, "the end of the sweep")
    return program


@SERVERS
def test_statements_of_a_sweep(host: Host, statements: Statements) -> None:
    """One for up to 1000 files, and one to see that the table is there."""
    host.stage_many(2400, deleted=True)
    host.stage_many(90)
    host.stage_many(10, suffix=".uc")
    assert host.sweep()[0] == 0
    reads = statements.reads()
    assert 0 < reads <= 25, "each step has a bounded time, so a slow machine takes more of them"
    sent = statements.all()
    assert len(sent) - reads <= CONNECTING, sent


@SERVERS
def test_statements_for_notifications(
    bus_host: Host, notifier: GlanceNotifier, statements: Statements, database_url: str
) -> None:
    staged = bus_host.stage_many(501)
    program = start_listening(bus_host, notifier)
    bus_host.images.delete(*(path.name for path in staged))

    before, sent = statements.reads(), len(statements.all())
    for _ in range(200):
        notifier.deleted(new_id())
    alone = staged.pop()
    notifier.deleted(alone.name)
    bus_host.wait_gone(alone)
    assert statements.reads() - before == 1, "of an image with a file, and none without"
    assert len(statements.all()) - sent == 1, statements.all()[sent:]

    before = statements.reads()
    program.process.send_signal(signal.SIGSTOP)
    for path in staged:
        notifier.deleted(path.name)
    notifier.send("image.delete", {"id": "the last one"})
    with locked(database_url):
        program.process.send_signal(signal.SIGCONT)
        program.wait_for_line(INVALID)
    bus_host.wait_gone(*staged)
    assert statements.reads() - before <= 10, "of 500 that wait together"


# Wake-ups


def wake_ups(program: Program) -> int:
    """How often threads that live now have slept and were woken."""
    total = 0
    for task in Path(f"/proc/{program.process.pid}/task").iterdir():
        status = (task / "status").read_text()
        total += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return total


@pytest.mark.large
@on("mariadb")
def test_wake_ups_while_idle(bus_host: Host, notifier: GlanceNotifier) -> None:
    """With broker and database connected, and all threads there, those for metrics too.

    What counts are the quietest seconds, since the last message and a noisy machine echo.
    """
    port = free_port()
    with bus_host.config_file.open("a") as file:
        file.write(f"[staging_watcher]\nmetrics_port = {port}\n")
    program = start_listening(bus_host, notifier)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.read()
    samples = []
    for _ in range(20):
        samples.append((time.monotonic(), wake_ups(program)))
        time.sleep(1)
    rates = [
        (later[1] - sooner[1]) / (later[0] - sooner[0]) * 60
        for sooner, later in zip(samples, samples[10:], strict=False)
    ]
    assert min(rates) <= IDLE_WAKE_UPS, rates


def import_two(host: Host, images: list[str]) -> None:
    """Write two images at once; in turn, since the kernel merges equal events of one file."""
    piece = os.urandom(1 << 20)
    with (
        (host.staging / images[0]).open("wb", buffering=0) as one,
        (host.staging / images[1]).open("wb", buffering=0) as other,
    ):
        for _ in range(PIECES):
            one.write(piece)
            other.write(piece)
    host.wait_gone(host.stage_deleted())  # earlier events have been handled


@pytest.mark.large
@SQLITE
def test_a_live_import_wakes_nobody(strace: str, host: Host) -> None:
    program = host.start()
    images = [new_id() for _ in range(4)]
    host.images.insert(*images)
    before, begun = wake_ups(program), time.monotonic()
    import_two(host, images[:2])
    assert wake_ups(program) - before <= 60 + (time.monotonic() - begun), "for 200 pieces"

    calls = "open,openat,openat2,read,readv,pread64,preadv,mmap,copy_file_range,sendfile"
    with traced(strace, program, host.directory / "trace", calls) as trace:
        import_two(host, images[2:])
    reported = [line for line in trace.lines("inotify") if line.startswith("read(")]
    size = sum(int(line.rpartition("= ")[2]) for line in reported)
    assert 0 < size <= 16 * (16 + 48), (
        "three files are created and closed, nothing else is reported"
    )
    for image in images[2:]:
        assert not trace.lines(image), "a file of an import was opened"


# Modules and memory


@pytest.fixture
def ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Program], tuple[int, set[str]]]:
    """Asks a running program for the bytes of its objects, when traced, and its modules."""
    place = tmp_path / "probe"
    place.mkdir()
    (place / "sitecustomize.py").write_text(PROBE)
    for name in ("glance", "oslo_db"):  # there to be imported, by whoever tries
        (place / f"{name}.py").touch()
    os.mkfifo(place / "ask")
    path = os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)

    def asked(program: Program) -> tuple[int, set[str]]:
        reported = place / "reported"
        reported.unlink(missing_ok=True)

        def opened() -> int | None:
            assert program.process.poll() is None, program.log
            try:
                return os.open(place / "ask", os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads yet
                return None

        os.close(wait_for(opened, 30, "the probe"))  # type: ignore[arg-type]
        wait_for(reported.exists, 30, "the probe's answer")
        held, *modules = reported.read_text().split()
        return int(held), set(modules)

    return asked


@SQLITE
def test_modules(
    ask: Callable[[Program], tuple[int, set[str]]], bus_host: Host, notifier: GlanceNotifier
) -> None:
    """Glance and tools for tests aren't imported, though they can be."""
    program = start_listening(bus_host, notifier)
    modules = ask(program)[1]
    assert {"watcher.triggers.listener", "oslo_messaging", "sqlalchemy"} <= modules
    assert not modules & UNWANTED
    assert len(modules) <= MODULES


@SQLITE
@pytest.mark.parametrize(("suffix", "limit"), [("", 10), (".uc", 600)])
def test_bytes_held_for_a_staged_file(
    ask: Callable[[Program], tuple[int, set[str]]],
    monkeypatch: pytest.MonkeyPatch,
    host: Host,
    suffix: str,
    limit: int,
) -> None:
    """Bytes of Python's objects after a sweep; a file of the name ``<id>`` costs nothing."""
    monkeypatch.setenv("PYTHONTRACEMALLOC", "1")
    held = []
    quiet(host)
    for files in (1000, 4000):
        host.stage_many(files, suffix=suffix)
        program = host.start()
        held.append(ask(program)[0])
        program.stop()
    assert held[0] > 0 and (held[1] - held[0]) / 4000 <= limit, held


@SQLITE
def test_private_memory_for_a_staged_file(host: Host) -> None:
    """Bytes of the process after a sweep, which a large list would leave behind."""
    quiet(host)
    held = []
    for files in (10_000, 50_000):
        host.stage_many(files)
        program = host.start()
        with Path(f"/proc/{program.process.pid}/smaps_rollup").open() as file:
            kilobytes = (int(line.split()[1]) for line in file if line.startswith("Private_"))
            held.append(sum(kilobytes) << 10)
        program.stop()
    assert (held[1] - held[0]) / 50_000 <= PRIVATE_BYTES, held
