# SPDX-License-Identifier: Apache-2.0
"""What the private database servers have in common."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, NullPool, create_engine, text
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

    def url(self, database: str = "glance") -> str:
        """Return SQLAlchemy's URL of a database."""
        return f"{self.driver}://{self.user}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def create_database(self, name: str) -> None:
        """Create an empty database."""
        with self._connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))

    def start(self) -> None:
        """Start the server, as Server.start; the first time with the database ``glance``."""
        first = not self.data.exists()
        super().start()
        if first:
            self.create_database("glance")

    def _serving(self) -> bool:
        try:
            with self._connect():
                return True
        except OperationalError:
            return False

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        engine = create_engine(
            self.url(self.maintenance), poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            yield connection
