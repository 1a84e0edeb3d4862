# SPDX-License-Identifier: Apache-2.0
"""SQLite, by Python's own driver."""

import sqlite3
from collections.abc import Sequence

from watcher.database.server import CONNECT_TIMEOUT, Row, Server


class SQLite(Server):
    """A database in a file."""

    replica = "0"
    isolation = "'SERIALIZABLE'"

    def _among(self, ids: Sequence[str]) -> tuple[str, Sequence[str]]:
        return f"IN ({', '.join('?' * len(ids))})", ids

    def _refuses_column(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.OperationalError) and "no such column" in str(error)

    def state(self, ids: Sequence[str], *, causal: bool = False) -> list[Row]:
        """See `Server`."""
        return self.ask(
            f"WITH asked(id) AS (VALUES {', '.join(['(?)'] * len(ids))})"  # noqa: S608
            f" SELECT asked.id, images.id, images.deleted, {self.isolation}, {self.replica}"
            " FROM asked LEFT JOIN images ON images.id = asked.id",
            ids,
        )

    def _connect(self) -> sqlite3.Connection:
        arguments = {"timeout": CONNECT_TIMEOUT, "isolation_level": None} | self._arguments
        return sqlite3.connect(**arguments)

    def _ask(self, sql: str, parameters: Sequence[str]) -> list[Row]:
        return list(self._connection.execute(sql, parameters))
