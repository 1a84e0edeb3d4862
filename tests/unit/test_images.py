# SPDX-License-Identifier: Apache-2.0
import importlib.util
import socketserver
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from tests.services import Images as GlanceImages
from watcher.database import images as images_module
from watcher.database import url as databaseurl
from watcher.database.images import Images, ImageState
from watcher.database.replication import REPLICA
from watcher.database.url import connect_args, usable_url
from watcher.errors import ConfigError, DatabaseError

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


@pytest.mark.parametrize("stored", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("named", [str.lower, str.upper, str.title])
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
    assert table.states_in_any_case([name]) == {name: LIVE}


def test_a_deleted_image_of_other_case_says_nothing_of_this_one(
    images: GlanceImages, database_url: str
) -> None:
    """Its own row may lag; in the second read, past the grace, it would be there."""
    image = "abcdefab-cdef-4abc-8def-abcdefabcdef"
    images.insert(image, deleted=True)
    states = Images(database_url).states([image, image.upper()])
    assert states == {image: DELETED, image.upper(): ABSENT}
    assert Images(database_url).states_in_any_case([image.upper()]) == {image.upper(): DELETED}


def test_a_live_row_wins_over_one_of_other_case(images: GlanceImages, database_url: str) -> None:
    image = "abcdefab-cdef-4abc-8def-abcdefabcdef"
    images.insert(image)
    if "mysql" not in database_url:  # there the two are one key
        images.insert(image.upper(), deleted=True)
    assert Images(database_url).states_in_any_case([image]) == {image: LIVE}


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
        table.states_in_any_case([new_id()])
    images.insert(new_id(), deleted=True)
    assert table.check()
    image = new_id()
    assert table.states_in_any_case([image]) == {image: ABSENT}


@pytest.mark.parametrize("size", [1, 1000])
def test_what_a_replica_does_not_have_is_unknown(
    monkeypatch: pytest.MonkeyPatch, images: GlanceImages, database_url: str, size: int
) -> None:
    live, deleted, unknown = new_id(), new_id(), new_id()
    images.insert(live)
    images.insert(deleted, deleted=True)
    table = Images(database_url)
    monkeypatch.setattr(images_module, "IDS_PER_QUERY", size)
    monkeypatch.setitem(REPLICA, table.backend, "1 = 1")
    expected = {live: LIVE, deleted: DELETED, unknown: UNKNOWN}
    assert table.states_in_any_case(expected) == expected


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
@pytest.mark.parametrize(
    ("value", "replica"), [("0", 0), ("1", 1), ("'OFF'", 0), ("'ON'", 1), ("'NO_LOCK'", 1)]
)
def test_read_only_is_a_number_or_a_word(database_url: str, value: str, replica: int) -> None:
    expression = REPLICA["mysql"].replace("@@global.read_only", value)
    assert Images(database_url)._execute(f"SELECT {expression}", []) == [(replica,)]


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
@pytest.mark.parametrize("answer", [[("wsrep_on", "ON")], [("wsrep_on", "OFF")], []])
def test_only_a_galera_node_is_asked_to_catch_up(
    monkeypatch: pytest.MonkeyPatch,
    images: GlanceImages,
    database_url: str,
    answer: list[tuple[str, str]],
) -> None:
    asked: list[str] = []
    table, live, absent = Images(database_url), new_id(), new_id()
    images.insert(live)
    execute = table._execute

    def note(query: str, parameters: list[str]) -> list[Any]:
        asked.append(query)
        return answer if "wsrep_on" in query else execute(query, parameters)

    monkeypatch.setattr(table, "_execute", note)
    assert table.states([live, absent]) == {live: LIVE, absent: ABSENT}
    assert len(asked) == 1 and "wsrep" not in asked[0]
    assert table.states_in_any_case([live, absent]) == {live: LIVE, absent: ABSENT}
    assert len(asked) == 3
    assert ("wsrep_sync_wait = 1" in asked[2]) == (answer == [("wsrep_on", "ON")])
    assert table.states_in_any_case([]) == {} and len(asked) == 3


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


@pytest.mark.parametrize("server", ["mariadb", "postgresql"])
def test_an_unreachable_database_gives_no_secret_away(server: str) -> None:
    scheme = {"mariadb": "mysql+pymysql", "postgresql": "postgresql+psycopg"}[server]
    with pytest.raises(DatabaseError) as caught:
        Images(f"{scheme}://glance:s3cr3t@127.0.0.1:1/glance").check()
    assert "127.0.0.1" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)


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


def test_the_limits_that_the_servers_are_told(images: GlanceImages, database_url: str) -> None:
    show = {
        "mysql": "SELECT @@lock_wait_timeout, @@max_statement_time",
        "postgresql": "SELECT current_setting('lock_timeout'), "
        "current_setting('statement_timeout')",
    }
    backend = usable_url(database_url).get_backend_name()
    if backend in show:
        with Images(database_url)._engine.connect() as connection:
            row = connection.exec_driver_sql(show[backend]).one()
        limits = [float(str(value).removesuffix("s")) for value in row]
        assert limits == [databaseurl.LOCK_TIMEOUT, databaseurl.QUERY_TIMEOUT]
    assert databaseurl.QUERY_TIMEOUT < databaseurl.READ_TIMEOUT


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql+pymysql://u@h/d", "mysql+pymysql://u@h/d"),
        ("mysql://u@h/d", "mysql+pymysql://u@h/d"),
        ("mysql+nosuchdriver://u@h/d", "mysql+pymysql://u@h/d"),
        (
            "mysql+pymysql://u@h/d?charset=utf8&plugin=dbcounter",
            "mysql+pymysql://u@h/d?charset=utf8",
        ),
        ("mariadb://u@h/d", "mariadb+pymysql://u@h/d"),
        ("postgresql://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+nosuchdriver://u@h/d", "postgresql+psycopg://u@h/d"),
    ],
)
def test_usable_url(url: str, expected: str) -> None:
    assert usable_url(url).render_as_string() == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "can't be parsed"),
        ("not a url s3cr3t", "can't be parsed"),
        ("mysql://glance:s3cr3t@host:port/glance", "can't be parsed"),
        ("oracle://glance:s3cr3t@host/glance", "unknown scheme 'oracle'"),
        ("s3cr3t://host/glance", "unknown scheme"),
    ],
)
def test_a_bad_url_is_one_line(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        Images(url)
    assert "\n" not in str(caught.value)
    assert ":s3cr3t@" not in str(caught.value)


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databaseurl, "_installed", lambda driver: False)
    with pytest.raises(ConfigError, match=r"pip install glance-staging-watcher\[postgresql\]"):
        usable_url("postgresql://u@h/d")
    with pytest.raises(ConfigError, match=r"pip install glance-staging-watcher\[mysql\]"):
        usable_url("mysql://u@h/d")


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("mysql+mysqlconnector://u@h/d", "pymysql"),  # doesn't tell of a lost connection
        ("mysql+aiomysql://u@h/d", "pymysql"),
        ("postgresql+pg8000://u@h/d", "psycopg"),  # takes none of our time limits
        ("postgresql+asyncpg://u@h/d", "psycopg"),
        ("sqlite+aiosqlite:////x", "pysqlite"),
    ],
)
def test_a_driver_of_another_kind_gives_way(
    monkeypatch: pytest.MonkeyPatch, url: str, driver: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert usable_url(url).get_driver_name() == driver


@pytest.mark.parametrize("options", ["use_unicode=0", "use_unicode=false&charset=utf8"])
@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_ids_as_bytes_are_no_answer(images: GlanceImages, database_url: str, options: str) -> None:
    live = new_id()
    images.insert(live)
    url, _, more = database_url.partition("?")
    table = Images(f"{url}?{options}" + (f"&{more}" if more else ""))
    for ask in (table.states, table.states_in_any_case):
        with pytest.raises(DatabaseError, match="it answers with b'"):
            ask([live])


@pytest.mark.parametrize(
    "answer",
    [uuid.uuid4(), b"x" * 36, str(uuid.uuid4()), None],
    ids=["uuid", "bytes", "text", "none"],
)
def test_an_id_that_was_not_asked_for_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    table = Images("sqlite:////x")
    monkeypatch.setattr(table, "_execute", lambda query, parameters: [(answer, 0)])
    with pytest.raises(DatabaseError, match="asked for images by their ids"):
        table.states([new_id()])


def test_the_urls_own_time_limits_stay() -> None:
    url = usable_url("mysql+pymysql://u@h/d?connect_timeout=3")
    limits = connect_args(url)
    assert "connect_timeout" not in limits
    assert limits["read_timeout"] == databaseurl.READ_TIMEOUT


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_no_query_asks_for_more_ids_than_it_may(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    asked: list[list[str]] = []

    def note(query: object, parameters: list[str]) -> list[tuple[str, int]]:
        asked.append(parameters)
        return [(key, 0) for key in parameters]

    table = Images("sqlite://")
    monkeypatch.setattr(images_module, "IDS_PER_QUERY", size)
    monkeypatch.setattr(table, "_execute", note)
    ids = list("abcdefg")
    assert table.states(ids) == table.states_in_any_case(ids) == dict.fromkeys(ids, LIVE)
    assert max(len(chunk) for chunk in asked) <= size
    assert sorted(key for chunk in asked for key in chunk) == sorted(ids * 2)


def test_a_connection_that_failed_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, images: GlanceImages, database_url: str
) -> None:
    """Its answer might be that to an earlier question."""
    opened: list[object] = []
    table, image = Images(database_url), new_id()
    sa.event.listen(table._engine, "connect", lambda connection, _: opened.append(connection))
    images.insert(image)
    assert table.states([image]) == table.states([image]) == {image: LIVE}
    assert len(opened) == 1
    with monkeypatch.context() as patched:
        patched.setattr(images_module, "_BY_ID", "SELECT nonsense FROM images WHERE id IN ({})")
        with pytest.raises(DatabaseError, match="nonsense"):
            table.states([image])
    assert table.states([image]) == {image: LIVE}
    assert len(opened) == 2


def driver_error(*args: object, lost: bool = False) -> DBAPIError:
    return OperationalError("SELECT", {}, Exception(*args), connection_invalidated=lost)


@pytest.mark.parametrize(
    ("errors", "tries", "expected"),
    [
        ([], 1, None),
        ([driver_error("server has gone away", lost=True)], 2, None),
        ([driver_error("locked")], 1, "locked"),
        ([driver_error("gone", lost=True), driver_error("refused")], 2, "refused"),
        ([driver_error("gone", lost=True), driver_error("again", lost=True)], 2, "again"),
        ([OSError("no route")], 1, "no route"),
    ],
)
def test_a_lost_connection_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch,
    errors: list[Exception],
    tries: int,
    expected: str | None,
) -> None:
    tried: list[tuple[object, ...]] = []

    def execute(*what: object) -> list[tuple[str]]:
        tried.append(what)
        if len(tried) <= len(errors):
            raise errors[len(tried) - 1]
        return [("row",)]

    table = Images("sqlite://")
    monkeypatch.setattr(table, "_execute_once", execute)
    if expected is None:
        assert table.check()
    else:
        with pytest.raises(DatabaseError) as caught:
            table.check()
        assert str(caught.value) == expected
    assert len(tried) == tries and len(set(map(str, tried))) == 1


class DiagnosedError(Exception):
    """An error as psycopg's: the first line apart, and the query below."""

    diag = SimpleNamespace(message_primary="no such table")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Exception("one\n  line\t"), "one line"),
        (Exception(1045, "Access denied"), "Access denied"),
        (Exception(1, 2, 3), "(1, 2, 3)"),
        (DiagnosedError("no such table\nLINE 1: SELECT"), "no such table"),
        (ValueError(), "ValueError"),
        (OperationalError("SELECT", {}, Exception(2003, "refused")), "refused"),
        (OperationalError("SELECT", {}, DiagnosedError("x")), "no such table"),
        (Exception("glance:p%/w@host"), "glance:***@host"),
        (Exception("glance:p%25%2Fw@host, p%/w"), "glance:***@host, ***"),
    ],
)
def test_an_error_is_one_line_without_secrets(error: Exception, expected: str) -> None:
    assert Images("mysql+pymysql://glance:p%25%2Fw@host/d")._one_line(error) == expected


@pytest.mark.parametrize("user", ["", "glance@", "glance:@"])
def test_without_a_password_there_is_no_secret(user: str) -> None:
    assert Images(f"mysql+pymysql://{user}host/d")._one_line(Exception("None X")) == "None X"
