# SPDX-License-Identifier: Apache-2.0
"""What the state of exchange and queue means for the watcher: decisions without I/O."""

import re
from typing import NamedTuple

from watcher.checks.result import Check, Result

MANY_MESSAGES = 1000  # messages that wait beside a running watcher, which takes thousands a second

_DIFFERENCE = re.compile(
    r"inequivalent arg '([^']*)' for (?:exchange|queue) .*: received (.*) but current is (.*)"
)
_VALUE = re.compile(r"the value (.*) of type .*")
_PERMISSION = (
    "rabbitmqctl set_permissions, so that the user of transport_url may configure, write and read "
    "the exchange and the watcher's queue"
)


class Difference(NamedTuple):
    """How something on the broker differs from the configuration."""

    argument: str
    configured: str
    declared: str

    def __str__(self) -> str:
        return f"{self.argument} is {self.declared}, by the configuration {self.configured}"

    @property
    def is_yielded_to(self) -> bool:
        """Whether oslo.messaging goes on with what there is: the one case that it knows."""
        return (self.argument, self.configured) == ("durable", "true")


class Declared(NamedTuple):
    """An exchange or queue as it is on the broker.

    :param there: it exists
    :param durable: by the configuration
    :param quorum: by the configuration; oslo.messaging yields to no difference then
    :param difference: from the configuration
    :param refused: why the broker doesn't let the user declare it
    """

    name: str
    there: bool
    durable: bool = False
    quorum: bool = False
    difference: Difference | None = None
    refused: str | None = None

    @property
    def breaks(self) -> bool:
        """The watcher can't listen, for it can't declare this."""
        return self.difference is not None and (self.quorum or not self.difference.is_yielded_to)

    @property
    def sort(self) -> str:
        """By the configuration."""
        return "quorum" if self.quorum else "durable" if self.durable else "not durable"


def difference(text: str) -> Difference | None:
    """What RabbitMQ's error 406 names as different; None when it is another error."""
    if (found := _DIFFERENCE.search(text)) is None:
        return None
    argument, received, current = (_VALUE.sub(r"\1", part).strip("'") for part in found.groups())
    return Difference(argument, received, current)


def exchange(declared: Declared) -> Check:
    """Whether the watcher can listen to the exchange."""
    name = f"exchange {declared.name}"
    if not declared.there:
        return Check(
            "exchange",
            Result.WARNING,
            f"{name} doesn't exist: no Glance has sent anything to this broker yet",
            "nothing, if Glance is new here; else compare [DEFAULT] control_exchange, "
            "[staging_watcher] exchange and transport_url with Glance's",
        )
    if declared.refused is not None:
        return Check("exchange", Result.FAILURE, declared.refused, _PERMISSION)
    if declared.breaks:
        return Check(
            "exchange",
            Result.FAILURE,
            f"{name}: {declared.difference}; no notification can be received",
            "give the watcher the [oslo_messaging_rabbit] options of Glance; if they are, the "
            "exchange is older than they are: delete it while all who use it are stopped",
        )
    if declared.difference is not None:
        return Check(
            "exchange",
            Result.WARNING,
            f"{name}: {declared.difference}; oslo.messaging yields to that, the queue is declared "
            "likewise and lost when the broker restarts",
            "set [oslo_messaging_rabbit] amqp_durable_queues = true in Glance's file too, then "
            "delete the exchange while all who use it are stopped, and the watcher's queue with it",
        )
    return Check("exchange", Result.OK, f"{name} is there, as configured")


def queue(declared: Declared, vhost: str, exchange: Difference | None = None) -> Check:
    """Whether the watcher can listen in its queue.

    :param exchange: how its exchange differs from the configuration
    """
    name = f"queue {declared.name}"
    delete = (
        f"rabbitmqctl delete_queue --vhost {vhost} {declared.name} while the service is stopped; "
        "it declares it again"
    )
    if exchange is not None and exchange == declared.difference:
        delete = "see to the exchange first"  # a new queue would be no better
    if not declared.there:
        return Check(
            "queue",
            Result.WARNING,
            f"{name} doesn't exist: the service has not run with this pool yet",
            "start the service; if it runs, compare its [staging_watcher] pool",
        )
    if declared.refused is not None:
        return Check("queue", Result.FAILURE, declared.refused, _PERMISSION)
    if declared.breaks:
        return Check(
            "queue",
            Result.FAILURE,
            f"{name}: {declared.difference}; no notification can be received",
            delete,
        )
    if declared.difference is not None and declared.difference == exchange:
        return Check("queue", Result.OK, f"{name} is there, not durable as its exchange")
    if declared.difference is not None:
        return Check(
            "queue",
            Result.WARNING,
            f"{name}: {declared.difference}; it is lost when the broker restarts",
            delete,
        )
    return Check("queue", Result.OK, f"{name} is there, {declared.sort} as configured")


def waiting(name: str, messages: int, consumers: int, topics: int) -> Check:
    """Whether the queue is read, and by one watcher only.

    :param topics: of the configuration; one watcher has a consumer for each
    """
    text = "1 message waits" if messages == 1 else f"{messages:,} messages wait"
    text += ", 1 consumer" if consumers == 1 else f", {consumers} consumers"
    if consumers > topics:
        return Check(
            "messages",
            Result.WARNING,
            f"{text} where one watcher has {topics}: each of several misses a part",
            "give each host's watcher a [staging_watcher] pool of its own",
        )
    if not consumers:
        return Check(
            "messages",
            Result.WARNING,
            f"{text}: no service runs",
            "start the service; for a host that is gone: rabbitmqctl delete_queue " + name,
        )
    if messages >= MANY_MESSAGES:
        return Check(
            "messages",
            Result.WARNING,
            f"{text}: the watcher can't keep up, or hangs",
            "see its log: while the database is down nothing is removed; a policy with max-length "
            "and message-ttl limits the queue",
        )
    return Check("messages", Result.OK, text)


def transient(there: bool, version: str) -> Check | None:
    """Whether the broker lets the queue be created, which is neither durable nor exclusive.

    :param there: it exists, so this broker does
    :param version: of RabbitMQ
    """
    remedy = (
        "set [oslo_messaging_rabbit] rabbit_quorum_queue = true or amqp_durable_queues = true in "
        "Glance's file, then delete the exchange and the watcher's queue while all who use them "
        "are stopped"
    )
    found = re.match(r"(\d+)\.(\d+)", version)
    release = (int(found[1]), int(found[2])) if found else (0, 0)
    if (4, 0) <= release < (4, 3):
        return Check(
            "transient",
            Result.WARNING,
            f"RabbitMQ refuses queues that are not durable from 4.3 on; this is {version}",
            remedy,
        )
    if release < (4, 3) or there:
        return None
    return Check(
        "transient",
        Result.FAILURE,
        f"RabbitMQ {version} refuses queues that are not durable, unless its configuration permits "
        "transient_nonexcl_queues; no notification can be received",
        remedy,
    )


def unread(name: str, messages: int, consumers: int) -> Check | None:
    """Whether a queue that Glance itself declares fills up; None when it doesn't."""
    if consumers or messages < MANY_MESSAGES:
        return None
    return Check(
        "unread",
        Result.WARNING,
        f"{messages:,} messages wait in queue {name}, which nobody reads: it fills up the broker",
        "a policy with max-length or message-ttl for it; docs/install.md shows one",
    )
