# SPDX-License-Identifier: Apache-2.0
"""Faults of the database, real ones: nothing is removed on a doubt, and what an operator sees."""

import importlib.util
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import name_of, running
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.program import SECRET, Program, problems
from tests.services import Database, Images, MariaDB, PostgreSQL, unique_name, wait_for

BEGAN = "ERROR Database unavailable; removals suspended: "
ENDED = "INFO Database available; removals continue"
FAULT_TIMEOUT = 90.0  # seconds
STEP = 1000  # files of a sweep that are looked up together

TABLE_LOCKS = {
    "mysql": "LOCK TABLES images WRITE",
    "postgresql": "LOCK TABLE images IN ACCESS EXCLUSIVE MODE",
    "sqlite": "BEGIN EXCLUSIVE",
}


class SQLite:
    """A database in a file, with as much of a server as a file has."""

    def __init__(self, directory: Path) -> None:
        self._path, self._aside = directory, directory / "aside"

    def url(self, database: str) -> str:
        return f"sqlite:///{self._aside.with_name(database)}"

    def create_database(self, name: str) -> None:
        self._path = self._aside.with_name(name)
        self._path.touch()

    def stop(self) -> None:
        self._path.rename(self._aside)

    def start(self) -> None:
        if self._aside.exists():
            self._aside.rename(self._path)


@pytest.fixture(scope="module")
def own_mariadb() -> Iterator[MariaDB]:
    """A server that may be killed, unlike the one of all tests."""
    yield from running(MariaDB)


@pytest.fixture(scope="module")
def own_postgresql() -> Iterator[PostgreSQL]:
    """A server that may be killed, unlike the one of all tests."""
    yield from running(PostgreSQL)


@pytest.fixture
def own_sqlite(tmp_path: Path) -> SQLite:
    return SQLite(tmp_path)


ALL = pytest.mark.parametrize(
    "server", ["own_sqlite", "own_mariadb", "own_postgresql"], indirect=True
)
# Where the kind of database makes no difference.
ONE = pytest.mark.parametrize("server", ["own_postgresql"], indirect=True)
MARIADB = pytest.mark.parametrize("server", ["own_mariadb"], indirect=True)


@pytest.fixture(params=["own_mariadb", "own_postgresql"])
def server(request: pytest.FixtureRequest) -> Iterator[Database | SQLite]:
    """Each of the servers in turn, of `ALL` the file too; running again after the test."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Database | SQLite)
    yield server
    if isinstance(server, Database):
        server.resume()
    server.start()


@pytest.fixture
def database_url(server: Database | SQLite) -> str:
    """The URL of an empty database of the server."""
    name = unique_name("faulty")
    server.create_database(name)
    return server.url(name)


def reported(program: Program) -> list[str]:
    """All that an operator sees of a run, in the order of time."""
    found = re.findall(
        r"^\S+ \S+ \d+ (INFO|WARNING|ERROR|CRITICAL) \S+ \[.*?\] (.*)$", program.log, re.MULTILINE
    )
    lines = [f"{level} {text}" for level, text in found]
    good = ("INFO Starting ", "INFO Watching ", "INFO Stopping ", "INFO Removed ", "INFO Sweep ")
    return [line for line in lines if not line.startswith(good)]


def check_reported(program: Program, *expected: str) -> None:
    """Just these lines; of those that begin a fault, the cause by any part of it."""
    # A server that recovers may be asked while it does; a cause of its own.
    lines = [line for line in reported(program) if "the database system is " not in line]
    assert len(lines) == len(expected), program.log
    for line, text in zip(lines, expected, strict=True):
        assert (line == text) if text == ENDED else (line.startswith(BEGAN) and text in line), line


def check_sweep_refuses(host: Host, cause: str, residue: Path) -> None:
    """The one-shot command ends with one line, and removes nothing."""
    code, said = host.sweep()
    lines = [line for line in problems(said).splitlines() if " DEBUG " not in line]
    assert (code, len(lines)) == (2, 1), said
    assert lines[0].startswith("glance-staging-watcher: ") and cause in lines[0]
    assert residue.exists()


def check_backoff(program: Program, tries: int) -> None:
    """Wait for some tries; each comes later than the one before, the first ones soon."""
    program.wait_for_line("Next try in", FAULT_TIMEOUT, count=tries)
    delays = [float(found) for found in re.findall(r"Next try in (\S+) s", program.log)]
    for number, delay in enumerate(delays):
        longest = min(2**number, 60)
        assert longest / 2 <= delay + 0.01 and delay - 0.01 <= longest, delays


def wait_ended(program: Program) -> None:
    program.wait_for_line(ENDED.partition(" ")[2], FAULT_TIMEOUT)


def residue_to_come(host: Host) -> Callable[[], Path]:
    """A deleted image, whose file is staged later, when the database can't be asked."""
    image = new_id()
    host.images.insert(image, deleted=True)
    return lambda: host.stage(image)


@contextmanager
def session(url: str) -> Iterator[sa.Connection]:
    """Somebody else's session, which commits only when asked to."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection
        connection.rollback()
        if engine.dialect.name == "mysql":
            connection.exec_driver_sql("UNLOCK TABLES")


DOWN = {SQLite: "unable to open database file", MariaDB: "refused", PostgreSQL: "refused"}


@ALL
def test_down_at_start(host: Host, server: Database | SQLite) -> None:
    residue = host.stage_deleted()
    host.stage_live()
    host.images.close()
    server.stop()
    program = host.start()  # it says that it is ready: systemd must not give up on it
    check_backoff(program, 3)
    check_sweep_refuses(host, DOWN[type(server)], residue)
    check_reported(program, DOWN[type(server)])
    server.start()
    wait_ended(program)
    assert not residue.exists()
    check_reported(program, DOWN[type(server)], ENDED)


def test_killed_and_restarted(host: Host, server: Database) -> None:
    first, second = residue_to_come(host), residue_to_come(host)
    host.stage_live()
    program = host.start()
    host.images.close()
    server.kill()
    paths = [first()]
    program.wait_for_line(BEGAN.partition(" ")[2], FAULT_TIMEOUT)
    paths.append(second())  # the event finds the fault known
    check_backoff(program, 3)
    check_sweep_refuses(host, "refused", paths[0])
    server.start()
    wait_ended(program)
    assert not any(path.exists() for path in paths)
    check_reported(program, "refused", ENDED)


def test_killed_in_the_middle_of_a_sweep(host: Host, server: Database) -> None:
    ids = [new_id() for _ in range(3 * STEP)]
    host.images.insert(*ids, deleted=True)
    for image in ids:
        host.stage(image, b"")
    host.stage_live()
    host.images.close()
    program = host.start(ready=False)
    program.wait_for_line("Stale staging residue")
    program.process.send_signal(signal.SIGSTOP)
    server.kill()
    there = len(os.listdir(host.staging)) - 1
    program.process.send_signal(signal.SIGCONT)
    program.wait_for_line(BEGAN.partition(" ")[2], FAULT_TIMEOUT)
    left = len(os.listdir(host.staging)) - 1
    assert left and there - left <= STEP, "only what was looked up before"
    check_backoff(program, 3)
    assert len(os.listdir(host.staging)) - 1 == left
    check_sweep_refuses(host, "refused", host.staging)
    server.start()
    wait_ended(program)
    assert len(os.listdir(host.staging)) == 1
    check_reported(program, "refused", ENDED)


def test_hung_server(host: Host, server: Database, database_url: str) -> None:
    # PostgreSQL's driver has no time limit for answers that could be made shorter here.
    limit = "read_timeout=1" if isinstance(server, MariaDB) else "connect_timeout=2"
    host.configure(database_url=f"{database_url}?{limit}")
    later = residue_to_come(host)
    host.stage_live()
    program = host.start()
    server.pause()
    residue = later()
    program.wait_for_line(BEGAN.partition(" ")[2], FAULT_TIMEOUT)
    check_sweep_refuses(host, "time", residue)
    check_backoff(program, 2)
    server.resume()
    wait_ended(program)
    assert not residue.exists()
    # A query without an answer, then perhaps a connection without one.
    *began, ended = reported(program)
    assert ended == ENDED and len(began) in (1, 2), program.log
    assert all(line.startswith(BEGAN) and "time" in line for line in began), began


def test_it_stops_while_a_query_hangs(host: Host, server: Database) -> None:
    later = residue_to_come(host)
    host.stage_live()
    program = host.start()
    server.pause()
    residue = later()
    program.wait_for_line("Found 1 files", count=2)
    assert program.stop() == 0
    assert residue.exists()
    check_reported(program)


@MARIADB
def test_it_stops_while_a_connection_hangs(host: Host, server: Database) -> None:
    residue = host.stage_deleted()
    host.stage_live()
    host.images.close()
    server.pause()
    program = host.start(ready=False)
    program.wait_for_line("Watching staging directory")
    assert program.stop() == 0
    assert residue.exists()
    check_reported(program)


LOCKED = {
    "mysql": "max_statement_time exceeded",
    "postgresql": "canceling statement due to statement timeout",
}


@ALL
def test_locked_table(host: Host, server: Database | SQLite, database_url: str) -> None:
    if isinstance(server, SQLite):
        host.configure(database_url=f"{database_url}?timeout=1")
    later = residue_to_come(host)
    host.stage_live()
    program = host.start()
    host.images.close()
    backend = sa.make_url(database_url).get_backend_name()
    cause = LOCKED.get(backend, "database is locked")
    with session(database_url) as other:
        other.exec_driver_sql(TABLE_LOCKS[backend])
        residue = later()
        program.wait_for_line(BEGAN.partition(" ")[2], FAULT_TIMEOUT)
        check_backoff(program, 2)
        if isinstance(server, Database):
            # The watcher's, and this test's: tries that gave up don't wait on in the server.
            assert len(server.sessions(name_of(database_url))) <= 2
        check_sweep_refuses(host, cause, residue)
    wait_ended(program)
    assert not residue.exists()
    check_reported(program, cause, ENDED)


def test_locked_rows_hold_nobody_up(host: Host, database_url: str) -> None:
    live = host.stage_live()
    later = residue_to_come(host)
    program = host.start()
    with session(database_url) as other:
        other.exec_driver_sql("UPDATE images SET deleted = (1 = 1)")
        host.stage(f"{live}.raw")
        host.wait_gone(later())
        assert (host.staging / f"{live}.raw").exists(), "what isn't committed doesn't count"
    assert program.stop() == 0
    check_reported(program)


def test_connection_limit(host: Host, server: Database, database_url: str) -> None:
    name = name_of(database_url)
    server.add_reader(name, f"{SECRET}-reader", name)
    url = server.url(name, name, f"{SECRET}-reader")
    host.configure(database_url=url)
    residue = host.stage_deleted()
    host.stage_live()
    if isinstance(server, MariaDB):
        server.execute("SET GLOBAL max_connections = 10")  # PostgreSQL's can't be set now
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    connections = []
    with suppress(sa.exc.OperationalError):
        while True:
            connections.append(engine.connect())
    program = host.start()
    check_backoff(program, 3)
    cause = "Too many connections" if isinstance(server, MariaDB) else "connection slots are"
    check_sweep_refuses(host, cause, residue)
    for connection in connections:
        connection.close()
    if isinstance(server, MariaDB):
        server.execute("SET GLOBAL max_connections = DEFAULT")
    wait_ended(program)
    assert not residue.exists()
    check_reported(program, cause, ENDED)


IDLE = {
    MariaDB: ("SET GLOBAL wait_timeout = 1", "SET GLOBAL wait_timeout = DEFAULT"),
    PostgreSQL: (
        "ALTER ROLE glance SET idle_session_timeout = 1000",
        "ALTER ROLE glance RESET idle_session_timeout",
    ),
}


def test_idle_connection_closed_by_the_server(
    host: Host, server: Database, database_url: str
) -> None:
    name = name_of(database_url)
    later = [residue_to_come(host) for _ in range(2)]
    host.stage_live()
    host.images.close()
    impatient, patient = IDLE[type(server)]
    server.execute(impatient)
    try:
        program = host.start()
        wait_for(lambda: not server.sessions(name), 30, "the end of the idle connection")
    finally:
        server.execute(patient)
    host.wait_gone(later[0]())
    for each in server.sessions(name):
        server.end_session(each)
    wait_for(lambda: not server.sessions(name), 30, "the end of the connection")
    host.wait_gone(later[1]())
    check_reported(program)


def test_wrong_password(host: Host, server: Database, database_url: str) -> None:
    name = name_of(database_url)
    server.add_reader(name, f"{SECRET}-right", name)
    host.configure(database_url=server.url(name, name, f"{SECRET}-wrong"))
    residue = host.stage_deleted()
    host.stage_live()
    program = host.start()
    check_backoff(program, 3)
    cause = f"for user {chr(39)}{name}" if isinstance(server, MariaDB) else f'for user "{name}"'
    check_sweep_refuses(host, cause, residue)
    server.set_password(name, f"{SECRET}-wrong")
    wait_ended(program)
    assert not residue.exists()
    check_reported(program, cause, ENDED)


@MARIADB
@pytest.mark.skipif(bool(importlib.util.find_spec("nacl")), reason="PyMySQL can do it then")
def test_password_of_a_kind_that_the_driver_does_not_know(
    host: Host, server: Database, database_url: str
) -> None:
    name = name_of(database_url)
    password = f"{SECRET}-ed25519"
    server.execute("INSTALL SONAME 'auth_ed25519'")
    server.add_reader(name, password, name)
    server.execute(f"ALTER USER {name} IDENTIFIED VIA ed25519 USING PASSWORD('{password}')")
    host.configure(database_url=server.url(name, name, password))
    residue = host.stage_deleted()
    host.stage_live()
    program = host.start()
    check_sweep_refuses(host, "package is required for ed25519_password", residue)
    server.set_password(name, password)
    wait_ended(program)
    check_reported(program, "package is required for ed25519_password", ENDED)


NO_ROW = "the images table has no row at all; is [database] connection the right database?"
MISSING = {
    SQLite: ("unable to open database file", "no such table: images"),
    MariaDB: ("Unknown database", "images' doesn't exist"),
    PostgreSQL: ("does not exist", 'relation "images" does not exist'),
}


@ALL
def test_wrong_database(host: Host, server: Database | SQLite) -> None:
    no_database, _ = MISSING[type(server)]
    name = unique_name("faulty")
    url = server.url(name)
    host.configure(database_url=url, watcher="absent_grace = 0")
    live, residue = host.stage_live(), host.stage_deleted()
    program = host.start()
    check_reported(program, no_database)
    server.create_database(name)
    wait_retries(program)
    images = Images(url)
    images.create_table()
    wait_retries(program)
    host.check_live()
    assert residue.exists()
    images.insert(live)
    images.close()
    wait_ended(program)
    assert not residue.exists()
    check_reported(program, no_database, ENDED)


def wait_retries(program: Program) -> None:
    """Wait for two more tries that fail."""
    program.wait_for_line("Next try in", FAULT_TIMEOUT, len(program.lines("Next try in")) + 2)


@ALL
def test_sweep_with_the_wrong_database(host: Host, server: Database | SQLite) -> None:
    no_database, no_table = MISSING[type(server)]
    name = unique_name("faulty")
    url = server.url(name)
    host.configure(database_url=url, watcher="absent_grace = 0")
    host.stage_live()
    residue = host.stage_deleted()
    check_sweep_refuses(host, no_database, residue)
    server.create_database(name)
    check_sweep_refuses(host, no_table, residue)
    images = Images(url)
    images.create_table()
    images.close()
    check_sweep_refuses(host, NO_ROW, residue)


@ALL
def test_ids_that_differ_by_case(host: Host, database_url: str) -> None:
    host.configure(database_url=database_url, watcher="absent_grace = 0")
    host.stage_live()
    program = host.start()
    kept, stale = [], []
    for of_row, of_file in [(str.upper, str.lower), (str.lower, str.upper)]:
        live, deleted = (f"abcdefab{new_id()[8:]}" for _ in range(2))
        host.images.insert(of_row(live))
        host.images.insert(of_row(deleted), deleted=True)
        kept.append(host.stage(f"{of_file(live)}.uc"))
        stale.append(host.stage(of_file(deleted)))
    host.wait_gone(*stale)
    assert host.sweep()[0] == 0
    assert [path.read_bytes() for path in kept] == [b"data"] * 2
    check_reported(program)


@ONE
def test_row_that_comes_after_the_file(new_host: Callable[..., Host]) -> None:
    host = new_host(watcher="absent_grace = 5")
    host.images.insert(new_id())
    program = host.start()
    image = new_id()
    path = host.stage(image)
    program.wait_for_line("Cleaned 0 stale staging files, 1 ignored (0 errors)")
    host.images.insert(image)
    looks = len(program.lines("Cleaned 0 stale"))
    program.wait_for_line("Cleaned 0 stale", count=looks + 1)  # its grace is over
    assert host.sweep()[0] == 0
    assert path.read_bytes() == b"data"
    check_reported(program)


@ONE
def test_deleted_flag_that_comes_after_the_notification(
    bus_host: Host, notifier: GlanceNotifier
) -> None:
    live = bus_host.stage_live()
    residue = bus_host.staging / live
    program = bus_host.start()
    program.wait_for_line("Listening for notifications")
    program.wait_for_line("Cleaned 0 stale", count=2)  # the sweeps of start and listening
    notifier.deleted(live)
    program.wait_for_line("Cleaned 0 stale", count=5)
    bus_host.check_live()
    bus_host.forget(live)
    bus_host.images.delete(live)
    bus_host.wait_gone(residue)
    assert [line for line in reported(program) if "Listening" not in line] == []


@ONE
def test_deleted_flag_that_comes_after_the_fault(
    bus_host: Host, notifier: GlanceNotifier, server: Database
) -> None:
    """The sweep at the fault's end finds a live row, and the next one is far away."""
    images = [bus_host.stage_live(suffix) for suffix in ("", ".uc")]
    program = bus_host.start()
    program.wait_for_line("Listening for notifications")
    program.wait_for_line("Cleaned 0 stale", count=2)  # the sweeps of start and listening
    bus_host.images.close()
    server.kill()
    notifier.deleted(images[0])
    program.wait_for_line(BEGAN.partition(" ")[2], FAULT_TIMEOUT)
    notifier.deleted(images[1])  # finds the fault known
    check_backoff(program, 3)
    server.start()
    wait_ended(program)
    bus_host.check_live()
    for image in images:
        bus_host.forget(image)
        bus_host.images.delete(image)
    bus_host.wait_gone(bus_host.staging / images[0], bus_host.staging / f"{images[1]}.uc")
