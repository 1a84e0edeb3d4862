# SPDX-License-Identifier: Apache-2.0
"""Checks of the message broker, which change nothing there.

What exists is looked up by passive declarations. They tell nothing of durability, so what exists
is then declared as oslo.messaging would, with one argument more that no broker takes for a new
one: it says what differs, and could make nothing even if what was there has just gone.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from amqp.exceptions import AccessRefused, AMQPError, NotFound, PreconditionFailed
from oslo_config import cfg

from watcher.checks.queue import Declared, difference, exchange, queue, waiting
from watcher.checks.result import Check, Result
from watcher.conf import GROUP
from watcher.errors import ConfigError
from watcher.triggers.connection_log import DriverLog, cause_of
from watcher.triggers.listener import is_kafka, new_transport, why_not_connected
from watcher.triggers.transport import messaging

from oslo_messaging._drivers import common, impl_rabbit  # isort: skip - after watcher.bus

ANSWER_TIMEOUT = 10  # seconds

# of a wrong type, or for another kind of queue
_NEVER_MADE = {"exchange": {"alternate-exchange": 0}, "queue": {"x-max-age": 0}}


# by a pattern of the cause
_REMEDIES = {
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
        driver = new_transport(conf)._driver
    except ConfigError as error:
        yield Check("broker", Result.FAILURE, str(error), "correct transport_url in the file")
        return
    if is_kafka(conf):
        from watcher.checks import kafka  # noqa: PLC0415 - its library is an extra

        yield from kafka.checks(conf, driver)
        return
    if not isinstance(driver, impl_rabbit.RabbitDriver):
        yield not_checked(driver._url.transport)
        return
    # Its lines become DEBUG lines; what they say is told here.
    DriverLog(lost=lambda cause: None, back=lambda: None, broken=lambda: None).attach()
    attempts, connection = _connect(driver)
    yield from brokers(attempts, driver._url.virtual_host or "/")
    if connection is None:
        return
    try:
        yield from _look(conf, connection, driver)
    except (AMQPError, OSError) as error:
        yield Check("broker", Result.FAILURE, cause_of(str(error)), "see the log of the broker")
    finally:
        connection.close()


def not_checked(scheme: str) -> Check:
    """What can be said of another transport."""
    return Check(
        "broker",
        Result.WARNING,
        f"{scheme}:// is not checked; only rabbit:// and kafka:// can be",
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


class _Connection(impl_rabbit.Connection):  # type: ignore[misc]
    """oslo.messaging's own connection, which gives up at once and declares nothing by itself."""

    wanted: Any

    def ensure_connection(self) -> None:
        """Connect, called by the constructor."""
        limits = {"read_timeout": ANSWER_TIMEOUT, "write_timeout": ANSWER_TIMEOUT}
        self.connection.transport_options.update(limits)
        self.connection.ensure_connection(errback=_give_up)

    def declare_consumer(self, consumer: Any) -> None:
        """Keep what oslo.messaging would declare now."""
        self.wanted = consumer

    def declare_exchange(self, **how: object) -> None:
        """Declare the exchange of a consumer, as it would."""
        self.connection.channel().exchange_declare(
            self.wanted.exchange_name,
            self.wanted.type,
            durable=self.wanted.durable,
            auto_delete=self.wanted.exchange_auto_delete,
            arguments=_NEVER_MADE["exchange"],
            **how,
        )

    def declare_queue(self, **how: object) -> Any:
        """Declare the queue of a consumer, as it would."""
        return self.connection.channel().queue_declare(
            self.wanted.queue_name,
            durable=self.wanted.durable,
            auto_delete=self.wanted.queue_auto_delete,
            arguments=self.wanted.queue_arguments | _NEVER_MADE["queue"],
            **how,
        )


def _give_up(error: Exception, interval: float) -> None:
    raise error


def _connect(driver: Any) -> tuple[list[Attempt], _Connection | None]:
    """Try each broker of the URL; a connection to the first that lets us in."""
    url = driver._url
    attempts: list[Attempt] = []
    first: _Connection | None = None
    for host in url.hosts or [None]:
        one = url
        if host is not None:
            one = messaging.TransportURL(
                driver.conf, url.transport, url.virtual_host, [host], url.query
            )
        try:
            connection = _Connection(driver.conf, one, common.PURPOSE_LISTEN)
        except Exception as error:  # noqa: BLE001 - drivers raise what their libraries raise
            attempts.append(Attempt(_address(host), why_not_connected(error)))
            continue
        attempts.append(Attempt(_address(host), None))
        if first is None:
            first = connection
        else:
            connection.close()
    return attempts, first


def _address(host: Any) -> str:
    name = (host and host.hostname) or "localhost"
    port = (host and host.port) or 5672
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _look(conf: cfg.ConfigOpts, connection: _Connection, driver: Any) -> Iterator[Check]:
    options = conf[GROUP]
    connection.declare_topic_consumer(
        options.exchange or driver._default_exchange, "info", queue_name=options.pool
    )
    wanted = connection.wanted
    source = _declared(connection, wanted.exchange_name, connection.declare_exchange)
    yield exchange(source)
    state = _declared(connection, wanted.queue_name, connection.declare_queue)
    yield queue(state, driver._url.virtual_host or "/", source.difference)
    if state.there:
        counted = connection.declare_queue(passive=True)
        topics = options.topics or conf.oslo_messaging_notifications.topics
        yield waiting(wanted.queue_name, counted.message_count, counted.consumer_count, len(topics))


def _declared(connection: _Connection, name: str, declare: Callable[..., Any]) -> Declared:
    try:
        declare(passive=True)
    except NotFound:
        return Declared(name, there=False)
    different, refused = None, None
    try:
        declare(passive=False)
    except PreconditionFailed as error:
        different = difference(str(error))
    except AccessRefused as error:
        refused = cause_of(str(error))
    if different and any(different.argument in never for never in _NEVER_MADE.values()):
        different = None
    return Declared(
        name,
        there=True,
        durable=connection.wanted.durable,
        quorum=connection.rabbit_quorum_queue,
        difference=different,
        refused=refused,
    )
