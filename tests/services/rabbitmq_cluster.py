# SPDX-License-Identifier: Apache-2.0
"""A private RabbitMQ cluster of three nodes, each of which can be ended or cut off."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .ports import LOOPBACK
from .rabbitmq import PortMapper, RabbitMQNode
from .waiting import wait_for

SIZE = 3
HEAL_TIMEOUT = 120.0  # seconds
COOKIE = "shared"  # Erlang nodes talk with those that have the same


class RabbitMQCluster:
    """Three brokers that are one, each with a port and files of its own.

    :param directory: for all their files; it must exist
    """

    def __init__(self, directory: Path) -> None:
        self._mapper = PortMapper(directory)
        names = [f"glance{number}@localhost" for number in range(1, SIZE + 1)]
        settings = "cluster_partition_handling = pause_minority\n" + "".join(
            f"cluster_formation.classic_config.nodes.{number} = {name}\n"
            for number, name in enumerate(names, 1)
        )
        self.nodes: list[RabbitMQNode] = []
        self._isolated: set[RabbitMQNode] = set()
        for name in names:
            home = directory / name.partition("@")[0]
            home.mkdir()
            cookie = home / ".erlang.cookie"
            cookie.write_text(COOKIE)
            cookie.chmod(0o600)  # Erlang takes no other
            self.nodes.append(RabbitMQNode(home, name, self._mapper, settings))

    def url(self, vhost: str) -> str:
        """Return oslo.messaging's transport URL of a virtual host, with all nodes."""
        hosts = (f"{node.user}:{node.password}@{LOOPBACK}:{node.port}" for node in self.nodes)
        return f"rabbit://{','.join(hosts)}/{vhost}"

    def start(self) -> None:
        """Start the nodes that don't run, heal all partitions, and wait for the whole cluster."""
        self._mapper.start()
        # Together: at its first start a RabbitMQ 4 waits for the others.
        with ThreadPoolExecutor() as pool:
            list(pool.map(RabbitMQNode.start, self.nodes))
        self.heal()

    def kill(self) -> None:
        """End all nodes by SIGKILL."""
        for node in self.nodes:
            node.kill()
        self._mapper.kill()

    def isolate(self, node: RabbitMQNode) -> None:
        """Cut a node off from the others; clients reach it still.

        The node takes another cookie for its peers, so that none of them can connect to another,
        and closes its connections to them. So both sides know at once; where packets vanish they
        would learn of it after net_ticktime, a minute by default.
        """
        self._isolated.add(node)
        self._take_cookie(node, "other")
        node.ctl("eval", "[erlang:disconnect_node(Node) || Node <- nodes()].")

    def heal(self) -> None:
        """Let nodes that were cut off talk with the others again, and wait for them."""
        while self._isolated:
            self._take_cookie(self._isolated.pop(), COOKIE)
        self.wait_whole()

    def wait_whole(self) -> None:
        """Wait until each node runs and knows that all others do."""
        for node in self.nodes:
            wait_for(
                lambda node=node: self.running(node) == SIZE,  # type: ignore[misc]
                HEAL_TIMEOUT,
                f"{node} in a whole cluster",
            )

    def running(self, node: RabbitMQNode) -> int:
        """Return how many nodes run, as one of them knows; 0 when that one is paused."""
        return int(
            node.ctl(
                "eval",
                "case rabbit:is_running() of"
                " true -> length(rabbit_nodes:all_running()); false -> 0 end.",
            )
        )

    def _take_cookie(self, node: RabbitMQNode, cookie: str) -> None:
        peers = ", ".join(f"'{peer.node}'" for peer in self.nodes if peer is not node)
        node.ctl("eval", f"[erlang:set_cookie(Node, {cookie}) || Node <- [{peers}]].")
