# SPDX-License-Identifier: Apache-2.0
"""A private PostgreSQL server."""

import signal
from pathlib import Path

from .database import Database
from .ports import LOOPBACK


class PostgreSQL(Database):
    """A PostgreSQL server; see Server and Database.

    :param settings: more of its configuration
    """

    account = "postgres"
    stop_signal = signal.SIGINT  # does not wait for its clients, as SIGTERM would
    driver = "postgresql+psycopg"
    maintenance = "postgres"

    def __init__(self, directory: Path, **settings: object) -> None:
        super().__init__(directory)
        self._settings = settings

    @classmethod
    def missing(cls) -> str | None:
        """Say which program isn't installed, or None when all are there."""
        return None if cls._programs() else "postgres is not installed"

    def add_reader(self, name: str, password: str, database: str) -> None:
        """Add a user who may do nothing but read the images of a database."""
        self.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        self.execute(f"GRANT SELECT ON images TO {name}", database)

    def set_password(self, name: str, password: str) -> None:
        """Give a user another password."""
        self.execute(f"ALTER ROLE {name} PASSWORD '{password}'")

    def sessions(self, database: str) -> list[int]:
        """Return the server's ids of the connections to a database."""
        listing = "SELECT pid FROM pg_stat_activity"
        return [row[0] for row in self.execute(f"{listing} WHERE datname = '{database}'")]

    def end_session(self, session: int) -> None:
        """Have the server close a connection, by its id."""
        self.execute(f"SELECT pg_terminate_backend({session})")

    @classmethod
    def _programs(cls) -> list[Path]:
        """Return the directories of the installed versions' programs."""
        return sorted(found.parent for found in Path("/usr/lib/postgresql").glob("*/bin/postgres"))

    def _prepare(self) -> None:
        super()._prepare()
        self._install()

    def _install(self) -> None:
        password = self.directory / "password"
        password.write_text(self.password)
        self._run(
            str(self._programs()[-1] / "initdb"),
            f"--pgdata={self.data}",
            f"--username={self.user}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--locale=C.UTF-8",
            "--encoding=UTF8",
            "--no-sync",
        )

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "16MB",
            "max_connections": 50,
            "max_wal_senders": 0,
            "wal_level": "minimal",
        } | self._settings
        options = [f"-c{name}={value}" for name, value in settings.items()]
        return [str(self._programs()[-1] / "postgres"), "-D", str(self.data), *options]
