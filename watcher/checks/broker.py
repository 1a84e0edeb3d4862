# SPDX-License-Identifier: Apache-2.0
"""Checks of the message broker, which change nothing there.

What exists is looked up by passive declarations. They say nothing of durability, so what exists
is then declared as oslo.messaging would, with one argument more that no broker takes for a new
one: it says what differs, and could create nothing even if what was there has just been deleted.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from amqp.exceptions import AccessRefused, AMQPError, NotFound, PreconditionFailed
from kombu import Connection
from oslo_config import cfg

from watcher.checks.queue import Declared, difference, exchange, queue, transient, unread, waiting
from watcher.checks.result import Check, Result
from watcher.conf import GROUP
from watcher.errors import ConfigError
from watcher.triggers import broker
from watcher.triggers.connection_log import cause_of
from watcher.triggers.transport import new_transport, parse_url

# of a wrong type, or for another kind of queue
_NEVER_MADE = {"exchange": {"alternate-exchange": 0}, "queue": {"x-max-age": 0}}

# by a pattern of the cause
_REMEDIES = {
    r"ssl_\w+_file": "correct the option, or let the user that runs the watcher read the file",
    r"no transport_url is set": "set transport_url to Glance's",
    r"transport_url": "correct transport_url",
    r"\(403\)|Login was refused": "correct user and password in transport_url",
    r"vhost .* not found": "correct the virtual host at the end of transport_url",
    r"\(530\)": "rabbitmqctl set_permissions for that user and virtual host, or correct either in "
    "transport_url",
    r"Name or service not known": "correct the host in transport_url",
}


class Attempt(NamedTuple):
    """A try to connect to one broker; ``cause`` is None when it let us in."""

    host: str
    cause: str | None


def checks(conf: cfg.ConfigOpts) -> Iterator[Check]:
    """Ask the brokers."""
    if not conf[GROUP].notifications:
        yield Check("broker", Result.OK, "not asked: [staging_watcher] notifications is false")
        return
    try:
        transport = new_transport(conf)
        url = parse_url(conf)
    except ConfigError as error:
        yield Check("broker", Result.FAILURE, str(error), "correct the option where it is set")
        return
    if not broker.is_rabbit(transport):
        yield not_checked(url.transport)
        return
    attempts, connection = _connect(transport, url)
    vhost = url.virtual_host or "/"
    yield from brokers(attempts, vhost)
    if connection is None:
        return
    try:
        yield from _look(
            conf, _Wanted(conf, transport.conf[broker.RABBIT_GROUP]), connection, vhost
        )
    except (AMQPError, OSError) as error:
        yield Check("broker", Result.FAILURE, cause_of(str(error)), "see the log of the broker")
    finally:
        connection.release()


def not_checked(scheme: str) -> Check:
    """What can be said of another transport."""
    return Check(
        "broker",
        Result.WARNING,
        f"{scheme}:// is not checked; only rabbit:// can be",
        "see in the service's log whether it listens for notifications",
    )


def brokers(attempts: list[Attempt], vhost: str) -> Iterator[Check]:
    """One check for each broker of the URL; one that lets us in is enough."""
    enough = any(attempt.cause is None for attempt in attempts)
    for host, cause in attempts:
        if cause is None:
            yield Check("broker", Result.OK, f"{host} lets the watcher into virtual host {vhost}")
        else:
            yield Check(
                "broker",
                Result.WARNING if enough else Result.FAILURE,
                f"{host}: {cause}",
                remedy(cause),
            )


def remedy(cause: str) -> str:
    """What to do about a broker that doesn't let us in."""
    for pattern, what in _REMEDIES.items():
        if re.search(pattern, cause):
            return what
    return (
        "see that it runs, and that transport_url and the ssl options in "
        "[oslo_messaging_rabbit] are right"
    )


class _Wanted:
    """Exchange and queue as oslo.messaging declares them for the watcher."""

    def __init__(self, conf: cfg.ConfigOpts, rabbit: Any) -> None:
        self.exchange = conf[GROUP].exchange or conf.control_exchange
        self.queue = conf[GROUP].pool
        self.quorum: bool = rabbit.rabbit_quorum_queue
        self.durable: bool = rabbit.amqp_durable_queues or self.quorum
        self._auto_delete: bool = rabbit.amqp_auto_delete
        self._arguments: dict[str, Any] = {}
        if rabbit.rabbit_ha_queues:
            self._arguments["x-ha-policy"] = "all"
        if self.quorum:
            self._arguments["x-queue-type"] = "quorum"
            for argument, value in (
                ("x-delivery-limit", rabbit.rabbit_quorum_delivery_limit),
                ("x-max-in-memory-length", rabbit.rabbit_quorum_max_memory_length),
                ("x-max-in-memory-bytes", rabbit.rabbit_quorum_max_memory_bytes),
            ):
                if value:
                    self._arguments[argument] = value

    def declare_exchange(self, channel: Any, *, passive: bool) -> None:
        """Declare the exchange; it isn't created."""
        channel.exchange_declare(
            self.exchange,
            "topic",
            passive=passive,
            durable=self.durable,
            auto_delete=self._auto_delete,
            arguments=_NEVER_MADE["exchange"],
        )

    def declare_queue(self, channel: Any, *, passive: bool) -> None:
        """Declare the queue; it isn't created."""
        channel.queue_declare(
            self.queue,
            passive=passive,
            durable=self.durable,
            auto_delete=self._auto_delete,
            arguments=self._arguments | _NEVER_MADE["queue"],
        )


def _connect(transport: Any, url: Any) -> tuple[list[Attempt], Connection | None]:
    """Try each broker of the URL; a connection to the first that lets us in."""
    attempts: list[Attempt] = []
    first: Connection | None = None
    try:
        connections = broker.connections(transport, url)
    except ValueError as error:
        return [Attempt("transport_url", broker.why_not_connected(error))], None
    for address, connection in connections:
        try:
            connection.connect()
        except Exception as error:  # noqa: BLE001 - drivers raise what their libraries raise
            cause = broker.unusable(transport) or broker.why_not_connected(error)
            if not url.hosts:
                cause += "; the default, since no transport_url is set"
            attempts.append(Attempt(address, cause))
            connection.release()
            continue
        attempts.append(Attempt(address, None))
        if first is None:
            first = connection
        else:
            connection.release()
    return attempts, first


def _look(
    conf: cfg.ConfigOpts, wanted: _Wanted, connection: Connection, vhost: str
) -> Iterator[Check]:
    source = _declared(wanted, wanted.exchange, wanted.declare_exchange, connection)
    yield exchange(source)
    state = _declared(wanted, wanted.queue, wanted.declare_queue, connection)
    yield queue(state, vhost, source.difference)
    if not wanted.durable:
        version = str(connection.connection.server_properties.get("version", ""))
        if (check := transient(state.there, version)) is not None:
            yield check
    if state.there:
        topics = conf[GROUP].topics or conf.oslo_messaging_notifications.topics
        yield waiting(wanted.queue, *_counts(connection, wanted.queue), len(topics))
    for topic in conf.oslo_messaging_notifications.topics:
        name = f"{topic}.info"
        try:
            messages, consumers = _counts(connection, name)
        except NotFound:
            continue
        if (check := unread(name, messages, consumers)) is not None:
            yield check


def _counts(connection: Connection, name: str) -> tuple[int, int]:
    """Messages and consumers of a queue."""
    declared = connection.channel().queue_declare(name, passive=True)
    return declared.message_count, declared.consumer_count


def _declared(
    wanted: _Wanted, name: str, declare: Callable[..., None], connection: Connection
) -> Declared:
    try:
        declare(connection.channel(), passive=True)
    except NotFound:
        return Declared(name, there=False)
    different, refused = None, None
    try:
        declare(connection.channel(), passive=False)
    except PreconditionFailed as error:
        different = difference(str(error))
    except AccessRefused as error:
        refused = cause_of(str(error))
    if different and any(different.argument in never for never in _NEVER_MADE.values()):
        different = None
    return Declared(
        name,
        there=True,
        durable=wanted.durable,
        quorum=wanted.quorum,
        difference=different,
        refused=refused,
    )
