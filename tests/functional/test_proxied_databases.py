# SPDX-License-Identifier: Apache-2.0
"""Databases behind poolers, proxies and TLS, and servers whose settings cut or blur answers."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import sqlalchemy as sa

from tests.conftest import name_of, on, running
from tests.functional.host import Host, new_id
from tests.functional.program import SECRET
from tests.functional.test_check import Report
from tests.services import Database, Images, MariaDB, PostgreSQL, Server, wait_for
from tests.services.busy_proxy import BusyProxy
from tests.services.certificates import Authority, Certificate
from tests.services.poolers import HAProxy, PgBouncer
from tests.services.ports import free_port
from tests.services.requirements import unavailable
from tests.services.rowproxy import Cut, RowProxy, emptied, shortened, without_last
from watcher.database import postgresql as postgresql_module
from watcher.database.images import Images as WatchersImages
from watcher.database.images import ImageState
from watcher.errors import DatabaseError

LIVE, DELETED, ABSENT = ImageState.LIVE, ImageState.DELETED, ImageState.ABSENT
NOW = "absent_grace = 0\n"
BOTH = on("mariadb", "postgresql")
MARIADB = on("mariadb")
POSTGRESQL = on("postgresql")


def started(made: Server) -> Iterator[Server]:
    """A running server; without its program fail in CI and skip elsewhere."""
    if reason := type(made).missing():
        unavailable(reason)
    try:
        made.start()
        yield made
    finally:
        made.stop()


# Answers that are cut


@pytest.fixture
def through(
    database_server: Database, database_url: str
) -> Iterator[Callable[[Cut], tuple[RowProxy, str]]]:
    """Makes a proxy that cuts answers, and its URL."""
    server, made = database_server, []
    kind = "mariadb" if isinstance(server, MariaDB) else "postgresql"

    def make(cut: Cut) -> tuple[RowProxy, str]:
        proxy = RowProxy(kind, server.port, cut)
        made.append(proxy)
        return proxy, database_url.replace(f":{server.port}/", f":{proxy.port}/")

    yield make
    for proxy in made:
        proxy.close()


@BOTH
@pytest.mark.parametrize("cut", [emptied(3), shortened(3), without_last])
def test_a_proxy_that_cuts_answers(
    host: Host, through: Callable[[Cut], tuple[RowProxy, str]], cut: Cut
) -> None:
    proxy, url = through(cut)
    for _ in range(5):
        host.stage_live()
    residue = host.stage_deleted()
    host.configure(database_url=url, watcher=NOW)
    code, said = host.sweep("--trust-database")
    assert proxy.answers_cut
    assert (code, "incomplete answer: " in said) == (2, True), said
    assert "for a limit of rows in a proxy before it" in said
    host.check_live()
    assert residue.exists() or cut is without_last, "deleted rows that do arrive count"


@MARIADB
@pytest.mark.parametrize("where", ["global", "url"])
def test_a_server_that_cuts_answers(
    host: Host, mariadb: MariaDB, database_url: str, where: str
) -> None:
    url = database_url
    if where == "url":
        url += "?init_command=SET%20sql_select_limit%20%3D%2010"
    else:
        mariadb.execute("SET GLOBAL sql_select_limit = 10")
    try:
        for _ in range(30):
            host.stage_live()
        absent = host.stage(new_id())
        host.configure(database_url=url, watcher=NOW)
        code, said = host.sweep()
    finally:
        mariadb.execute("SET GLOBAL sql_select_limit = DEFAULT")
    assert code == 2 and "incomplete answer: 10 rows for " in said, said
    assert "sql_select_limit" in said
    host.check_live()
    assert absent.exists()
    host.configure(database_url=database_url, watcher=NOW)
    assert host.sweep()[0] == 0
    assert not absent.exists()


# What isn't committed


@pytest.fixture(scope="module")
def dirty_mariadb() -> Iterator[MariaDB]:
    """A server whose sessions read what isn't committed, unless they say otherwise."""

    class Dirty(MariaDB):
        def __init__(self, directory: Path) -> None:
            super().__init__(
                directory,
                "--transaction-isolation=READ-UNCOMMITTED",
                "--sql-mode=EMPTY_STRING_IS_NULL",
            )

    yield from running(Dirty)


@pytest.mark.parametrize(
    "parameters",
    ["", "?init_command=SET%20SESSION%20TRANSACTION%20ISOLATION%20LEVEL%20READ%20UNCOMMITTED"],
)
def test_a_server_that_reads_what_is_not_committed(
    tmp_path: Path, dirty_mariadb: MariaDB, parameters: str
) -> None:
    name = f"dirty_{len(parameters)}"
    dirty_mariadb.create_database(name)
    url = dirty_mariadb.url(name)
    table = Images(url)
    table.create_table()
    host = Host(tmp_path, table, database_url=url + parameters, watcher=NOW)
    live, gone, absent = host.stage_live(), host.stage_deleted(), host.stage(new_id())
    engine = sa.create_engine(url)
    with engine.connect() as other:
        other.exec_driver_sql("UPDATE images SET deleted = 1")
        assert other.exec_driver_sql("SELECT @@tx_isolation").scalar() == "READ-UNCOMMITTED"
        assert host.sweep()[0] == 0
        other.rollback()
    engine.dispose()
    assert (host.staging / live).exists() and not gone.exists() and not absent.exists()
    assert "at isolation level READ COMMITTED" in Report(host)["database"][1]
    table.close()
    host.close()


# Poolers


@pytest.fixture(scope="module")
def pooled_mariadb() -> Iterator[MariaDB]:
    """A server in which one group of threads serves all connections."""

    class Pooled(MariaDB):
        def __init__(self, directory: Path) -> None:
            super().__init__(directory, "--thread-handling=pool-of-threads", "--thread-pool-size=1")

    yield from running(Pooled)


def test_a_pool_of_threads(tmp_path: Path, pooled_mariadb: MariaDB) -> None:
    """Two watchers, each with a session of its own."""
    pooled_mariadb.create_database("pooled")
    url = pooled_mariadb.url("pooled")
    assert pooled_mariadb.execute("SELECT @@thread_handling") == [("pool-of-threads",)]
    table = Images(url)
    table.create_table()
    hosts = []
    for name in ("one", "other"):
        (directory := tmp_path / name).mkdir()
        hosts.append(Host(directory, table, database_url=url, watcher=f"{NOW}sweep_interval = 1"))
    programs = [host.start() for host in hosts]
    try:
        for host in hosts:
            host.stage_live()
        for _ in range(4):
            for host in hosts:
                host.wait_gone(host.stage_deleted(), host.stage(new_id()))
        for host, program in zip(hosts, programs, strict=True):
            host.check_live()
            assert program.stop() == 0
            assert not program.lines("ERROR"), program.log
    finally:
        for host in hosts:
            host.close()
        table.close()


@pytest.fixture(params=["session", "transaction"])
def pgbouncer(request: pytest.FixtureRequest, postgresql: PostgreSQL) -> Iterator[PgBouncer]:
    """As Debian configures it, or with transactions of all clients in a few sessions."""
    more: dict[str, object] = {} if request.param == "session" else {"pool_mode": "transaction"}
    more |= {"default_pool_size": 1} if more else {}
    with tempfile.TemporaryDirectory(prefix="services-", ignore_cleanup_errors=True) as directory:
        for made in started(PgBouncer(Path(directory), postgresql, **more)):
            assert isinstance(made, PgBouncer)
            yield made


@POSTGRESQL
def test_pgbouncer(new_host: Callable[..., Host], pgbouncer: PgBouncer, database_url: str) -> None:
    """Two watchers, more queries than a driver makes before it prepares a statement."""
    url = pgbouncer.url(name_of(database_url))
    hosts = [new_host(), new_host()]
    for host in hosts:
        host.configure(database_url=url, watcher=f"{NOW}sweep_interval = 1")
        host.stage_live()
    programs = [host.start() for host in hosts]
    for _ in range(8):
        for host in hosts:
            host.wait_gone(host.stage_deleted())
    for host, program in zip(hosts, programs, strict=True):
        host.wait_gone(host.stage(new_id()))
        assert program.stop() == 0
        assert not program.lines("ERROR"), program.log


@POSTGRESQL
def test_a_pooler_that_hangs(
    monkeypatch: pytest.MonkeyPatch, images: Images, pgbouncer: PgBouncer, database_url: str
) -> None:
    """The client's own limit ends the wait; there is no second one at once."""
    images.insert(live := new_id())
    table = WatchersImages(pgbouncer.url(name_of(database_url)))
    assert table.states([live]) == {live: LIVE}
    monkeypatch.setattr(postgresql_module, "READ_TIMEOUT", 0.2)
    pgbouncer.pause()
    try:
        with pytest.raises(DatabaseError, match=r"no answer within 0\.2 s"):
            table.states([live])
    finally:
        pgbouncer.resume()
    assert table.states([live]) == {live: LIVE}
    table.close()


def test_a_proxy_whose_errors_hold_changing_numbers(tmp_path: Path) -> None:
    """As ProxySQL's do; it isn't in Debian."""
    proxy, port = BusyProxy(), free_port()
    table = Images(f"sqlite:///{tmp_path / 'unused.sqlite'}")
    url = f"mysql+pymysql://glance:{SECRET}@127.0.0.1:{proxy.port}/glance"
    watcher = f"sweep_interval = 1\nmetrics_port = {port}"
    host = Host(tmp_path, table, database_url=url, watcher=watcher)
    (host.staging / new_id()).touch()
    program = host.start(ready=False)
    try:
        wait_for(lambda: proxy.refused > 4, 60, "several attempts")
        (line,) = program.lines("ERROR")
        assert "Database unavailable; removals suspended: " in line
        assert "Max connect timeout reached while reaching hostgroup 10 after 10001ms" in line
        with pytest.raises(HTTPError) as answer:
            urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30)
        assert answer.value.read().decode().count("hostgroup") == 1
        assert program.stop() == 0
    finally:
        proxy.close()
        host.close()
        table.close()


@BOTH
def test_haproxy(database_server: Database, images: Images, database_url: str) -> None:
    """It closes idle connections, of which neither end knows before it asks."""
    live, deleted, absent = new_id(), new_id(), new_id()
    images.insert(live)
    images.insert(deleted, deleted=True)
    expected = {live: LIVE, deleted: DELETED, absent: ABSENT}
    name = name_of(database_url)
    images.close()
    with tempfile.TemporaryDirectory(prefix="services-", ignore_cleanup_errors=True) as directory:
        for made in started(HAProxy(Path(directory), database_server, idle=300)):
            assert isinstance(made, HAProxy)
            table = WatchersImages(made.url(name))
            for read in (table.states, table.confirm_absent, table.states):
                assert read(expected) == expected
                wait_for(
                    lambda: not database_server.sessions(name), 30, "the end of the idle session"
                )
            table.close()


# TLS


class Tls(MariaDB):
    """A MariaDB server with a certificate."""

    @contextmanager
    def with_certificate(self, used: Certificate) -> Iterator["Tls"]:
        """Running with that certificate."""
        self._more_options = (f"--ssl-cert={used.path}", f"--ssl-key={used.key}")
        self.start()
        try:
            yield self
        finally:
            self.stop()


class PostgresTls(PostgreSQL):
    """A PostgreSQL server with a certificate."""

    @contextmanager
    def with_certificate(self, used: Certificate) -> Iterator["PostgresTls"]:
        """Running with that certificate."""
        self._settings = {"ssl": "on", "ssl_cert_file": used.path, "ssl_key_file": used.key}
        self.start()
        try:
            yield self
        finally:
            self.stop()


@pytest.fixture(params=[Tls, PostgresTls])
def tls_server(request: pytest.FixtureRequest) -> Iterator[Tls | PostgresTls]:
    """A server, not yet running."""
    if reason := request.param.missing():
        unavailable(reason)
    with tempfile.TemporaryDirectory(prefix="services-", ignore_cleanup_errors=True) as directory:
        made = request.param(Path(directory))
        yield made
        made.stop()


def test_tls(tls_server: Tls | PostgresTls) -> None:
    directory = tls_server.directory
    account = tls_server.account if os.geteuid() == 0 else None
    right, wrong = Authority(directory), Authority(directory, "another authority")
    made = {
        "good": right.issue("good", account=account),
        "expired": right.issue("expired", days=-1, account=account),
        "other host": right.issue("other", host="DNS:other.example", account=account),
    }
    if isinstance(tls_server, Tls):
        query = "?ssl_mode=VERIFY_IDENTITY&ssl_ca="
    else:
        query = "?sslmode=verify-full&sslrootcert="
    cases = [
        ("good", right.certificate, None),
        ("good", wrong.certificate, "self-signed certificate|unable to get local issuer"),
        ("good", directory / "missing.pem", f"{directory}/missing.pem"),
        ("expired", right.certificate, "certificate has expired"),
        ("other host", right.certificate, "certificate is not valid for|does not match host name"),
    ]
    for used, authority, cause in cases:
        with tls_server.with_certificate(made[used]):
            images = Images(tls_server.url())
            images.create_table()
            images.close()
            table = WatchersImages(f"{tls_server.url()}{query}{authority}")
            if cause is None:
                assert not table.check()
            else:
                with pytest.raises(DatabaseError, match=cause) as caught:
                    table.check()
                assert "\n" not in str(caught.value) and tls_server.password not in str(
                    caught.value
                )
            table.close()


# Sockets, IPv6 and several hosts


@POSTGRESQL
def test_several_hosts(images: Images, postgresql: PostgreSQL, database_url: str) -> None:
    """The first is down."""
    images.insert(live := new_id())
    login, _, _ = database_url.partition("@")
    hosts = f"host=127.0.0.1:1&host=127.0.0.1:{postgresql.port}"
    table = WatchersImages(f"{login}@/{name_of(database_url)}?{hosts}")
    assert table.states([live]) == {live: LIVE}
    table.close()


class OtherMariaDB(MariaDB):
    """On a socket and on IPv6 only."""

    def _command(self) -> list[str]:
        changed = {"--socket=": f"--socket={self.directory}/socket"}
        changed["--bind-address=127.0.0.1"] = "--bind-address=::1"
        return [changed.get(word, word) for word in super()._command()]

    def url(self, database: str = "glance", *login: str) -> str:
        return super().url(database, *login).replace("127.0.0.1", "[::1]")


class OtherPostgreSQL(PostgreSQL):
    """On a socket and on IPv6 only."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, listen_addresses="::1", unix_socket_directories=directory)

    def url(self, database: str = "glance", *login: str) -> str:
        return super().url(database, *login).replace("127.0.0.1", "[::1]")


@pytest.mark.parametrize("kind", [OtherMariaDB, OtherPostgreSQL])
def test_sockets_and_ipv6(kind: type[OtherMariaDB | OtherPostgreSQL]) -> None:
    for server in running(kind):
        images = Images(server.url())
        images.create_table()
        images.insert(live := new_id())
        images.close()
        login, _, _ = server.url().partition("@")
        directory = server.directory
        if isinstance(server, MariaDB):
            place = f"unix_socket={directory}/socket"
        else:
            place = f"host={directory}&port={server.port}"
        for url in (server.url(), f"{login}@/glance?{place}"):
            table = WatchersImages(url)
            assert table.states([live]) == {live: LIVE}, table.location
            table.close()
