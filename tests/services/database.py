# SPDX-License-Identifier: Apache-2.0
"""What the private database servers have in common."""

import re
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.exc import OperationalError

from .ports import LOOPBACK
from .server import Server


class Database(Server):
    """A database server with the user ``glance`` and an empty database ``glance``."""

    user = "glance"
    password = "s3cr3t-database"

    driver: str
    """The dialect and driver of the server's URLs."""

    maintenance: str
    """The database which is always there."""

    @property
    def version(self) -> str:
        """See `Server`."""
        ((text,),) = self.execute("SELECT version()")
        found = re.search(r"\d+(\.\d+)+", text)
        assert found is not None
        return found[0]

    def url(self, database: str = "glance", user: str = user, password: str = password) -> str:
        """Return SQLAlchemy's URL of a database."""
        return f"{self.driver}://{user}:{password}@{LOOPBACK}:{self.port}/{database}"

    def create_database(self, name: str) -> None:
        """Create an empty database."""
        self.execute(f"CREATE DATABASE {name}")

    @abstractmethod
    def add_reader(self, name: str, password: str, database: str) -> None:
        """Add a user who may do nothing but read the images of a database."""

    @abstractmethod
    def set_password(self, name: str, password: str) -> None:
        """Give a user another password."""

    @abstractmethod
    def sessions(self, database: str) -> list[int]:
        """Return the server's ids of the connections to a database."""

    @abstractmethod
    def end_session(self, session: int) -> None:
        """Have the server close a connection, by its id."""

    def execute(self, statement: str, database: str | None = None) -> list[Any]:
        """Execute a statement in a database; return its rows, if it has any."""
        with self._connect(database) as connection:
            result = connection.exec_driver_sql(statement)
            return list(result) if result.returns_rows else []

    def start(self) -> None:
        """Start the server, as Server.start; the first time with the database ``glance``."""
        first = not self.data.exists()
        super().start()
        if first:
            self._fill()

    def _fill(self) -> None:
        """Give a new server what it holds."""
        self.create_database("glance")

    def _serving(self) -> bool:
        try:
            with self._connect():
                return True
        except OperationalError:
            return False

    @contextmanager
    def _connect(self, database: str | None = None) -> Iterator[Connection]:
        engine = create_engine(
            self.url(database or self.maintenance),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
        )
        with engine.connect() as connection:
            yield connection
