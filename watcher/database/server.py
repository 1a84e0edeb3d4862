# SPDX-License-Identifier: Apache-2.0
"""What each kind of database server is asked, and how."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

CONNECT_TIMEOUT = 10  # seconds
# Seconds; an answer by primary key takes milliseconds. The server gives up first, so that a query
# that waits there for a lock doesn't outlive its client.
QUERY_TIMEOUT = 10
READ_TIMEOUT = 12

Row = tuple[Any, ...]


class Server(ABC):
    """One connection to a server, made when the first query needs it.

    :param arguments: of the driver's ``connect``
    """

    #: SQL expression: true on a read-only replica
    replica: str
    #: SQL expression: the isolation level at which the query around it reads
    isolation: str
    #: levels that never show what isn't committed
    safe_levels = frozenset({"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"})

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self._connection: Any = None
        # whether the column may be read, as far as this connection has shown
        self._reads_status = True

    @property
    def connected(self) -> bool:
        """Whether there is a connection, which may be broken."""
        return self._connection is not None

    def ask(self, sql: str, parameters: Sequence[str] = ()) -> list[Row]:
        """Rows of the answer to one statement, within a time limit."""
        if self._connection is None:
            self._connection = self._connect()
        return self._ask(sql, parameters)

    def find(self, ids: Sequence[str]) -> list[Row]:
        """Images that have a row: ``(id, deleted, isolation level, status)`` each.

        The status is for operators; it is None where the user may read ``id`` and ``deleted`` only.
        """
        if self._reads_status:
            try:
                return self._find(ids, "images.status")
            except Exception as error:
                if not self._refuses_column(error):
                    raise
                self._reads_status = False
        return self._find(ids, "NULL")

    @abstractmethod
    def state(self, ids: Sequence[str], *, causal: bool = False) -> list[Row]:
        """One row for each id asked for, with NULL where there is no image:
        ``(id asked for, id, deleted, isolation level, is it a replica)``.

        :param causal: a Galera node answers once it has caught up with its cluster
        """

    def in_galera(self) -> bool:
        """Whether the server is a node of a Galera cluster."""
        return False

    def can_wait(self) -> bool:
        """Whether one SELECT can be made to wait until a Galera node has caught up."""
        return False

    def lost(self) -> bool:
        """Whether the connection broke, as far as the client knows."""
        return False

    def close(self) -> None:
        """Close the connection; the next query makes a new one."""
        connection, self._connection = self._connection, None
        self._reads_status = True
        if connection is not None:
            self._close(connection)

    def _find(self, ids: Sequence[str], status: str) -> list[Row]:
        among, parameters = self._among(ids)
        return self.ask(
            f"SELECT images.id, images.deleted, {self.isolation}, {status} FROM images"  # noqa: S608
            f" WHERE images.id {among}",
            parameters,
        )

    @abstractmethod
    def _among(self, ids: Sequence[str]) -> tuple[str, Sequence[str]]:
        """What follows a column that is one of these ids, and its parameters."""

    def _refuses_column(self, error: Exception) -> bool:
        """Whether a column of the statement is missing, or may not be read."""
        return False

    @abstractmethod
    def _connect(self) -> Any: ...

    @abstractmethod
    def _ask(self, sql: str, parameters: Sequence[str]) -> list[Row]: ...

    def _close(self, connection: Any) -> None:
        connection.close()
