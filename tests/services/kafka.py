# SPDX-License-Identifier: Apache-2.0
"""The mock cluster of librdkafka, whose makers test their client by it; no package registry that
the tests may use has Apache Kafka itself."""

import confluent_kafka

TIMEOUT = 20.0  # seconds


class MockKafka:
    """One mock broker in a thread of this process, with a topic."""

    def __init__(self, topic: str) -> None:
        self._client = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
        self._client.produce(topic, b"created by this")
        assert self._client.flush(TIMEOUT) == 0
        brokers = self._client.list_topics(timeout=TIMEOUT).brokers.values()
        self.addresses = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def url(self) -> str:
        """Return oslo.messaging's transport URL."""
        return f"kafka://{self.addresses}/"
