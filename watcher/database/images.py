# SPDX-License-Identifier: Apache-2.0
"""Glance's database: image ids → live, deleted or absent. Read only, one short query at a time."""

import enum
import re
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from watcher.database.replication import REPLICA, WSREP_ON, causal
from watcher.database.url import READ_TIMEOUT, connect_args, usable_url
from watcher.errors import ConfigError, DatabaseError

IDS_PER_QUERY = 1000

_BY_ID = "SELECT images.id, images.deleted FROM images WHERE images.id IN ({})"
# with a row of the server's own: whether it is a replica
_BY_ANY_CASE = (
    "SELECT images.id, images.deleted FROM images WHERE lower(images.id) IN ({{}})"
    " UNION ALL SELECT '', {replica}"
)
_ANY_ROW = "SELECT images.id FROM images LIMIT 1"

T = TypeVar("T")


class ImageState(enum.Enum):
    """What the database says of an image."""

    LIVE = "live"
    DELETED = "deleted"
    ABSENT = "absent"
    UNKNOWN = "unknown"  # absent from a replica, which may not have the row yet


def state_of(deleted: object) -> ImageState:
    """State that a row's ``deleted`` column tells; in doubt the image lives."""
    return ImageState.DELETED if deleted in (True, 1) else ImageState.LIVE


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
                connect_args=connect_args(usable),
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
        found = {row_id: state_of(deleted) for row_id, deleted in self._read(_BY_ID, ids)}
        return {key: found.get(key, ImageState.ABSENT) for key in ids}

    def confirm_absent(self, ids: Collection[str]) -> dict[str, ImageState]:
        """The second, separate read before anything of an absent image is removed.

        Ids are compared without regard to case, and a live row wins: no live image may look
        absent because of it. That reads the whole index of a large table, so it is only for the
        few absent ones. Nor because of lag: a Galera node catches up with its cluster before it
        answers, and what a replica doesn't have is unknown.

        :raises DatabaseError: also when the table has no row at all: most likely it is the
            wrong database
        """
        if not ids:
            return {}
        query = _BY_ANY_CASE.format(replica=REPLICA[self.backend])
        if self.in_galera():
            query = causal(query)
        found: dict[str, ImageState] = {}
        missing = ImageState.ABSENT
        for row_id, value in self._read(query, {key.lower() for key in ids}, more=("",)):
            if not row_id:
                missing = ImageState.UNKNOWN if value else missing
            elif found.get(row_id.lower()) is not ImageState.LIVE:
                found[row_id.lower()] = state_of(value)
        if not found and not self.check():
            raise DatabaseError(
                "the images table has no row at all; is [database] connection the right database?"
            )
        return {key: found.get(key.lower(), missing) for key in ids}

    def in_galera(self) -> bool:
        """Whether the server is a node of a Galera cluster.

        :raises DatabaseError: unreachable
        """
        if self.backend not in ("mysql", "mariadb"):
            return False
        return any(value == "ON" for _, value in self._execute(WSREP_ON, []))

    def check(self) -> bool:
        """Whether the table has any row.

        :raises DatabaseError: unreachable, or no ``images`` table
        """
        return bool(self._execute(_ANY_ROW, []))

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()

    def _read(
        self, query: str, ids: Collection[str], more: Collection[str] = ()
    ) -> Iterator[tuple[str, object]]:
        for chunk in _chunks(ids, IDS_PER_QUERY):
            marks = ", ".join([self._mark] * len(chunk))
            asked = {key.lower() for key in chunk}.union(more)
            for row_id, deleted in self._execute(query.format(marks), chunk):
                # An id that isn't recognized would make its live image look absent.
                if not isinstance(row_id, str) or row_id.lower() not in asked:
                    raise DatabaseError(
                        f"asked for images by their ids, it answers with {row_id!r:.50}; take "
                        "unusual options out of [database] connection"
                    )
                yield row_id, deleted

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
    from watcher.database.postgresql import connect  # noqa: PLC0415 - its driver may not be installed

    return connect(READ_TIMEOUT, *args, **parameters)


def _secrets(url: URL) -> set[str]:
    password = str(url.password) if url.password else ""
    return {text for text in (password, quote(password, safe="")) if text}


def _chunks(items: Collection[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
