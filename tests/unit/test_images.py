# SPDX-License-Identifier: Apache-2.0
import socketserver
import sqlite3
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import on
from tests.services import Images as GlanceImages
from watcher.database import images as images_module
from watcher.database import postgresql as postgresql_module
from watcher.database.images import Found, Images, ImageState
from watcher.database.mysql import MySQL
from watcher.database.postgresql import PostgreSQL
from watcher.database.server import QUERY_TIMEOUT, READ_TIMEOUT, Row, Server
from watcher.database.sqlite import SQLite
from watcher.errors import DatabaseError

LIVE, DELETED, ABSENT = ImageState.LIVE, ImageState.DELETED, ImageState.ABSENT
UNKNOWN = ImageState.UNKNOWN


def new_id() -> str:
    return str(uuid.uuid4())


def test_states(images: GlanceImages, database_url: str) -> None:
    live, deleted, absent = new_id(), new_id(), new_id()
    images.insert(live)
    images.insert(deleted, deleted=True, status="pending_delete")
    assert Images(database_url).states({live, deleted, absent}) == {
        live: LIVE,
        deleted: DELETED,
        absent: ABSENT,
    }


def test_states_of_more_ids_than_fit_one_query(images: GlanceImages, database_url: str) -> None:
    ids = [new_id() for _ in range(images_module.IDS_PER_QUERY * 2 + 1)]
    images.insert(*ids)
    assert Images(database_url).states(ids) == dict.fromkeys(ids, LIVE)
    assert Images(database_url).states([]) == {}


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        (str.lower, str.lower),
        (str.lower, str.upper),
        (str.lower, str.title),
        (str.upper, str.lower),
        (str.upper, str.upper),
        (str.upper, str.title),
        (str.title, str.title),  # of other names Glance itself doesn't find it
    ],
)
def test_no_live_image_looks_absent_because_of_case(
    images: GlanceImages,
    database_url: str,
    stored: Callable[[str], str],
    named: Callable[[str], str],
) -> None:
    image = "abcdefab-cdef-4abc-8def-abcdefabcdef"
    images.insert(stored(image))
    table = Images(database_url)
    name = named(image)
    assert table.states([name])[name] in (LIVE, ABSENT)
    assert table.confirm_absent([name]) == {name: LIVE}


def test_a_deleted_image_of_other_case_says_nothing_of_this_one(
    images: GlanceImages, database_url: str
) -> None:
    """Its own row may lag; in the second read, past the grace, it would be there."""
    image = "abcdefab-cdef-4abc-8def-abcdefabcdef"
    images.insert(image, deleted=True)
    states = Images(database_url).states([image, image.upper()])
    assert states == {image: DELETED, image.upper(): ABSENT}
    assert Images(database_url).confirm_absent([image.upper()]) == {image.upper(): DELETED}


def test_a_live_row_wins_over_one_of_other_case(images: GlanceImages, database_url: str) -> None:
    image = "abcdefab-cdef-4abc-8def-abcdefabcdef"
    images.insert(image)
    if "mysql" not in database_url:  # there the two are one key
        images.insert(image.upper(), deleted=True)
    assert Images(database_url).confirm_absent([image]) == {image: LIVE}


def test_each_read_sees_what_is_committed_now(images: GlanceImages, database_url: str) -> None:
    image, table = new_id(), Images(database_url)
    images.insert(image)
    assert table.states([image]) == {image: LIVE}
    images.delete(image)
    assert table.states([image]) == {image: DELETED}
    images.purge(image)
    assert table.states([image]) == {image: ABSENT}


def test_an_empty_table_is_no_proof_of_absence(images: GlanceImages, database_url: str) -> None:
    table = Images(database_url)
    assert not table.check()
    with pytest.raises(DatabaseError, match=r"^the images table has no row at all; "):
        table.confirm_absent([new_id()])
    images.insert(new_id(), deleted=True)
    assert table.check()
    image = new_id()
    assert table.confirm_absent([image]) == {image: ABSENT}


@pytest.mark.parametrize("size", [1, 1000])
def test_what_a_replica_does_not_have_is_unknown(
    monkeypatch: pytest.MonkeyPatch, images: GlanceImages, database_url: str, size: int
) -> None:
    live, deleted, unknown = new_id(), new_id(), new_id()
    images.insert(live)
    images.insert(deleted, deleted=True)
    table = Images(database_url)
    monkeypatch.setattr(images_module, "IDS_PER_QUERY", size)
    monkeypatch.setattr(table._server, "replica", "(1 = 1)")
    expected = {live: LIVE, deleted: DELETED, unknown: UNKNOWN}
    assert table.confirm_absent(expected) == expected


@on("mariadb")
@pytest.mark.parametrize(
    ("value", "replica"), [("0", 0), ("1", 1), ("'OFF'", 0), ("'ON'", 1), ("'NO_LOCK'", 1)]
)
def test_read_only_is_a_number_or_a_word(database_url: str, value: str, replica: int) -> None:
    expression = MySQL.replica.replace("@@global.read_only", value)
    assert Images(database_url)._server.ask(f"SELECT {expression}") == [(replica,)]


@on("mariadb")
@pytest.mark.parametrize("galera", [True, False])
def test_only_a_galera_node_is_asked_to_catch_up(
    monkeypatch: pytest.MonkeyPatch, images: GlanceImages, database_url: str, galera: bool
) -> None:
    asked: list[str] = []
    table, live, absent = Images(database_url), new_id(), new_id()
    images.insert(live)
    ask = table._server.ask

    def note(sql: str, parameters: Sequence[str] = ()) -> list[Row]:
        asked.append(sql)
        return [(int(galera),)] if "wsrep_on" in sql else ask(sql, parameters)

    monkeypatch.setattr(table._server, "ask", note)
    assert table.states([live, absent]) == {live: LIVE, absent: ABSENT}
    assert len(asked) == 1 and "wsrep" not in asked[0]
    assert table.confirm_absent([live, absent]) == {live: LIVE, absent: ABSENT}
    assert len(asked) == 3
    assert ("wsrep_sync_wait = 1" in asked[2]) == galera
    assert table.confirm_absent([]) == {} and len(asked) == 3


@on("mariadb")
def test_one_server_is_no_galera_node(database_url: str) -> None:
    assert not Images(database_url)._server.in_galera()


def test_no_table(database_url: str, tmp_path: Path) -> None:
    if database_url.startswith("sqlite"):
        (tmp_path / "glance.sqlite").touch()
    with pytest.raises(DatabaseError, match="images") as caught:
        Images(database_url).check()
    assert "\n" not in str(caught.value)


def test_sqlite_makes_no_database(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    with pytest.raises(DatabaseError, match="unable to open"):
        Images(f"sqlite:///{path}").check()
    assert not path.exists()


def test_sqlite_in_a_file_of_odd_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a b#c%20d.sqlite"
    glance = GlanceImages(url)
    glance.create_table()
    assert not Images(url).check()
    glance.close()


@pytest.mark.parametrize("scheme", ["mysql+pymysql", "postgresql+psycopg"])
@pytest.mark.parametrize(
    "greeting",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x02\0\0\0\n5", b"\x09\0\0\0\nno number\0", b""],
)
def test_a_server_that_is_no_database(scheme: str, greeting: bytes) -> None:
    class Greet(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(greeting)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with pytest.raises(DatabaseError) as caught:
                Images(f"{scheme}://glance:s3cr3t@127.0.0.1:{server.server_address[1]}/d").check()
        finally:
            server.shutdown()
            thread.join()
    assert "\n" not in str(caught.value)


LIMITS = {
    "mariadb": "SELECT @@max_statement_time",
    "postgresql": "SELECT current_setting('statement_timeout')",
}


@on(*LIMITS)
def test_the_limits_that_the_servers_get(database_url: str) -> None:
    """They are those of one statement: nothing is left for whom a pooler gives the session."""
    table = Images(database_url)
    backend = "mariadb" if table.backend == "mysql" else table.backend
    ((limit,),) = table._server.ask(LIMITS[backend])
    assert float(str(limit).removesuffix("s")) == QUERY_TIMEOUT < READ_TIMEOUT
    connection = table._server._connection
    with connection.cursor() as cursor:
        cursor.execute(LIMITS[backend])
        ((limit,),) = cursor.fetchall()
    assert float(limit) == 0


@on("postgresql")
def test_a_server_that_is_silent(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    monkeypatch.setattr(postgresql_module, "READ_TIMEOUT", 0.05)
    table = Images(database_url)
    with pytest.raises(DatabaseError, match=r"no answer within 0\.05 s"):
        table._execute(lambda server: server.ask("SELECT pg_sleep(600)"))
    assert not table._server.connected


@on("postgresql")
def test_no_prepared_statement_and_no_setting_is_left_to_others(
    images: GlanceImages, database_url: str
) -> None:
    image, table = new_id(), Images(database_url)
    images.insert(image)
    for _ in range(10):
        assert table.states([image]) == table.confirm_absent([image]) == {image: LIVE}
    assert table._server.ask("SELECT count(*) FROM pg_prepared_statements") == [("0",)]
    changed = (
        "SELECT count(*) FROM pg_settings WHERE source = 'session' AND name <> 'statement_timeout'"
    )
    before = "SELECT setting FROM pg_settings WHERE name = 'client_encoding'"
    assert table._server.ask(before) == [("UTF8",)]
    assert table._server.ask(changed) == [("0",)]


@on("mariadb", "postgresql")
def test_a_long_question_and_a_long_answer(images: GlanceImages, database_url: str) -> None:
    """Longer than what sockets hold."""
    ids = [f"{number:0500}" for number in range(4000)]
    table = Images(database_url)
    rows = table._server.state(ids)
    assert [row[0] for row in rows] == ids and {row[1] for row in rows} == {None}


# An answer states something on each id, or it is none


@pytest.mark.parametrize(
    "cut", [lambda rows: [], lambda rows: rows[:-1], lambda rows: rows[1:] + rows[-1:]]
)
def test_an_answer_without_a_row_for_an_id(
    monkeypatch: pytest.MonkeyPatch,
    images: GlanceImages,
    database_url: str,
    cut: Callable[[list[Row]], list[Row]],
) -> None:
    live, absent = new_id(), new_id()
    images.insert(live)
    table = Images(database_url)
    state = table._server.state
    monkeypatch.setattr(
        table._server, "state", lambda ids, *, causal: cut(state(ids, causal=causal))
    )
    with pytest.raises(DatabaseError, match=r"^incomplete answer: \d rows for 4 ids; .*limit"):
        table.confirm_absent([live, absent])


def test_an_answer_on_another_id(
    monkeypatch: pytest.MonkeyPatch, images: GlanceImages, database_url: str
) -> None:
    images.insert(new_id())
    table, asked, other = Images(database_url), "1" * 36, "2" * 36
    for row in [(other, None, None), (asked, other, 1), (None, None, None), (asked, b"1" * 36, 1)]:
        monkeypatch.setattr(
            table._server, "state", lambda ids, row=row, **_: [(*row, "SERIALIZABLE", 0)]
        )
        with pytest.raises(DatabaseError, match="asked for images by their ids"):
            table.confirm_absent([asked])


@pytest.mark.parametrize(
    "answer",
    [uuid.uuid4(), b"x" * 36, str(uuid.uuid4()), None],
    ids=["uuid", "bytes", "text", "none"],
)
def test_an_id_that_was_not_asked_for_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    table = Images("sqlite:////x")
    monkeypatch.setattr(table._server, "find", lambda ids: [(answer, 0, "SERIALIZABLE", None)])
    with pytest.raises(DatabaseError, match="asked for images by their ids"):
        table.states([new_id()])


def test_an_id_that_is_answered_twice_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    table, image = Images("sqlite:////x"), new_id()
    monkeypatch.setattr(table._server, "find", lambda ids: [(image, 0, "SERIALIZABLE", None)] * 2)
    with pytest.raises(DatabaseError, match="one id twice"):
        table.states([image])


@pytest.mark.parametrize("replica", [None, 1, True, "1", "unknown"])
def test_only_what_is_surely_no_replica_proves_absence(
    monkeypatch: pytest.MonkeyPatch, replica: object
) -> None:
    table, image = Images("sqlite:////x"), "1" * 36
    monkeypatch.setattr(table, "check", lambda: True)
    monkeypatch.setattr(
        table._server, "state", lambda ids, **_: [(image, None, None, "SERIALIZABLE", replica)]
    )
    assert table.confirm_absent([image]) == {image: UNKNOWN}


def scanned(table: Images, ids: list[str]) -> Callable[[], int]:
    """How many rows were read by scans so far; only of `table`'s own connection."""
    if table.backend == "mysql":
        counters = "SHOW SESSION STATUS WHERE variable_name IN ('Handler_read_next', "
        counters += "'Handler_read_rnd_next', 'Handler_read_first')"
        return lambda: sum(int(row[1]) for row in table._server.ask(counters))
    return lambda: 0


@pytest.mark.parametrize("connected", ["", "charset=utf8mb3", "charset=latin1"])
@pytest.mark.parametrize("stored", ["utf8mb3", "utf8mb4", "latin1"])
@on("mariadb")
def test_the_second_read_uses_the_index_for_any_character_sets(
    images: GlanceImages, database_url: str, stored: str, connected: str
) -> None:
    there = [new_id() for _ in range(5000)]
    images.insert(*there)
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE images CONVERT TO CHARACTER SET {stored}")
    engine.dispose()
    table = Images(f"{database_url}?{connected}")
    read = scanned(table, there)
    ids = there[:100] + [new_id() for _ in range(100)]
    before = read()
    table._server.state(ids)
    # the list of ids itself is read as a table, and so are the counters
    assert read() - before < 1000


@on("postgresql", "sqlite")
def test_the_second_read_uses_the_index(
    monkeypatch: pytest.MonkeyPatch, images: GlanceImages, database_url: str
) -> None:
    there = [new_id() for _ in range(5000)]
    images.insert(*there)
    table = Images(database_url)
    ask, plans = table._server.ask, []

    def explain(sql: str, parameters: Sequence[str] = ()) -> list[Row]:
        how = "EXPLAIN QUERY PLAN " if table.backend == "sqlite" else "EXPLAIN "
        plans.append(str(ask(how + sql, parameters)))
        return ask(sql, parameters)

    if table.backend == "postgresql":
        engine = sa.create_engine(database_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("VACUUM ANALYZE images")
        engine.dispose()
    monkeypatch.setattr(table._server, "ask", explain)
    table._server.state([*there[:10], new_id()])
    index = {"postgresql": "using images_pkey on images", "sqlite": "SEARCH images USING"}
    assert index[table.backend] in plans[0] and "SCAN images" not in plans[0].upper()


# Isolation


@pytest.mark.parametrize("read", [Images.states, Images.confirm_absent])
def test_an_answer_at_a_level_that_shows_what_is_not_committed(
    monkeypatch: pytest.MonkeyPatch,
    images: GlanceImages,
    database_url: str,
    read: Callable[[Images, list[str]], dict[str, ImageState]],
) -> None:
    deleted, table = new_id(), Images(database_url)
    images.insert(deleted, deleted=True)
    for level in ("READ-UNCOMMITTED", "", "chaos"):
        if table.backend == "postgresql" and level == "READ-UNCOMMITTED":
            continue  # only a name there
        monkeypatch.setattr(table._server, "isolation", f"'{level}'")
        with pytest.raises(DatabaseError, match=f"at isolation level {level}, which may show"):
            read(table, [deleted])
    for level in ("read-committed", "REPEATABLE READ", "SERIALIZABLE"):
        monkeypatch.setattr(table._server, "isolation", f"'{level}'")
        assert read(table, [deleted]) == {deleted: DELETED}


@on("mariadb")
@pytest.mark.parametrize(
    "parameter",
    ["", "init_command=SET%20SESSION%20TRANSACTION%20ISOLATION%20LEVEL%20READ%20UNCOMMITTED"],
)
def test_nothing_uncommitted_counts_with_any_url(
    images: GlanceImages, database_url: str, parameter: str
) -> None:
    live = new_id()
    images.insert(live)
    table = Images(f"{database_url}?{parameter}")
    engine = sa.create_engine(database_url)
    with engine.connect() as other:
        other.exec_driver_sql("UPDATE images SET deleted = 1")
        assert table.states([live]) == table.confirm_absent([live]) == {live: LIVE}
        other.rollback()
    engine.dispose()


@on("mariadb")
def test_an_isolation_level_that_a_proxy_changed_later(
    images: GlanceImages, database_url: str
) -> None:
    live, table = new_id(), Images(database_url)
    images.insert(live)
    assert table.states([live]) == {live: LIVE}
    with table._server._connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
    with pytest.raises(DatabaseError, match="at isolation level READ-UNCOMMITTED"):
        table.states([live])
    assert table.states([live]) == {live: LIVE}, "by a new connection"


@on("mariadb")
@pytest.mark.parametrize("mode", ["EMPTY_STRING_IS_NULL", "ANSI_QUOTES", "ORACLE", "ANSI"])
def test_modes_of_sql(images: GlanceImages, database_url: str, mode: str) -> None:
    live, deleted, absent = new_id(), new_id(), new_id()
    images.insert(live)
    images.insert(deleted, deleted=True)
    table = Images(f"{database_url}?init_command=SET%20sql_mode%20%3D%20'{mode}'")
    expected = {live: LIVE, deleted: DELETED, absent: ABSENT}
    assert table.states(expected) == table.confirm_absent(expected) == expected


@pytest.mark.parametrize("options", ["use_unicode=0", "use_unicode=false&charset=utf8"])
@on("mariadb")
def test_ids_are_texts_with_any_url(images: GlanceImages, database_url: str, options: str) -> None:
    live = new_id()
    images.insert(live)
    table = Images(f"{database_url}?{options}")
    assert table.states([live]) == table.confirm_absent([live]) == {live: LIVE}


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_no_query_asks_for_more_ids_than_it_may(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    asked: list[list[str]] = []

    def find(ids: list[str]) -> list[Row]:
        asked.append(ids)
        return [(key, 0, "SERIALIZABLE", None) for key in ids]

    def state(ids: list[str], *, causal: bool) -> list[Row]:
        asked.append(ids)
        return [(key, key, 0, "SERIALIZABLE", 0) for key in ids]

    table = Images("sqlite://")
    monkeypatch.setattr(images_module, "IDS_PER_QUERY", size)
    monkeypatch.setattr(table._server, "find", find)
    monkeypatch.setattr(table._server, "state", state)
    ids = list("abcdefg")
    assert table.states(ids) == table.confirm_absent(ids) == dict.fromkeys(ids, LIVE)
    assert max(len(chunk) for chunk in asked) <= size
    assert sorted(key for chunk in asked for key in chunk) == sorted([*ids * 2, *"ABCDEFG"])


def test_a_connection_that_failed_is_not_asked_again(
    images: GlanceImages, database_url: str
) -> None:
    """Its answer might be that to an earlier question."""
    table, image = Images(database_url), new_id()
    images.insert(image)
    assert table.states([image]) == {image: LIVE}
    first = table._server._connection
    assert table.states([image]) == {image: LIVE}
    assert table._server._connection is first
    with pytest.raises(DatabaseError, match="nonsense"):
        table._execute(lambda server: server.ask("SELECT nonsense FROM images"))
    assert not table._server.connected
    assert table.states([image]) == {image: LIVE}


class Flaky(Server):
    """Connects and answers as it is set up."""

    def __init__(self, *errors: BaseException) -> None:
        super().__init__({})
        self.errors, self.connections, self.broken = list(errors), 0, False

    find = state = _among = _ask = lambda self, *_: []  # type: ignore[assignment]

    def ask(self, sql: str, parameters: Sequence[str] = ()) -> list[Row]:
        if self._connection is None:
            self._connection = self._connect()
        if self.errors:
            error = self.errors.pop(0)
            self.broken = "gone" in str(error)
            raise error
        return [("row",)]

    def lost(self) -> bool:
        return self.broken

    def _connect(self) -> object:
        self.connections += 1
        return self

    def _close(self, connection: object) -> None:
        pass


@pytest.mark.parametrize(
    ("used", "errors", "connections", "expected"),
    [
        (False, [], 1, None),
        (True, ["gone away"], 2, None),
        (True, ["locked"], 1, "locked"),
        (True, ["gone away", "refused"], 2, "refused"),
        (True, ["gone away", "gone again"], 2, "gone again"),
        (False, ["gone away"], 1, "gone away"),
    ],
)
def test_a_lost_connection_is_tried_once_more(
    used: bool, errors: list[str], connections: int, expected: str | None
) -> None:
    table = Images("sqlite://")
    server = Flaky(*([] if used else map(OSError, errors)))
    table._server = server
    if used:
        assert table.check()
        server.errors = [OSError(text) for text in errors]
    if expected is None:
        assert table.check()
    else:
        with pytest.raises(DatabaseError) as caught:
            table.check()
        assert str(caught.value) == expected
    assert server.connections == connections


def test_an_interrupt_is_no_fault_of_the_database() -> None:
    table = Images("sqlite://")
    table._server = server = Flaky()
    assert table.check()
    server.errors = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        table.check()
    assert not server.connected, "its next answer might be that to this query"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Exception("one\n  line\t"), "one line"),
        (Exception(1045, "Access denied"), "Access denied"),
        (Exception(1, 2, 3), "(1, 2, 3)"),
        (ValueError(), "ValueError"),
        (Exception("glance:p%/w@host"), "glance:***@host"),
        (Exception("glance:p%25%2Fw@host, p%/w"), "glance:***@host, ***"),
    ],
)
def test_an_error_is_one_line_without_secrets(error: Exception, expected: str) -> None:
    assert Images("mysql+pymysql://glance:p%25%2Fw@host/d")._one_line(error) == expected


@pytest.mark.parametrize("user", ["", "glance@", "glance:@"])
def test_without_a_password_there_is_no_secret(user: str) -> None:
    assert Images(f"mysql+pymysql://{user}host/d")._one_line(Exception("None X")) == "None X"


def test_closing_does_not_wait_for_a_query() -> None:
    table = Images("sqlite://")
    table._server.ask("SELECT 1")
    table._execute(lambda server: table.close())
    assert table._server.connected
    table.close()
    assert not table._server.connected
    assert table._execute(lambda server: server.ask("SELECT 1")) == [(1,)], "it may be asked again"


@pytest.mark.parametrize("kind", [MySQL, PostgreSQL, SQLite])
def test_a_close_before_any_connection(kind: type[Server]) -> None:
    kind({}).close()


def test_the_status_comes_with_the_row(images: GlanceImages, database_url: str) -> None:
    uploading, deleted, absent = new_id(), new_id(), new_id()
    images.insert(uploading, status="uploading")
    images.insert(deleted, deleted=True, status="deleted")
    assert Images(database_url).find({uploading, deleted, absent}) == {
        uploading: Found(LIVE, "uploading"),
        deleted: Found(DELETED, "deleted"),
        absent: Found(ABSENT, None),
    }


def test_without_a_column_for_the_status(tmp_path: Path) -> None:
    """As in a database whose user may read two columns; each connection finds out once."""
    database = sqlite3.connect(tmp_path / "x.sqlite", isolation_level=None)
    database.execute("CREATE TABLE images (id VARCHAR(36) PRIMARY KEY, deleted BOOLEAN)")
    live = new_id()
    database.execute("INSERT INTO images VALUES (?, 0)", (live,))
    table = Images(f"sqlite:///{tmp_path / 'x.sqlite'}")
    asked: list[str] = []
    table._server._connection = table._server._connect()
    table._server._connection.set_trace_callback(asked.append)
    for _ in range(2):
        assert table.find([live]) == {live: Found(LIVE, None)}
    assert ["images.status" in sql for sql in asked] == [False] * 2, "refused before it ran"
    database.execute("ALTER TABLE images ADD status VARCHAR(30) DEFAULT 'active'")
    assert table.find([live]) == {live: Found(LIVE, None)}
    table.close()
    assert table.find([live]) == {live: Found(LIVE, "active")}
