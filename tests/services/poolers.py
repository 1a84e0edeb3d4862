# SPDX-License-Identifier: Apache-2.0
"""What stands between Glance and its database: PgBouncer and HAProxy."""

import shutil
import socket
from pathlib import Path

import sqlalchemy as sa

from .database import Database
from .ports import LOOPBACK
from .server import Server


class PgBouncer(Server):
    """A PgBouncer before a PostgreSQL server.

    :param settings: more of its configuration
    """

    account = "postgres"

    def __init__(self, directory: Path, target: Database, **settings: object) -> None:
        super().__init__(directory)
        self._target, self._settings = target, settings

    @classmethod
    def missing(cls) -> str | None:
        """Say which program isn't installed, or None when all are there."""
        return None if shutil.which("pgbouncer", path="/usr/sbin") else "pgbouncer is not installed"

    def url(self, database: str) -> str:
        """Return SQLAlchemy's URL of a database of the server behind."""
        return self._target.url(database).replace(f":{self._target.port}/", f":{self.port}/")

    def _command(self) -> list[str]:
        users = self.data / "users"
        users.write_text(f'"{self._target.user}" "{self._target.password}"\n')
        settings = {
            "listen_addr": LOOPBACK,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
        } | self._settings
        lines = [f"{name} = {value}" for name, value in settings.items()]
        target = f"* = host={LOOPBACK} port={self._target.port}"
        path = self.data / "pgbouncer.ini"
        path.write_text("\n".join(["[databases]", target, "[pgbouncer]", *lines, ""]))
        return ["/usr/sbin/pgbouncer", str(path)]

    def _serving(self) -> bool:
        engine = sa.create_engine(self.url(self._target.maintenance), poolclass=sa.NullPool)
        try:
            with engine.connect():
                return True
        except sa.exc.OperationalError:
            return False


class HAProxy(Server):
    """An HAProxy before a database server, which closes what idles for `idle` milliseconds."""

    def __init__(self, directory: Path, target: Database, idle: int) -> None:
        super().__init__(directory)
        self._target, self._idle = target, idle

    @classmethod
    def missing(cls) -> str | None:
        """Say which program isn't installed, or None when all are there."""
        return None if shutil.which("haproxy", path="/usr/sbin") else "haproxy is not installed"

    def url(self, database: str) -> str:
        """Return SQLAlchemy's URL of a database of the server behind."""
        return self._target.url(database).replace(f":{self._target.port}/", f":{self.port}/")

    def _command(self) -> list[str]:
        path = self.data / "haproxy.cfg"
        path.write_text(
            f"defaults\n mode tcp\n timeout connect 5s\n timeout client {self._idle}ms\n"
            f" timeout server {self._idle}ms\n"
            f"listen database\n bind {LOOPBACK}:{self.port}\n"
            f" server one {LOOPBACK}:{self._target.port}\n"
        )
        return ["/usr/sbin/haproxy", "-db", "-f", str(path)]

    def _serving(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((LOOPBACK, self.port)) == 0
