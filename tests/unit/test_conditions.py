# SPDX-License-Identifier: Apache-2.0
import io
import logging

import pytest
from oslo_config import cfg
from oslo_log import formatters, log

from watcher.conditions import MAX_LENGTH, Condition


def test_one_line_when_it_begins_and_one_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fault = Condition(log.getLogger("watcher.test"), "Lost: %s", "Back")
    assert not fault.active and not fault.end()
    for cause in ("refused", "refused", "timed out", "refused"):
        fault.begin(cause)
    assert fault.active and fault.cause == "timed out; refused"
    assert fault.end() and not fault.end()
    fault.begin("refused")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "Lost: refused"),
        ("INFO", "Back"),
        ("ERROR", "Lost: refused"),
    ]


def test_causes_are_bounded_and_differ_by_more_than_numbers() -> None:
    condition = Condition(log.getLogger("watcher.test"), "Lost: %s", "Back")
    for number in range(1000):
        condition.begin(f"unreachable after {number} ms")
    assert condition.cause == "unreachable after 999 ms"
    for letter in "abcdef":
        condition.begin(letter * 10_000)
    assert condition.cause == "; ".join(letter * MAX_LENGTH for letter in "def")


def test_a_warning_begins_as_one(caplog: pytest.LogCaptureFixture) -> None:
    condition = Condition(log.getLogger("watcher.test"), "Kept: %s", "Back", level=logging.WARNING)
    condition.begin("why")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_nothing_is_logged_of_one_that_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fault = Condition(log.getLogger("watcher.test"), "Lost: %s", "Back")
    assert not fault.forget()
    fault.begin("refused")
    assert fault.forget() and not fault.active and not fault.end()
    assert [record.getMessage() for record in caplog.records] == ["Lost: refused"]


def test_a_current_exception_is_not_logged_a_second_time() -> None:
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf([])
    handler.setFormatter(formatters.ContextFormatter(config=conf))
    logger = logging.getLogger("watcher.test")
    logger.addHandler(handler)
    try:
        raise OSError("refused")
    except OSError as error:
        Condition(log.getLogger("watcher.test"), "Lost: %s", "Back").begin(str(error))
    finally:
        logger.removeHandler(handler)
    assert said.getvalue().endswith("Lost: refused\n")
