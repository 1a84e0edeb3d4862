# SPDX-License-Identifier: Apache-2.0
"""The log of oslo.messaging: what is read from it, and that the installed one writes it so."""

import importlib.metadata
import logging
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from watcher import conf
from watcher.triggers import connection_log
from watcher.triggers.connection_log import ConnectionLog, Event, cause_of, is_poller
from watcher.triggers.transport import messaging

ID = "7f1d2c0a-5b1e-4f7e-9a67-3c5d1b2e4f60"
LOGGER = "oslo.messaging._drivers.impl_rabbit"


class Read(NamedTuple):
    """The log, and what was reported of it."""

    log: ConnectionLog
    reports: list[tuple[Event, str]]


@pytest.fixture
def read() -> Iterator[Read]:
    loggers = [logging.getLogger(name) for name in connection_log._LOGGERS]
    before = [(each.level, each.propagate, each.disabled, each.handlers[:]) for each in loggers]
    reports: list[tuple[Event, str]] = []
    log = ConnectionLog(lambda event, cause: reports.append((event, cause)))
    yield Read(log, reports)
    for each, (level, propagate, disabled, handlers) in zip(loggers, before, strict=True):
        each.setLevel(level)
        each.propagate, each.disabled, each.handlers = propagate, disabled, handlers


def say(handler: logging.Handler, level: int, text: str, *args: object) -> None:
    handler.emit(logging.LogRecord(LOGGER, level, "", 0, text, args, None))


FORCED = "(0, 0): (320) CONNECTION_FORCED - shutdown"
FORBIDDEN = "(403) ACCESS_REFUSED - Login was refused"


@pytest.mark.parametrize(
    ("level", "text", "reports"),
    [
        (
            "ERROR",
            f"[{ID}] AMQP server on 127.0.0.1:5672 is unreachable: [Errno 111] ECONNREFUSED. "
            "Trying again in 3 seconds.",
            [(Event.LOST, "[Errno 111] ECONNREFUSED")],
        ),
        (
            "ERROR",
            "AMQP server on host:5672 is unreachable: <RecoverableConnectionError: unknown error>",
            [(Event.LOST, "the connection was lost")],
        ),
        (
            "ERROR",
            f"AMQP server on host:5672 is unreachable: {FORCED}",
            [(Event.LOST, "(320) CONNECTION_FORCED - shutdown")],
        ),
        (
            "ERROR",
            "AMQP server host:5672 closed the connection. Check login credentials: Socket closed",
            [(Event.LOST, "Socket closed")],
        ),
        (
            "ERROR",
            "Connection failed: [Errno -2] Name or service not known (retrying in 3.0 seconds)",
            [(Event.LOST, "[Errno -2] Name or service not known")],
        ),
        ("ERROR", "Connection failed: [Errno 111] refused (retrying in 0 seconds)", []),
        (
            "ERROR",
            f"Failed to consume message from queue: (0, 0): {FORBIDDEN}",
            [(Event.BROKEN, FORBIDDEN)],
        ),
        ("ERROR", "ignoring duplicate message None", [(Event.BROKEN, "")]),
        (
            "ERROR",
            "Internal amqp error (541) during queue declare,retrying in 2 seconds. "
            "Queue: [q], error message: [Queue.declare: (541) INTERNAL_ERROR - no]",
            [(Event.REFUSED, "Queue.declare: (541) INTERNAL_ERROR - no")],
        ),
        (
            "WARNING",
            f"[{ID}] Queue q could not be declared probably because of conflicting configurations:"
            " Exchange.declare: (406) x for exchange 'glance'",
            [(Event.CONFLICT, "Exchange.declare: (406) x for exchange 'glance'")],
        ),
        (
            "INFO",
            f"[{ID}] Reconnected to AMQP server on 127.0.0.1:5672 via [amqp] client",
            [(Event.RECONNECTED, "")],
        ),
        ("ERROR", "The broker has blocked the connection: memory", []),
        ("WARNING", "AMQP server on host:5672 is unreachable: refused", []),
        ("ERROR", "This isn't it: Reconnected to AMQP server on host", []),
        (
            "ERROR",
            "Connection failed: amqp://glance:s3cr3t@host can't be used",
            [(Event.LOST, "amqp://***@host can't be used")],
        ),
    ],
)
def test_what_a_line_reports(
    read: Read, level: str, text: str, reports: list[tuple[Event, str]]
) -> None:
    say(read.log, getattr(logging, level), text)
    assert read.reports == reports


def test_a_poller_that_raises_is_broken_and_not_read_any_more(read: Read) -> None:
    read.log.attach()
    logger = logging.getLogger("oslo_utils.excutils")

    def _runner() -> None:
        for _ in range(2):
            try:
                raise MemoryError("amqp://glance:s3cr3t@host")
            except MemoryError:
                logger.exception("Unexpected exception occurred %d time(s)... retrying.", 1)

    thread = threading.Thread(target=_runner)
    assert is_poller(thread)
    thread.start()
    thread.join()
    assert read.reports == [
        (
            Event.BROKEN,
            "the thread that polls for messages fails: MemoryError: amqp://***@host",
        )
    ]


def test_the_thread_that_starts_listeners_is_read_further(read: Read) -> None:
    """A listener may fail within its start."""
    for _ in range(2):
        say(read.log, logging.ERROR, "Failed to consume message from queue: no")
    assert read.reports == [(Event.BROKEN, "no")] * 2
    read.log.ignore(threading.current_thread())
    say(read.log, logging.ERROR, "Failed to consume message from queue: no")
    assert len(read.reports) == 2


@pytest.mark.parametrize("level", [logging.CRITICAL, logging.ERROR, logging.WARNING])
def test_no_level_handler_or_logging_file_of_the_operator_matters(read: Read, level: int) -> None:
    """default_log_levels, log_config_append."""
    logger = logging.getLogger(LOGGER)
    for _ in range(2):
        logger.setLevel(level)
        logger.disabled, logger.propagate, logger.handlers = True, True, [logging.NullHandler()]
        read.log.attach()
        logger.info("[%s] Reconnected to AMQP server on host", ID)
    assert read.reports == [(Event.RECONNECTED, "")] * 2, "each line once"


class Hostile:
    """It can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("text", "args"),
    [("%s %s", ("one",)), ("%d", ("word",)), ("%s", (Hostile(),)), (Hostile(), ())],
)
def test_a_wrong_logging_call_does_not_raise(
    read: Read, text: str, args: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger(LOGGER).handlers = []  # pytest's raise
    read.log.attach()
    logging.getLogger(LOGGER).error(text, *args)
    assert not read.reports and not capsys.readouterr().err


def test_others_text_is_one_short_printable_line(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="watcher")
    say(read.log, logging.WARNING, 'Unknown priority "%s"', "\n\x1b[2Jerror\u2028" * 9999)
    (text,) = caplog.messages
    assert text.isprintable() and len(text) < 600


def test_cause_of_what_was_tried_for_good() -> None:
    text = f"Unable to connect to AMQP server on host:5672 after inf tries: {FORCED}"
    assert cause_of(text) == "(320) CONNECTION_FORCED - shutdown"


def sources(distribution: str) -> str:
    """All of an installed library's code, with the parts of each string joined."""
    files = importlib.metadata.files(distribution) or []
    texts = [
        file.read_text() for file in files if file.suffix == ".py" and "tests" not in str(file)
    ]
    return "".join("".join(texts).replace("'", '"').replace('"\n', "\n").split("\n"))


@pytest.mark.parametrize(
    ("distribution", "phrases"),
    [
        (
            "oslo.messaging",
            [
                connection_log.RECONNECTED,
                connection_log.UNREACHABLE.strip(),
                connection_log.FAILED,
                connection_log.CANNOT_CONSUME,
                connection_log.INTERNAL_ERROR,
                connection_log.DUPLICATE,
                "could not be declared probably",
                "closed",
            ],
        ),
        ("oslo.utils", [connection_log.RAISED]),
    ],
)
def test_the_installed_library_writes_these_lines(distribution: str, phrases: list[str]) -> None:
    text = sources(distribution)
    assert [phrase for phrase in phrases if phrase not in text] == []


def test_the_installed_library_polls_in_a_thread_of_this_name() -> None:
    loaded = conf.load(["--config-file", "/dev/null"])
    transport = messaging.get_notification_transport(loaded, url="fake://")
    listener = messaging.get_notification_listener(
        transport, [messaging.Target(exchange="x", topic="t")], [], executor="threading", pool="p"
    )
    before = {thread for thread in threading.enumerate() if is_poller(thread)}
    listener.start(override_pool_size=1)
    pollers = {thread for thread in threading.enumerate() if is_poller(thread)} - before
    assert len(pollers) == 1
    listener.stop()
    listener.wait()
    assert not any(thread.is_alive() for thread in pollers)
