# SPDX-License-Identifier: Apache-2.0
"""Glance's database: image ids → live, deleted or absent. Read only, one short SELECT at a time."""

import enum
import importlib.util
import os
import re
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from watcher.conf import ConfigError

CONNECT_TIMEOUT = 10  # seconds
# Seconds; an answer by primary key takes milliseconds, the second read of a million rows a few
# seconds. The server gives up first, lest a query that waits there for a lock outlive its client.
LOCK_TIMEOUT = 5
QUERY_TIMEOUT = 10
READ_TIMEOUT = 12
IDS_PER_QUERY = 1000

# MariaDB and MySQL know different names for the second limit; each skips the other's comment.
_MYSQL_LIMITS = (
    f"SET SESSION lock_wait_timeout = {LOCK_TIMEOUT}"
    f" /*M!100101 , max_statement_time = {QUERY_TIMEOUT} */"
    f" /*!50708 , max_execution_time = {QUERY_TIMEOUT * 1000} */"
)
_POSTGRESQL_LIMITS = (
    f"-c lock_timeout={LOCK_TIMEOUT * 1000} -c statement_timeout={QUERY_TIMEOUT * 1000}"
)

# The drivers that our extras bring, for a URL whose own driver isn't installed here, or isn't one
# of those that take our time limits and tell of a lost connection.
_DRIVERS = {"mysql": "pymysql", "mariadb": "pymysql", "postgresql": "psycopg", "sqlite": "pysqlite"}
_MODULES = {
    "pymysql": "pymysql",
    "mysqldb": "MySQLdb",
    "psycopg": "psycopg",
    "psycopg2": "psycopg2",
    "pysqlite": "sqlite3",
}

_BY_ID = "SELECT images.id, images.deleted FROM images WHERE images.id IN ({})"
_BY_ANY_CASE = "SELECT images.id, images.deleted FROM images WHERE lower(images.id) IN ({})"
_ANY_ROW = "SELECT images.id FROM images LIMIT 1"

T = TypeVar("T")


class ImageState(enum.Enum):
    """What the database says of an image."""

    LIVE = "live"
    DELETED = "deleted"
    ABSENT = "absent"


class DatabaseError(Exception):
    """The database can't tell; the text is one line without secrets."""


def state_of(deleted: object) -> ImageState:
    """State that a row's ``deleted`` column tells; in doubt the image lives."""
    return ImageState.DELETED if deleted in (True, 1) else ImageState.LIVE


def usable_url(url: str) -> URL:
    """The URL of Glance's file, made ready for this process.

    A driver that isn't installed gives way to the one of our extras, SQLite is kept from making
    an empty database where none is, and SQLAlchemy plugins (profilers) are dropped.

    :raises ConfigError: it can't be parsed, or no driver for it is installed
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (SQLAlchemyError, ValueError):
        raise ConfigError(
            "[database] connection can't be parsed; expected "
            "dialect+driver://user:password@host/database"
        ) from None
    if backend not in _DRIVERS:
        raise ConfigError(
            f"[database] connection has the unknown scheme {backend!r}; "
            "expected mysql, postgresql or sqlite"
        )
    driver = parsed.drivername.partition("+")[2]
    if not driver or not _installed(driver):
        driver = _DRIVERS[backend]
    if not _installed(driver):
        extra = "postgresql" if backend == "postgresql" else "mysql"
        raise ConfigError(
            f"No database driver for {backend} is installed; "
            f"pip install glance-staging-watcher[{extra}]"
        )
    parsed = parsed.set(drivername=f"{backend}+{driver}").difference_update_query(["plugin"])
    if backend == "sqlite" and parsed.database and not parsed.database.startswith("file:"):
        path = quote(os.path.abspath(parsed.database))
        parsed = parsed.set(database=f"file:{path}")
        parsed = parsed.update_query_dict({"mode": "rw", "uri": "true"})
    return parsed


def _installed(driver: str) -> bool:
    return driver in _MODULES and importlib.util.find_spec(_MODULES[driver]) is not None


def _connect_args(url: URL) -> dict[str, Any]:
    """Time limits, as the driver spells them; what the URL sets itself stays."""
    if url.get_backend_name() in ("mysql", "mariadb"):
        limits: dict[str, Any] = {
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": READ_TIMEOUT,
            "write_timeout": READ_TIMEOUT,
            "init_command": _MYSQL_LIMITS,
        }
    elif url.get_backend_name() == "postgresql":
        limits = {
            "connect_timeout": CONNECT_TIMEOUT,
            "tcp_user_timeout": READ_TIMEOUT * 1000,
            "options": _POSTGRESQL_LIMITS,
        }
    else:
        limits = {"timeout": CONNECT_TIMEOUT}
    return {name: value for name, value in limits.items() if name not in url.query}


class Images:
    """The ``images`` table of one Glance.

    :param url: ``[database] connection``
    :raises ConfigError: the URL can't be used
    """

    def __init__(self, url: str) -> None:
        usable = usable_url(url)
        self.backend = usable.get_backend_name()
        self._secrets = _secrets(usable)
        try:
            # AUTOCOMMIT: each SELECT sees what is committed now, never an older snapshot.
            self._engine = sa.create_engine(
                usable,
                isolation_level="AUTOCOMMIT",
                pool_size=1,
                max_overflow=0,
                poolclass=sa.QueuePool,
                skip_autocommit_rollback=True,  # a round trip after each SELECT, for nothing
                connect_args=_connect_args(usable),
            )
        except (SQLAlchemyError, ImportError, TypeError) as error:
            raise ConfigError(
                f"[database] connection can't be used: {self._one_line(error)}"
            ) from None
        self._mark = "?" if self._engine.dialect.paramstyle == "qmark" else "%s"
        if usable.get_driver_name() == "psycopg":
            sa.event.listen(self._engine, "do_connect", _connect_impatiently)

    def states(self, ids: Collection[str]) -> dict[str, ImageState]:
        """State of each id, by the row of exactly that id.

        :raises DatabaseError: nothing is known then
        """
        found = dict(self._read(_BY_ID, ids))
        return {key: found.get(key, ImageState.ABSENT) for key in ids}

    def states_in_any_case(self, ids: Collection[str]) -> dict[str, ImageState]:
        """The second, separate read before anything of an absent image is removed.

        Ids are compared without regard to case, and a live row wins: no live image may look
        absent because of it. That reads the whole index of a large table, so it is only for the
        few absent ones.

        :raises DatabaseError: also when the table has no row at all: most likely it is the
            wrong database
        """
        found: dict[str, ImageState] = {}
        for row_id, state in self._read(_BY_ANY_CASE, {key.lower() for key in ids}):
            if found.get(row_id.lower()) is not ImageState.LIVE:
                found[row_id.lower()] = state
        if ids and not found and not self.check():
            raise DatabaseError(
                "the images table has no row at all; is [database] connection the right database?"
            )
        return {key: found.get(key.lower(), ImageState.ABSENT) for key in ids}

    def check(self) -> bool:
        """Whether the table has any row.

        :raises DatabaseError: unreachable, or no ``images`` table
        """
        return bool(self._execute(_ANY_ROW, []))

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()

    def _read(self, query: str, ids: Collection[str]) -> Iterator[tuple[str, ImageState]]:
        for chunk in _chunks(ids, IDS_PER_QUERY):
            marks = ", ".join([self._mark] * len(chunk))
            asked = {key.lower() for key in chunk}
            for row_id, deleted in self._execute(query.format(marks), chunk):
                # An id that isn't recognized would make its live image look absent.
                if not isinstance(row_id, str) or row_id.lower() not in asked:
                    raise DatabaseError(
                        f"asked for images by their ids, it answers with {row_id!r:.50}; take "
                        "unusual options out of [database] connection"
                    )
                yield row_id, state_of(deleted)

    def _execute(self, query: str, parameters: list[str]) -> list[Any]:
        try:
            try:
                return self._execute_once(query, parameters)
            except DBAPIError as error:
                # The server closed the idle connection: a second try gets a new one. Cheaper
                # than a ping before each of the queries that wait on a notification.
                if not error.connection_invalidated:
                    raise
                return self._execute_once(query, parameters)
        except Exception as error:  # noqa: BLE001 - not all that drivers raise is of DB-API
            raise DatabaseError(self._one_line(error)) from None

    def _execute_once(self, query: str, parameters: list[str]) -> list[Any]:
        # By the driver's own cursor: the way through SQLAlchemy's takes as long as the answer.
        connection = self._engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute(query, parameters)
            return list(cursor.fetchall())
        except BaseException as error:
            lost = self._is_lost(error, connection)
            connection.invalidate(error)  # nobody knows what it would answer to the next question
            if lost:
                raise DBAPIError(query, None, error, connection_invalidated=True) from None
            raise
        finally:
            connection.close()

    def _is_lost(self, error: BaseException, connection: sa.PoolProxiedConnection) -> bool:
        dialect = self._engine.dialect
        driver_error = dialect.loaded_dbapi.Error
        return isinstance(error, driver_error) and dialect.is_disconnect(error, connection, None)

    def _one_line(self, error: BaseException) -> str:
        cause = getattr(error, "orig", None) or error
        # PyMySQL's errors are (number, text); PostgreSQL's quote the query below the message
        text = str(cause.args[1] if len(cause.args) == 2 else cause)
        text = getattr(getattr(cause, "diag", None), "message_primary", None) or text
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return re.sub(r"\s+", " ", text).strip() or type(cause).__name__


def _connect_impatiently(
    dialect: object, record: object, args: list[Any], parameters: dict[str, Any]
) -> object:
    from watcher.postgresql import connect  # noqa: PLC0415 - its driver may not be installed

    return connect(READ_TIMEOUT, *args, **parameters)


def _secrets(url: URL) -> set[str]:
    password = str(url.password) if url.password else ""
    return {text for text in (password, quote(password, safe="")) if text}


def _chunks(items: Collection[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
