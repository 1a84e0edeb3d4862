# SPDX-License-Identifier: Apache-2.0
"""Databases of more than one server: Glance writes to the first, the watcher asks the second,
which lags behind, is cut off or killed. ``absent_grace`` is shorter than that takes."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import running
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.test_check import Report
from tests.functional.test_database_faults import (
    BEGAN,
    ENDED,
    FAULT_TIMEOUT,
    check_reported,
    check_sweep_refuses,
    reported,
    residue_to_come,
    wait_ended,
)
from tests.services import Images, unique_name, wait_for
from tests.services.galera import Galera
from tests.services.replicas import MariaDBPair, Pair, PostgreSQLPair

GRACE = "absent_grace = 1"
LOOKED = "Cleaned 0 stale staging files"
NOT_READY = "WSREP has not yet prepared node for application use"
LAGS = "Lock wait timeout exceeded"


@pytest.fixture(scope="module")
def galera() -> Iterator[Galera]:
    yield from running(Galera)


@pytest.fixture(scope="module")
def mariadb_pair() -> Iterator[MariaDBPair]:
    yield from running(MariaDBPair)


@pytest.fixture(scope="module")
def postgresql_pair() -> Iterator[PostgreSQLPair]:
    yield from running(PostgreSQLPair)


GALERA = pytest.mark.parametrize("pair", ["galera"], indirect=True)
REPLICAS = pytest.mark.parametrize("pair", ["mariadb_pair", "postgresql_pair"], indirect=True)


@pytest.fixture(params=["galera", "mariadb_pair", "postgresql_pair"])
def pair(request: pytest.FixtureRequest) -> Pair[Any]:
    """Each pair in turn."""
    made = request.getfixturevalue(request.param)
    assert isinstance(made, Pair)
    return made


@pytest.fixture
def database() -> str:
    return unique_name("replicated")


@pytest.fixture
def database_url(pair: Pair[Any], database: str) -> str:
    """What the watcher asks."""
    url: str = pair.second.url(database)
    return url


@pytest.fixture
def images(pair: Pair[Any], database: str) -> Iterator[Images]:
    """What Glance writes to; the second server has the table as well."""
    pair.first.create_database(database)
    table = Images(pair.first.url(database))
    table.create_table()
    first = new_id()  # a table without any row is an error
    table.insert(first)
    wait_shown(pair, database, first)
    yield table
    table.close()


def wait_shown(pair: Pair[Any], database: str, image: str) -> None:
    """Wait until the second server has a row."""
    pair.wait_shown(f"SELECT id FROM images WHERE id = '{image}'", database)


# The file is there before its row


@pytest.fixture
def impatient(pair: Galera) -> Iterator[None]:
    """The second node gives up soon; by default after 30 s."""
    pair.second.set_provider("repl.causal_read_timeout", "PT2S")
    yield
    pair.second.set_provider("repl.causal_read_timeout", "PT30S")


@GALERA
def test_a_node_catches_up_before_a_file_goes(
    host: Host, pair: Galera, database: str, database_url: str
) -> None:
    host.configure(database_url=database_url, watcher=GRACE)
    wait_shown(pair, database, host.stage_live())
    program = host.start()
    with pair.lagging():
        host.stage_live()
        waiting = "SELECT id FROM information_schema.processlist WHERE info LIKE '/*M!%%asked%%'"
        wait_for(lambda: pair.second.execute(waiting), FAULT_TIMEOUT, "the second read to wait")
        looked = len(program.lines(LOOKED))
    program.wait_for_line(LOOKED, count=looked + 1)
    host.check_live()
    check_reported(program)


@GALERA
@pytest.mark.usefixtures("impatient")
def test_a_node_that_lags_too_long(
    new_host: Callable[..., Host], pair: Galera, database: str, database_url: str
) -> None:
    """Longer than itself has patience, or than the watcher has."""
    hosts = {LAGS: new_host(), "Lost connection to MySQL server": new_host()}
    for host, option in zip(hosts.values(), ("", "?read_timeout=1"), strict=True):
        host.configure(database_url=database_url + option, watcher=GRACE)
        wait_shown(pair, database, host.stage_live())
    programs = {cause: host.start() for cause, host in hosts.items()}
    later = {cause: residue_to_come(host) for cause, host in hosts.items()}
    with pair.lagging():
        live = {cause: host.staging / host.stage_live() for cause, host in hosts.items()}
        for program in programs.values():
            program.wait_for_line(BEGAN.partition(" ")[2], FAULT_TIMEOUT)
        residue = {cause: stage() for cause, stage in later.items()}
        for cause, host in hosts.items():
            programs[cause].wait_for_line("Next try in", FAULT_TIMEOUT, count=2)
            check_sweep_refuses(host, cause, live[cause])
            host.check_live()
    for cause, program in programs.items():
        wait_ended(program)
        assert not residue[cause].exists()
        check_reported(program, cause, ENDED)


@REPLICAS
def test_a_replica_is_no_proof_that_there_is_no_row(
    host: Host, pair: Pair[Any], database: str, database_url: str
) -> None:
    host.configure(database_url=database_url, watcher=f"{GRACE}\nsweep_interval = 1")
    later, absent = residue_to_come(host), host.stage(new_id())
    known = host.stage_live()
    wait_shown(pair, database, known)
    program = host.start()
    with pair.lagging():
        live = host.staging / host.stage_live()
        host.wait_gone(later())
        host.age(live, 1)
        looked = len(program.lines(LOOKED))
        program.wait_for_line(LOOKED, count=looked + 2)  # sweeps, of which one began after that
        code, said = host.sweep("--dry-run")
        assert (
            code == 0
            and said.count("image has no row in this database, a replica that may lag") == 2
        )
        assert host.sweep()[0] == 0
        host.check_live()
    wait_shown(pair, database, live.name)
    assert host.sweep()[0] == 0
    assert absent.exists()
    check_reported(program)


# The deletion is reported before its flag


def test_a_flag_that_comes_after_the_notification(
    bus_host: Host, notifier: GlanceNotifier, pair: Pair[Any], database: str
) -> None:
    live = bus_host.stage_live()
    residue = bus_host.staging / live
    wait_shown(pair, database, live)
    program = bus_host.start()
    program.wait_for_line("Listening for notifications")
    program.wait_for_line(LOOKED, count=2)  # the sweeps of start and listening
    bus_host.forget(live)
    with pair.lagging():
        bus_host.images.delete(live)
        notifier.deleted(live)
        program.wait_for_line(LOOKED, count=5)
        assert residue.exists()
    bus_host.wait_gone(residue, timeout=FAULT_TIMEOUT)
    assert [line for line in reported(program) if "Listening" not in line] == []


# A node that is cut off, killed, and back


@GALERA
def test_a_node_without_quorum(
    new_host: Callable[..., Host], pair: Galera, database: str, database_url: str
) -> None:
    """Also one that answers nevertheless, from what it had."""
    host, other = new_host(watcher=GRACE), new_host()
    dirty = f"{database_url}?init_command=SET%20wsrep_dirty_reads%20%3D%20ON"
    other.configure(database_url=dirty, watcher=GRACE)
    later = residue_to_come(host)
    wait_shown(pair, database, other.stage_live())
    programs = host.start(), other.start()
    pair.cut_off()
    residue = later()
    other.stage_live()
    for program in programs:
        program.wait_for_line(BEGAN.partition(" ")[2], FAULT_TIMEOUT)
        program.wait_for_line("Next try in", FAULT_TIMEOUT, count=2)
    check_sweep_refuses(host, NOT_READY, residue)
    check_sweep_refuses(other, LAGS, residue)
    other.check_live()
    pair.join()
    for program, cause in zip(programs, (NOT_READY, LAGS), strict=True):
        wait_ended(program)
        check_reported(program, cause, ENDED)
    assert not residue.exists()


@GALERA
def test_a_node_that_is_killed(host: Host, pair: Galera) -> None:
    later = residue_to_come(host)
    host.stage_live()
    program = host.start()
    pair.second.kill()
    residue = later()
    host.stage_live()  # the first node goes on
    program.wait_for_line(BEGAN.partition(" ")[2], FAULT_TIMEOUT)
    program.wait_for_line("Next try in", FAULT_TIMEOUT, count=2)
    check_sweep_refuses(host, "refused", residue)
    pair.second.start()
    wait_ended(program)
    assert not residue.exists()
    lines = reported(program)
    assert lines.pop() == ENDED
    # It may be asked when it is up again, but not yet ready: another cause, logged as well.
    assert len(lines) <= 2 and all(
        line.startswith(BEGAN) and any(cause in line for cause in ("refused", NOT_READY))
        for line in lines
    ), lines


# What ``check`` says


def test_check_of_the_database(host: Host, pair: Pair[Any]) -> None:
    result, found = Report(host)["database"]
    if isinstance(pair, Galera):
        assert result == "ok" and ", a Galera node, answers" in found
    else:
        assert result == "warning" and "a read-only replica: no file without a row" in found
