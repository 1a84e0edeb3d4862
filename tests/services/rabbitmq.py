# SPDX-License-Identifier: Apache-2.0
"""A private RabbitMQ broker, alone or as a node of a cluster."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import amqp

from .names import unique_name
from .ports import LOOPBACK, free_port
from .server import Server

VHOSTS = 12  # created together
PROGRAMS = Path("/usr/lib/rabbitmq/bin")  # Debian's wrappers in /usr/sbin change the user


class RabbitMQNode(Server):
    """A RabbitMQ broker without plugins, with the user ``glance``; see Server.

    :param node: its Erlang name, as ``name@localhost``
    :param mapper: Erlang's port mapper, which runs as long as the node does
    :param settings: more lines of rabbitmq.conf
    """

    user = "glance"
    password = "s3cr3t-broker"

    def __init__(
        self, directory: Path, node: str, mapper: "PortMapper", settings: str = ""
    ) -> None:
        super().__init__(directory)
        self.node = node
        self._home = directory / "rabbitmq"
        self._mapper = mapper
        self._settings = settings
        self._distribution_port = free_port()
        self._vhosts: list[str] = []  # that wait to be given to somebody

    @classmethod
    def missing(cls) -> str | None:
        """Say which program isn't installed, or None when all are there."""
        return None if (PROGRAMS / "rabbitmq-server").exists() else "rabbitmq is not installed"

    @property
    def version(self) -> str:
        """See `Server`."""
        with self.channel() as channel:
            return str(channel.connection.server_properties["version"])

    def url(self, user: str = user, password: str = password, vhost: str = "/") -> str:
        """Return oslo.messaging's transport URL of a virtual host."""
        user, password, path = (quote(part, safe="") for part in (user, password, vhost))
        if vhost == "/":
            path = ""  # oslo.messaging's default
        return f"rabbit://{user}:{password}@{LOOPBACK}:{self.port}/{path}"

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl, which takes half a second, and return its output.

        Raises RuntimeError with the output when it fails.
        """
        return self._run(str(self._home / "sbin/rabbitmqctl"), "--quiet", *arguments)

    def new_vhost(self) -> str:
        """Return the name of a virtual host of its own, where ``glance`` may do everything."""
        if not self._vhosts:  # many cost little more than one
            self._vhosts = [unique_name("vhost") for _ in range(VHOSTS)]
            rights = {"user": self.user, "configure": ".*", "write": ".*", "read": ".*"}
            self.define(
                vhosts=[{"name": name} for name in self._vhosts],
                permissions=[rights | {"vhost": name} for name in self._vhosts],
            )
        return self._vhosts.pop()

    def add_user(
        self,
        name: str,
        password: str,
        vhost: str = "/",
        configure: str = ".*",
        write: str = ".*",
        read: str = ".*",
    ) -> None:
        """Create a user with the given permissions, regular expressions, on a virtual host."""
        rights = {"configure": configure, "write": write, "read": read}
        self.define(
            users=[{"name": name, "password": password, "tags": ""}],
            permissions=[{"user": name, "vhost": vhost} | rights],
        )

    def define(self, **definitions: list[dict[str, str]]) -> None:
        """Create what is described in the broker's own format, with one command."""
        file = self.directory / "definitions.json"
        file.write_text(json.dumps(definitions))
        self.ctl("import_definitions", str(file))

    def queues(self, vhost: str = "/") -> dict[str, int]:
        """Return the number of messages ready in each queue of a virtual host."""
        columns = ("name", "messages_ready")
        rows = self.ctl("list_queues", "--formatter=json", f"--vhost={vhost}", *columns)
        return {row["name"]: row["messages_ready"] for row in json.loads(rows)}

    @contextmanager
    def channel(self, vhost: str = "/") -> Iterator[amqp.Channel]:
        """Speak AMQP with the broker as the user ``glance``, for what oslo.messaging won't do."""
        with amqp.Connection(
            f"{LOOPBACK}:{self.port}", self.user, self.password, virtual_host=vhost
        ) as connection:
            yield connection.channel()

    def sync(self) -> None:
        """Write the definitions of the last two seconds to the disk, for a kill() to come."""
        self.ctl("eval", "mnesia:sync_log().")

    def _prepare(self) -> None:
        super()._prepare()
        self._install()
        (self.directory / "enabled_plugins").write_text("[].\n")
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = {LOOPBACK}:{self.port}\n"
            f"default_user = {self.user}\n"
            f"default_pass = {self.password}\n"
            "default_user_tags.administrator = false\n"
            "num_acceptors.tcp = 2\n"
            "disk_free_limit.absolute = 1MB\n"
            "log.console = true\n"
            "log.file = false\n" + self._settings
        )

    def _install(self) -> None:
        """Link the installed broker without its optional plugins.

        Erlang searches the directories of all plugins for each module it loads; without them
        the broker starts a second earlier.
        """
        installed = (PROGRAMS / "rabbitmq-server").resolve().parents[1]
        (self._home / "plugins").mkdir(parents=True)
        for part in ("sbin", "escript"):
            (self._home / part).symlink_to(installed / part)
        for plugin in (installed / "plugins").iterdir():
            if not plugin.name.startswith("rabbitmq_") or "_prelaunch-" in plugin.name:
                (self._home / "plugins" / plugin.name).symlink_to(plugin)

    def _command(self) -> list[str]:
        return [str(self._home / "sbin/rabbitmq-server")]

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": str(self._mapper.port),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_CTL_ERL_ARGS": "-start_epmd false",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self.directory),
            "RABBITMQ_MNESIA_BASE": str(self.data),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
                " +S 2:2 +SDcpu 1:1 +SDio 2 +A 2"
            ),
            # Lets the script become the Erlang virtual machine instead of watching over it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _serving(self) -> bool:
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port), 5) as client:
            client.sendall(b"AMQP\x00\x00\x09\x01")
            started = client.recv(1) == b"\x01"  # the method frame connection.start
            # Clients are served a moment before rabbitmqctl's commands are.
            return started and "Server startup complete" in self.log
        return False


class RabbitMQ(RabbitMQNode):
    """A broker that stands alone."""

    def __init__(self, directory: Path, settings: str = "") -> None:
        super().__init__(directory, "glance@localhost", PortMapper(directory), settings)

    def start(self) -> None:
        """Start the broker, as Server.start."""
        self._mapper.start()
        super().start()

    def stop(self) -> None:
        """Stop the broker in order, as Server.stop."""
        try:
            super().stop()
        finally:
            self._mapper.stop()

    def kill(self) -> None:
        """End the broker by SIGKILL, as Server.kill.

        A queue declared in the last two seconds is sometimes lost, unless sync() came after it.
        """
        super().kill()
        self._mapper.kill()


class PortMapper(Server):
    """Erlang's epmd, which would otherwise be shared by all nodes of the machine."""

    @classmethod
    def missing(cls) -> str | None:
        return None

    def _prepare(self) -> None:
        """Keep no data."""

    def _command(self) -> list[str]:
        return ["epmd", "-address", LOOPBACK, "-port", str(self.port)]

    def _serving(self) -> bool:
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port), 5):
            return True
        return False
