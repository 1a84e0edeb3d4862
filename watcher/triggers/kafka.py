# SPDX-License-Identifier: Apache-2.0
"""Kafka as the message bus: what oslo.messaging's driver leaves undone.

The driver says nowhere that the brokers are lost or back, nor that it is given no partition to
read; it holds a message back for a second, in which more may come; it listens to a topic without
the virtual host that it sends with; and its library writes on stderr.
"""

import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException
from oslo_config import cfg
from oslo_log import log

import watcher.triggers.transport  # noqa: F401 - before oslo_messaging

from oslo_messaging._drivers import impl_kafka  # isort: skip

LOG = log.getLogger(__name__)

GROUP = "oslo_messaging_kafka"

POLL_INTERVAL = 1.0  # seconds, while a partition is waited for
PATIENCE = 60.0  # seconds for which the brokers may balance a group before it is a fault
ANSWER_TIMEOUT = 2.0  # seconds

_OPTIONS = {
    "log_level": 0,  # nothing on stderr; what matters comes as errors
    # How long a consumer that ended without a word keeps its partitions from the one that comes
    # after a restart: 10 s rather than 45.
    "session.timeout.ms": 10_000,
    "reconnect.backoff.ms": 2_000,  # a broker that is away is tried once a second, not 20 times
}
_PLACE = re.compile(r"^\S+/(bootstrap|\d+): |^GroupCoordinator: | \(after \d+ms in state .*")


class Consumer(confluent_kafka.Consumer):
    """A consumer that tells what becomes of its brokers; one thread calls it.

    :param conf: as oslo.messaging has it
    :param vhost: virtual host of the transport's URL
    :param lost: called with the cause when no notifications come in
    :param back: called when they come in again; some may have been missed
    """

    def __init__(
        self,
        conf: dict[str, Any],
        *,
        vhost: str | None,
        lost: Callable[[str], None],
        back: Callable[[], None],
    ) -> None:
        self._vhost, self._lost, self._back = vhost, lost, back
        self._down = self._joined = self._is_lost = self._is_anew = False
        self._cause = "no broker answers"
        self._assigned = time.monotonic()
        super().__init__(conf | _OPTIONS | {"error_cb": self._remember})

    def subscribe(  # type: ignore[override]
        self, topics: list[str], on_assign: Callable[..., None], on_revoke: Callable[..., None]
    ) -> None:
        """Join the group; returns when there are partitions to read."""

        def assign(*arguments: object) -> None:
            on_assign(*arguments)
            self._is_anew = self._joined

        self._topics = topics_of(topics, self._vhost)
        super().subscribe(self._topics, on_assign=assign, on_revoke=on_revoke)
        while not self.assignment():
            # A message that comes along is dropped, as is the first one by oslo.messaging's
            # listener: a sweep follows.
            self.consume(1, POLL_INTERVAL)
        self._joined = True

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Any]:
        """At most one message, at once when there is one."""
        messages = super().consume(1, timeout)
        self._watch([error for message in messages if (error := message.error())])
        return [message for message in messages if not message.error() and _is_readable(message)]

    def commit(self, *arguments: Any, **options: Any) -> Any:
        """Say how far it has read; where that fails some messages come a second time."""
        try:
            super().commit(*arguments, **options)
        except KafkaException as error:
            LOG.debug("Cannot commit: %s", cause_of(error.args[0]))

    def _remember(self, error: KafkaError) -> None:
        """Called by librdkafka, within `consume`."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._down = True
        else:
            self._cause = cause_of(error)

    def _watch(self, errors: list[KafkaError]) -> None:
        """Tell when it begins that none come in, and when it ends."""
        if self.assignment():
            self._assigned = time.monotonic()
        late = time.monotonic() - self._assigned > PATIENCE
        cause = None
        if errors:
            cause = cause_of(errors[0])
        elif (self._down or late) and not self._is_answered():
            cause = self._cause
        elif late:
            cause = (
                f"no partition of {', '.join(self._topics)} for this watcher; has another its pool?"
            )
        self._down = False
        if cause is not None:
            self._is_lost = True
            self._lost(cause)
        elif (self._is_lost or self._is_anew) and self.assignment() and self._is_answered():
            self._is_lost = self._is_anew = False
            self._back()

    def _is_answered(self) -> bool:
        # It makes librdkafka look for the topic, too, which it does each five minutes else.
        try:
            self.list_topics(self._topics[0], timeout=ANSWER_TIMEOUT)
        except KafkaException:
            return False
        return True


def adopt(
    conf: cfg.ConfigOpts, driver: Any, *, lost: Callable[[str], None], back: Callable[[], None]
) -> None:
    """Let oslo.messaging's driver use `Consumer`; for its parameters see there."""

    def new_consumer(options: dict[str, Any]) -> Consumer:
        return Consumer(options, vhost=driver.virtual_host, lost=lost, back=back)

    impl_kafka.confluent_kafka = SimpleNamespace(Consumer=new_consumer)
    # Else each notification waits for an answer, and is dropped when that doesn't come.
    conf.set_default("enable_auto_commit", True, group=GROUP)


def topics_of(topics: list[str], vhost: str | None) -> list[str]:
    """The topics as oslo.messaging sends to them: with the virtual host at the end."""
    return [impl_kafka.concat(".", [topic, vhost]) for topic in topics]


def cause_of(error: KafkaError) -> str:
    """What an error says, without the place in librdkafka where it was met."""
    text: str = error.str()
    return _PLACE.sub("", text)


def _is_readable(message: Any) -> bool:
    # One that oslo.messaging can't read takes it a second, and those with it are dropped.
    try:
        impl_kafka.unpack_message(message.value())
    except Exception as error:  # noqa: BLE001 - whatever a topic may hold
        LOG.debug("A message of topic %s is no notification: %r; ignoring", message.topic(), error)
        return False
    return True
