# SPDX-License-Identifier: Apache-2.0
"""A private MariaDB server."""

import shutil
from pathlib import Path

from .database import Database
from .ports import LOOPBACK


class MariaDB(Database):
    """A MariaDB server; see Server and Database.

    :param options: more options of mariadbd
    """

    account = "mysql"
    driver = "mysql+pymysql"
    maintenance = "mysql"

    # Small and without fsync, but all that is committed survives the end of the process.
    _options = (
        "--innodb-flush-method=nosync",
        "--innodb-flush-log-at-trx-commit=2",
        "--innodb-doublewrite=0",
        "--innodb-log-file-size=4M",
        "--innodb-buffer-pool-size=16M",
        "--key-buffer-size=1M",
        "--aria-pagecache-buffer-size=1M",
        "--performance-schema=0",
        "--skip-log-bin",
    )

    def __init__(self, directory: Path, *options: str) -> None:
        super().__init__(directory)
        self._more_options = options

    @classmethod
    def missing(cls) -> str | None:
        """Say which program isn't installed, or None when all are there."""
        for program in ("mariadbd", "mariadb-install-db"):
            if not shutil.which(program, path="/usr/sbin:/usr/bin"):
                return f"{program} is not installed"
        return None

    def add_reader(self, name: str, password: str, database: str) -> None:
        """Add a user who may do nothing but read the images of a database."""
        self.execute(f"CREATE USER {name} IDENTIFIED BY '{password}'")
        self.execute(f"GRANT SELECT ON {database}.images TO {name}")

    def set_password(self, name: str, password: str) -> None:
        """Give a user another password."""
        self.execute(f"ALTER USER {name} IDENTIFIED BY '{password}'")

    def sessions(self, database: str) -> list[int]:
        """Return the server's ids of the connections to a database."""
        listing = "SELECT id FROM information_schema.processlist"
        return [row[0] for row in self.execute(f"{listing} WHERE db = '{database}'")]

    def end_session(self, session: int) -> None:
        """Have the server close a connection, by its id."""
        self.execute(f"KILL {session}")

    def _prepare(self) -> None:
        super()._prepare()
        self._install()
        (self.directory / "init.sql").write_text(
            f"CREATE USER IF NOT EXISTS {self.user} IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO {self.user} WITH GRANT OPTION;\n"
        )

    def _install(self) -> None:
        self._run(
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={self.data}",
            "--skip-test-db",
            *self._options,
        )

    def _command(self) -> list[str]:
        return [
            "mariadbd",
            "--no-defaults",
            f"--datadir={self.data}",
            f"--bind-address={LOOPBACK}",
            f"--port={self.port}",
            "--socket=",
            f"--pid-file={self.data / 'pid'}",
            f"--init-file={self.directory / 'init.sql'}",
            "--character-set-server=utf8mb4",
            "--skip-name-resolve",
            *self._options,
            *self._more_options,
        ]
