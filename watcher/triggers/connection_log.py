# SPDX-License-Identifier: Apache-2.0
"""The state of oslo.messaging's connection, which it reports in its log only.

It tries to reach a broker without end and says so neither to its caller nor when it is back. So
its log is read here; its lines, one for each try, continue as DEBUG lines. Which lines it writes
is not a public interface: tests/unit/test_connection_log.py compares them with the installed
library, and setup.cfg has an upper bound for it.
"""

import enum
import logging
import re
import threading
import weakref
from collections.abc import Callable

from oslo_log import log

LOG = log.getLogger(__name__)

# oslo.log calls its loggers for oslo_x "oslo.x"; others keep the name of the module. Each by its
# full name, since default_log_levels or a logging file may have set that one.
_LOGGERS = (
    *(
        f"{package}{module}"
        for package in ("oslo_messaging", "oslo.messaging")
        for module in (
            "",
            "._drivers",
            "._drivers.amqpdriver",
            "._drivers.base",
            "._drivers.common",
            "._drivers.impl_kafka",
            "._drivers.impl_rabbit",
            ".notify",
            ".notify.dispatcher",
            ".notify.listener",
            ".server",
        )
    ),
    "oslo_utils.excutils",
    "oslo.utils.excutils",
    "kombu",
    "kombu.connection",
    "amqp",
    "amqp.connection.Connection.heartbeat_tick",
)

RECONNECTED = "Reconnected to AMQP server"
UNREACHABLE = " is unreachable: "
CLOSED = " closed the connection"
FAILED = "Connection failed: "
CANNOT_CONSUME = "Failed to consume message from queue: "
CONFLICT = " could not be declared probably because of conflicting configurations: "
INTERNAL_ERROR = "Internal amqp error (541) "
DUPLICATE = "ignoring duplicate message"
RAISED = "Unexpected exception occurred"
NEXT_NODE = "(retrying in 0 seconds)"

#: name of the thread that polls for messages, as Python makes it from the name of its function
POLLER = "(_runner)"

_LOST = re.compile(
    rf"AMQP server on \S+{UNREACHABLE}|AMQP server \S+{CLOSED}[^:]*: |{FAILED}|{CANNOT_CONSUME}"
)
_REFUSED = re.compile(rf"{re.escape(INTERNAL_ERROR)}.*error message: \[(.*)\]")
_FRAME = re.compile(r"^\[[0-9a-f-]{36}\] |[. ]*(Trying again in|\(retrying in).*$")
_WRAPPED = re.compile(r"^Unable to connect to AMQP server on .* tries: |\(0, 0\): ")
_LOST_CONNECTION = re.compile(r"<\w+: unknown error>")  # what amqp says of a closed socket
_SECRET = re.compile(r"://\S*@")
_LONGEST = 500  # characters of others' text in a line


class Event(enum.Enum):
    """What happened to the connection."""

    #: it can't be made, was lost, or is refused
    LOST = "lost"
    #: it was made again
    RECONNECTED = "reconnected"
    #: it was made, but the broker doesn't let the queue be declared; oslo.messaging keeps trying
    REFUSED = "refused"
    #: the broker has what is declared, but otherwise; oslo.messaging tries something else
    CONFLICT = "conflict"
    #: this listener won't work again by itself, for the cause if there is one
    BROKEN = "broken"


class ConnectionLog(logging.Handler):
    """Takes the place of the log handlers of oslo.messaging and its libraries.

    :param report: called in any thread for each event, with its cause
    """

    def __init__(self, report: Callable[[Event, str], None]) -> None:
        super().__init__()
        self._report = report
        self._ignored: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    def attach(self) -> None:
        """Read these logs at any levels and handlers that the operator's configuration sets."""
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            if self not in logger.handlers:
                logger.addHandler(self)
            if logger.level not in (logging.INFO, logging.DEBUG):
                logger.setLevel(logging.INFO)
            logger.propagate = False
            logger.disabled = False

    def ignore(self, *threads: threading.Thread) -> None:
        """Read no more lines of these threads: their listener was replaced."""
        self._ignored.update(threads)

    def emit(self, record: logging.LogRecord) -> None:
        """Read a line; called by logging, in threads of oslo.messaging."""
        try:
            self._read(record)
        except Exception as error:  # noqa: BLE001 - it would end in oslo.messaging
            LOG.debug("Cannot read a log line of oslo.messaging: %r", error)

    def _read(self, record: logging.LogRecord) -> None:
        line = _one_line(_message(record))
        text = _FRAME.sub("", line)
        LOG.debug("oslo.messaging: %s", text)
        thread = threading.current_thread()
        if thread in self._ignored:
            return
        if text.startswith(RECONNECTED):
            self._report(Event.RECONNECTED, "")
        elif (at := text.find(CONFLICT)) >= 0:
            self._report(Event.CONFLICT, cause_of(text[at + len(CONFLICT) :]))
        elif record.levelno < logging.ERROR:
            return
        elif refused := _REFUSED.match(text):
            self._report(Event.REFUSED, cause_of(refused[1]))
        elif text.startswith(CANNOT_CONSUME):
            self._break(thread, cause_of(text.removeprefix(CANNOT_CONSUME)))
        elif text.startswith(DUPLICATE):
            # A duplicate is never acknowledged: where the number of such messages is limited
            # (rabbit_qos_prefetch_count) no more would be sent. Another listener gets it.
            self._break(thread, "")
        elif text.startswith(RAISED):
            error = record.exc_info[1] if record.exc_info else None
            cause = cause_of(f"{type(error).__name__}: {error}") if error else text
            self._break(thread, f"the thread that polls for messages fails: {cause}")
        elif (lost := _LOST.match(text)) and not line.endswith(NEXT_NODE):
            self._report(Event.LOST, cause_of(text[lost.end() :]))

    def _break(self, thread: threading.Thread, cause: str) -> None:
        if is_poller(thread):  # else it is the one that starts listeners
            self.ignore(thread)
        self._report(Event.BROKEN, cause)


def is_poller(thread: threading.Thread) -> bool:
    """Whether a thread is one in which oslo.messaging polls for messages."""
    return thread.name.endswith(POLLER)


def cause_of(text: str) -> str:
    """The cause in an error of oslo.messaging, as one printable line without its frames."""
    text = _SECRET.sub("://***@", _WRAPPED.sub("", _one_line(text)))
    return _LOST_CONNECTION.sub("the connection was lost", text)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that don't fit, or that can't be formatted
        return str(record.msg)


def _one_line(text: str) -> str:
    printable = "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST])
    return " ".join(printable.split())
