# SPDX-License-Identifier: Apache-2.0
"""A private Galera cluster of two MariaDB nodes, of which the second can be made to lag, cut off
and killed, while the first goes on."""

from contextlib import ExitStack
from pathlib import Path

import pymysql

from .mariadb import MariaDB
from .ports import LOOPBACK, free_port
from .replicas import Pair, own
from .waiting import wait_for

PROVIDER = Path("/usr/lib/galera/libgalera_smm.so")
STATE_TIMEOUT = 90.0  # seconds


class GaleraNode(MariaDB):
    """A node, the first one of a new cluster.

    :param weight: in a vote on which part of a divided cluster goes on
    :param address: of the cluster: all nodes' group communication
    :param port: of this node's
    """

    _joins = False

    def __init__(self, directory: Path, *, weight: int, address: str, port: int) -> None:
        transfer, incremental = f"{LOOPBACK}:{free_port()}", f"{LOOPBACK}:{free_port()}"
        provider = {
            "gmcast.listen_addr": f"tcp://{LOOPBACK}:{port}",
            "ist.recv_addr": incremental,
            "ist.recv_bind": incremental,
            "gcache.size": "8M",
            "gcs.fc_limit": 10_000,  # a node that lags holds nobody up
            "pc.weight": weight,
        }
        super().__init__(
            directory,
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
            "--wsrep-on=ON",
            # From MariaDB 11.4 on it is there, and turns some of the provider's options into
            # variables, and the others into nothing.
            "--loose-plugin-wsrep-provider=OFF",
            f"--wsrep-provider={PROVIDER}",
            f"--wsrep-provider-options={';'.join(f'{k}={v}' for k, v in provider.items())}",
            f"--wsrep-cluster-address={address}",
            f"--wsrep-node-address={LOOPBACK}:{port}",
            "--wsrep-sst-method=rsync",
            f"--wsrep-sst-receive-address={transfer}",
        )
        self._locks = ExitStack()

    @classmethod
    def missing(cls) -> str | None:
        """Say which program isn't installed, or None when all are there."""
        return super().missing() or (None if PROVIDER.exists() else "galera-4 is not installed")

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        """SET or SHOW something, also while the node has no quorum; rows, if there are any."""
        # Not by SQLAlchemy, which asks more when it connects than such a node answers.
        with (
            pymysql.connect(
                host=LOOPBACK, port=self.port, user=self.user, password=self.password
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
            return list(cursor.fetchall())

    def status(self, name: str) -> str:
        """A status variable of Galera."""
        ((_, value),) = self.ask(f"SHOW GLOBAL STATUS LIKE '{name}'")
        return str(value)

    def set_provider(self, option: str, value: object) -> None:
        """Change an option of Galera's own."""
        self.ask(f"SET GLOBAL wsrep_provider_options = '{option}={value}'")

    def lock(self) -> None:
        """Hold a lock on all tables as a backup does; the node applies nothing, and answers."""
        connection = self._locks.enter_context(self._connect())
        connection.exec_driver_sql("FLUSH TABLES WITH READ LOCK")

    def unlock(self) -> None:
        """Let go of it."""
        self._locks.close()

    def create_database(self, name: str) -> None:
        """Create an empty database, unless it came from the other node."""
        self.execute(f"CREATE DATABASE IF NOT EXISTS {name}")

    def _command(self) -> list[str]:
        return [*super()._command(), *([] if self._joins else ["--wsrep-new-cluster"])]

    def _serving(self) -> bool:
        return super()._serving() and self.status("wsrep_local_state_comment") == "Synced"


class Joiner(GaleraNode):
    """A node that copies the content of another one when it starts."""

    _joins = True

    def _install(self) -> None:
        """There is nothing of its own."""


class Galera(Pair[GaleraNode]):
    """Two nodes; the first goes on without the second, but not the other way round."""

    def __init__(self, directory: Path) -> None:
        ports = [free_port(), free_port()]
        address = "gcomm://" + ",".join(f"{LOOPBACK}:{port}" for port in ports)
        self.first = GaleraNode(own(directory, "first"), address=address, port=ports[0], weight=2)
        self.second = Joiner(own(directory, "second"), address=address, port=ports[1], weight=1)

    @classmethod
    def missing(cls) -> str | None:
        """Say what isn't installed, or None when all is there."""
        return GaleraNode.missing()

    def lag(self) -> None:
        """The second node is Donor/Desynced, and what is committed waits in its queue."""
        self.second.lock()

    def follow(self) -> None:
        """Apply what waits, and all that comes."""
        self.second.unlock()

    def cut_off(self) -> None:
        """Cut the second node off from the first, and wait until both know: it loses its quorum."""
        self.second.set_provider("gmcast.isolate", 1)
        self._wait(self.second, "wsrep_cluster_status", "non-Primary")
        self._wait(self.first, "wsrep_cluster_size", "1")

    def join(self) -> None:
        """Let it back, and wait until it has taken over what it missed."""
        self.second.set_provider("gmcast.isolate", 0)
        self._wait(self.second, "wsrep_local_state_comment", "Synced")

    @staticmethod
    def _wait(node: GaleraNode, name: str, value: str) -> None:
        wait_for(lambda: node.status(name) == value, STATE_TIMEOUT, f"{name} {value} of {node}")
