# SPDX-License-Identifier: Apache-2.0
"""Checks of Kafka's brokers, which change nothing there: no group is joined, nothing committed."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from oslo_config import cfg

from watcher.checks.queue import MANY
from watcher.checks.result import Check, Result
from watcher.conf import GROUP
from watcher.triggers.kafka import cause_of, topics_of

from oslo_messaging._drivers import impl_kafka  # isort: skip - after watcher.kafka

ANSWER_TIMEOUT = 5.0  # seconds, for each question


def checks(conf: cfg.ConfigOpts, driver: Any) -> Iterator[Check]:
    """Ask the brokers."""
    names = conf[GROUP].topics or conf.oslo_messaging_notifications.topics
    topics = topics_of([f"{name}.info" for name in names], driver.virtual_host)
    causes: list[str] = []
    quiet = {
        "log_level": 0,
        "error_cb": lambda error: causes.append(cause_of(error)),
        "enable.auto.commit": False,
    }
    connection = impl_kafka.ConsumerConnection(driver.conf, driver._url)
    addresses = ", ".join(connection.hostaddrs)
    try:
        consumer = Consumer(_options(connection, conf[GROUP].pool) | quiet)
    except KafkaException as error:
        yield _failed(addresses, cause_of(error.args[0]))
        return
    try:
        known = consumer.list_topics(timeout=ANSWER_TIMEOUT)
        brokers = len(known.brokers)
        yield Check(
            "broker",
            Result.OK,
            f"{addresses}: {brokers} broker{'s' * (brokers != 1)} of Kafka let the watcher in",
        )
        there = [name for name in topics if name in known.topics and not known.topics[name].error]
        for name in topics:
            yield topic(name, len(known.topics[name].partitions) if name in there else 0)
        if there:
            partitions = [TopicPartition(t, p) for t in there for p in known.topics[t].partitions]
            yield waiting(conf[GROUP].pool, _waiting(consumer, partitions))
    except KafkaException as error:
        consumer.poll(0)  # hands over what librdkafka met
        yield _failed(addresses, (causes or [cause_of(error.args[0])])[0])
    finally:
        consumer.close()


def topic(name: str, partitions: int) -> Check:
    """Whether there is a topic to listen to.

    :param partitions: 0 when it doesn't exist
    """
    if partitions:
        return Check("topic", Result.OK, f"topic {name} is there, partitions: {partitions}")
    return Check(
        "topic",
        Result.WARNING,
        f"topic {name} doesn't exist: no Glance has sent anything to these brokers yet, or its "
        "user may not read it",
        f"kafka-topics.sh --create --topic {name}; if it exists, let the user of transport_url "
        "describe and read it, and compare [staging_watcher] topics with Glance's",
    )


def waiting(group: str, messages: int | None) -> Check:
    """Whether what is sent is read.

    :param messages: not read yet by the group; None when it has never read any
    """
    if messages is None:
        return Check("messages", Result.OK, f"group {group} has read nothing yet")
    if messages >= MANY:
        return Check(
            "messages",
            Result.WARNING,
            f"{messages:,} messages wait for group {group}: the watcher doesn't run, can't keep "
            "up, or hangs",
            "start the service, or see its log; for a host that is gone: kafka-consumer-groups.sh "
            f"--delete --group {group}",
        )
    return Check(
        "messages",
        Result.OK,
        f"{messages} message{'s' * (messages != 1)} wait{'s' * (messages == 1)} for group {group}",
    )


def _waiting(consumer: Consumer, partitions: list[TopicPartition]) -> int | None:
    waiting = []
    for each in consumer.committed(partitions, timeout=ANSWER_TIMEOUT):
        if each.offset >= 0:
            first, last = consumer.get_watermark_offsets(each, timeout=ANSWER_TIMEOUT)
            waiting.append(last - max(first, each.offset))
    return sum(waiting) if waiting else None


def _failed(addresses: str, cause: str) -> Check:
    return Check(
        "broker",
        Result.FAILURE,
        f"{addresses}: {cause}",
        "see that it runs, and that transport_url and the security, sasl and ssl options in "
        "[oslo_messaging_kafka] are right",
    )


def _options(connection: Any, group: str) -> dict[str, Any]:
    """What oslo.messaging would give to the library."""
    kept: dict[str, Any] = {}

    def keep(options: dict[str, Any]) -> SimpleNamespace:
        kept.update(options)
        return SimpleNamespace(subscribe=lambda *topics, **callbacks: None)

    impl_kafka.confluent_kafka = SimpleNamespace(Consumer=keep)
    connection.declare_topic_consumer([], group)
    return kept
