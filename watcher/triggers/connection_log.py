# SPDX-License-Identifier: Apache-2.0
"""What oslo.messaging tells of its connection, which it tells in its log only.

It tries for ever to reach a broker and doesn't say so to its caller, nor when it is back. So its
log is read here and becomes calls; its lines, one for each try, go on as DEBUG lines.
"""

import logging
import re
from collections.abc import Callable

from oslo_log import log

LOG = log.getLogger(__name__)

# oslo.log calls its loggers for oslo_x "oslo.x"; others keep the name of the module.
_LOGGERS = (
    "oslo_messaging",
    "oslo.messaging",
    "oslo_utils.excutils",
    "oslo.utils.excutils",
    "kombu",
    "amqp",
)
_BACK = "Reconnected to AMQP server"
_LOST = re.compile(
    r"AMQP server on \S+ is unreachable: |AMQP server \S+ closed the connection[^:]*: "
    r"|Connection failed: |Failed to consume message from queue: "
)
_NEXT = "(retrying in 0 seconds)"  # with another node of the cluster
_BROKEN = "Failed to consume"
_UNACKNOWLEDGED = "ignoring duplicate message"
_FRAME = re.compile(r"^\[[0-9a-f-]{36}\] |[. ]*(Trying again in|\(retrying in).*$")
_WRAPPED = re.compile(r"^Unable to connect to AMQP server on .* tries: |\(0, 0\): ")
_KAFKA = re.compile(r'^KafkaError\{.*?str="(.*)"\}$')
_LOST_CONNECTION = re.compile(r"<\w+: unknown error>")  # what amqp says of a closed socket
_LONGEST = 500  # characters of others' text in a line


class DriverLog(logging.Handler):
    """Takes the place of the log handlers of oslo.messaging and its libraries.

    :param lost: called with the cause when the broker can't be reached or refuses
    :param back: called when oslo.messaging has reached the broker again by itself
    :param broken: called when its listener won't get over it by itself
    """

    def __init__(
        self, *, lost: Callable[[str], None], back: Callable[[], None], broken: Callable[[], None]
    ) -> None:
        super().__init__()
        self._lost, self._back, self._broken = lost, back, broken

    def attach(self) -> None:
        """Read these logs from now on."""
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            logger.addHandler(self)
            logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
            logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging for each line."""
        line = _one_line(record.getMessage())
        text = _FRAME.sub("", line)
        LOG.debug("oslo.messaging: %s", text)
        if text.startswith(_BACK):
            self._back()
        elif record.levelno >= logging.ERROR:
            if (lost := _LOST.match(text)) and not line.endswith(_NEXT):
                self._lost(cause_of(text[lost.end() :]))
            # A duplicate is never acknowledged: where the number of such messages is limited
            # (rabbit_qos_prefetch_count) nothing more would come. Another listener takes it.
            if text.startswith((_BROKEN, _UNACKNOWLEDGED)):
                self._broken()


def cause_of(text: str) -> str:
    """The cause in an error of oslo.messaging, as one printable line without its frames."""
    text = _KAFKA.sub(r"\1", _WRAPPED.sub("", _one_line(text)))
    return _LOST_CONNECTION.sub("the connection was lost", text)


def _one_line(text: str) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST])
    return " ".join(printable.split())
