# SPDX-License-Identifier: Apache-2.0
"""Two private database servers, of which the second follows the first and can be made to lag."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from sqlalchemy.exc import DBAPIError

from .database import Database
from .mariadb import MariaDB
from .ports import LOOPBACK
from .postgresql import PostgreSQL
from .waiting import wait_for

FOLLOW_TIMEOUT = 60.0  # seconds

D = TypeVar("D", bound=Database)


class Pair(ABC, Generic[D]):
    """Two servers with the same content.

    :param directory: for all their files; it must exist
    """

    first: D
    """The one that Glance writes to."""

    second: D
    """The one that follows."""

    @abstractmethod
    def __init__(self, directory: Path) -> None: ...

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """Say what isn't installed, or None when all is there."""

    @abstractmethod
    def lag(self) -> None:
        """From now on the second server takes over nothing; it answers, and says no word of it."""

    @abstractmethod
    def follow(self) -> None:
        """Let it go on."""

    @contextmanager
    def lagging(self) -> Iterator[None]:
        """The second server lags as long as this lasts."""
        self.lag()
        try:
            yield
        finally:
            self.follow()

    def start(self) -> None:
        """Start the servers, and return when the second has what the first has."""
        self.first.start()
        self.second.start()

    def stop(self) -> None:
        """Stop both servers in order."""
        try:
            self.second.stop()
        finally:
            self.first.stop()

    def wait_shown(self, select: str, database: str) -> None:
        """Wait until a SELECT on the second server has a row."""

        def shown() -> bool:
            try:
                return bool(self.second.execute(select, database))
            except DBAPIError:  # the database or the table isn't there yet
                return False

        wait_for(shown, FOLLOW_TIMEOUT, f"a row for {select} on {self.second}")


class MariaDBReplica(MariaDB):
    """A server that takes over what another one has in its binary log."""

    def __init__(self, directory: Path, primary: MariaDB) -> None:
        super().__init__(directory, "--server-id=2", "--relay-log=relay", "--read-only")
        self._primary = primary

    def _fill(self) -> None:
        self.execute(
            f"CHANGE MASTER TO MASTER_HOST = '{LOOPBACK}', MASTER_PORT = {self._primary.port},"
            f" MASTER_USER = '{self.user}', MASTER_PASSWORD = '{self.password}',"
            " MASTER_USE_GTID = slave_pos"
        )
        self.execute("START SLAVE")


class MariaDBPair(Pair[MariaDB]):
    """A primary and its asynchronous replica."""

    def __init__(self, directory: Path) -> None:
        self.first = MariaDB(own(directory, "first"), "--server-id=1", "--log-bin=binlog")
        self.second = MariaDBReplica(own(directory, "second"), self.first)

    @classmethod
    def missing(cls) -> str | None:
        """Say what isn't installed, or None when all is there."""
        return MariaDB.missing()

    def lag(self) -> None:
        """Changes arrive, and wait."""
        self.second.execute("STOP SLAVE SQL_THREAD")

    def follow(self) -> None:
        """Take over what waits, and all that comes."""
        self.second.execute("START SLAVE SQL_THREAD")


class PostgreSQLStandby(PostgreSQL):
    """A hot standby."""

    def __init__(self, directory: Path, primary: PostgreSQL) -> None:
        super().__init__(directory, **_REPLICATED)
        self._primary = primary

    def _install(self) -> None:
        self._run(
            str(self._programs()[-1] / "pg_basebackup"),
            f"--host={LOOPBACK}",
            f"--port={self._primary.port}",
            f"--username={self.user}",
            f"--pgdata={self.data}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        )

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"PGPASSWORD": self.password}

    def _fill(self) -> None:
        """All it holds came with the copy, or follows."""


class PostgreSQLPair(Pair[PostgreSQL]):
    """A primary and its hot standby, by streaming replication."""

    def __init__(self, directory: Path) -> None:
        self.first = PostgreSQL(own(directory, "first"), **_REPLICATED)
        self.second = PostgreSQLStandby(own(directory, "second"), self.first)

    @classmethod
    def missing(cls) -> str | None:
        """Say what isn't installed, or None when all is there."""
        return PostgreSQL.missing()

    def lag(self) -> None:
        """Changes arrive, and wait."""
        self.second.execute("SELECT pg_wal_replay_pause()")
        state = "SELECT pg_get_wal_replay_pause_state()"
        wait_for(
            lambda: self.second.execute(state) == [("paused",)],
            FOLLOW_TIMEOUT,
            f"the pause of {self.second}",
        )

    def follow(self) -> None:
        """Take over what waits, and all that comes."""
        self.second.execute("SELECT pg_wal_replay_resume()")


_REPLICATED = {"wal_level": "replica", "max_wal_senders": 4}


def own(directory: Path, name: str) -> Path:
    """Make a directory for one of the servers."""
    made = directory / name
    made.mkdir()
    return made
