# SPDX-License-Identifier: Apache-2.0
"""Where it is measured: servers, Glance's tables, configurations, and processes of all subjects."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from tests.functional.program import Program
from tests.services import Database, Images, MariaDB, PostgreSQL, RabbitMQ, Server

ROOT = Path(__file__).resolve().parents[1]
FILE = os.urandom(4096)  # bytes of a staged file: enough for the removal to free a block

S = TypeVar("S", bound=Server)


class Cached(MariaDB):
    """MariaDB with its tables in memory, as a real one has."""

    def _command(self) -> list[str]:
        large = ["--innodb-buffer-pool-size=512M", "--innodb-log-file-size=96M"]
        return [*super()._command(), *large]


class Peer:
    """One of what the watcher is measured against, as a process."""

    def __init__(self, module: str, *arguments: str, log: Path) -> None:
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", f"benchmarks.peers.{module}", *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._log = log
        self.read()

    def ask(self, line: str) -> str:
        """Write a line, wait for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> str:
        """Wait for a line."""
        assert self.process.stdout is not None
        if not (answer := self.process.stdout.readline()):
            raise RuntimeError(f"{self.process.args!r} ended:\n{self._log.read_text()[-2000:]}")
        return answer.strip()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


class Site:
    """Everything below one temporary directory; started when it is wanted first.

    :param quick: fewer and smaller runs
    """

    def __init__(self, directory: Path, *, quick: bool) -> None:
        self.directory, self.quick = directory, quick
        self._servers: dict[type[Server], Server] = {}
        self._stack = ExitStack()
        self._count = 0

    def close(self) -> None:
        """End all that runs."""
        self._stack.close()

    def at_close(self, end: Callable[[], None]) -> None:
        """Have that called too."""
        self._stack.callback(end)

    def new_directory(self, what: str) -> Path:
        """An empty directory."""
        self._count += 1
        made = self.directory / f"{what}-{self._count}"
        made.mkdir()
        return made

    def server(self, kind: type[S]) -> S:
        """A running server of a kind, one for the whole run."""
        if kind not in self._servers:
            server = kind(self.new_directory(kind.__name__.lower()))
            self._stack.callback(server.stop)
            server.start()
            self._servers[kind] = server
        found = self._servers[kind]
        assert isinstance(found, kind)
        return found

    def database(self, kind: str) -> str:
        """URL of a new database with Glance's own tables: sqlite, mariadb or postgresql."""
        if kind == "sqlite":
            url = f"sqlite:///{self.new_directory('sqlite') / 'glance.sqlite'}"
        else:
            servers: dict[str, type[Database]] = {"mariadb": Cached, "postgresql": PostgreSQL}
            server = self.server(servers[kind])
            name = f"glance_{uuid.uuid4().hex[:8]}"
            server.create_database(name)
            url = server.url(name)
        script = (
            "import sys, sqlalchemy; from glance.db.sqlalchemy import models\n"
            "models.register_models(sqlalchemy.create_engine(sys.argv[1]))"
        )
        subprocess.run([sys.executable, "-W", "ignore", "-c", script, url], check=True)
        return url

    def images(self, url: str) -> Images:
        """Glance's images in a database."""
        made = Images(url)
        self._stack.callback(made.close)
        return made

    def vhost(self) -> str:
        """URL of a new virtual host of the broker: what is sent there goes nowhere else."""
        broker = self.server(RabbitMQ)
        return broker.url(vhost=broker.new_vhost())

    def configure(
        self, directory: Path, database: str, transport: str = "", watcher: str = ""
    ) -> Path:
        """A glance-api.conf for ``directory``/staging, which is made.

        :param watcher: more lines of ``[staging_watcher]``
        """
        (directory / "staging").mkdir(exist_ok=True)
        path = directory / "glance-api.conf"
        path.write_text(
            f"[DEFAULT]\nnode_staging_uri = file://{directory}/staging\n"
            + (f"transport_url = {transport}\n" if transport else "")
            + f"[database]\nconnection = {database}\n"
            "[oslo_messaging_notifications]\ndriver = messagingv2\n"
            f"[staging_watcher]\nnotifications = {bool(transport)}\n{watcher}\n"
        )
        return path

    def watcher(self, directory: Path) -> Program:
        """The installed program as a service, ready and listening."""
        config = directory / "glance-api.conf"
        program = Program(directory, "--config-file", str(config))
        self._stack.callback(program.kill)
        program.wait_ready()
        if "transport_url" in config.read_text():
            program.wait_for_line("Listening for notifications")
        return program

    def peer(self, module: str, *arguments: str) -> Peer:
        """Another subject, ready."""
        made = Peer(module, *arguments, log=self.directory / "peers.log")
        self._stack.callback(made.close)
        return made


def new_ids(count: int) -> list[str]:
    """Image ids."""
    return [str(uuid.uuid4()) for _ in range(count)]


def stage(directory: Path, names: Sequence[str], data: bytes = FILE) -> None:
    """Write those files that aren't there, and have their blocks on the disk."""
    present = set(os.listdir(directory))
    for name in names:
        if name not in present:
            held = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            if data:
                os.write(held, data)
            os.close(held)
    os.sync()


def in_turn(rounds: int, *subjects: Callable[[], None]) -> None:
    """Run the subjects A B, B A, A B ...: drift is spread evenly."""
    for number in range(rounds):
        for subject in subjects if number % 2 == 0 else reversed(subjects):
            subject()
