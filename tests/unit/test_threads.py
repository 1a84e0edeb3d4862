# SPDX-License-Identifier: Apache-2.0
import logging
import threading
from collections.abc import Callable, Iterator

import pytest
from oslo_log import log

from tests.services.waiting import wait_for
from watcher import backoff, threads
from watcher.conditions import Condition
from watcher.threads import Supervised

LOG = log.getLogger(__name__)


class Work:
    """What a thread does: nothing, until it is to end."""

    def __init__(self) -> None:
        self.ends = threading.Event()
        self.runs = 0

    def __call__(self) -> None:
        """The thread."""
        self.runs += 1
        self.ends.wait(30)


@pytest.fixture
def work() -> Iterator[Work]:
    made = Work()
    yield made
    made.ends.set()


@pytest.fixture
def fault() -> Condition:
    return Condition(LOG, "failed: %s", "works again")


@pytest.fixture
def supervised(work: Work, fault: Condition) -> Supervised:
    return Supervised(work, "worker", fault)


@pytest.fixture
def end(work: Work, supervised: Supervised) -> Callable[[], None]:
    def end() -> None:
        work.ends.set()
        wait_for(lambda: supervised.ended, 30, "its end")
        work.ends = threading.Event()

    return end


def test_a_thread_that_ended_is_started_again_and_logged_once(
    supervised: Supervised,
    work: Work,
    fault: Condition,
    end: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    supervised.start()
    supervised.supervise()
    assert not supervised.ended and not caplog.messages
    end()
    supervised.supervise()
    wait_for(lambda: work.runs == 2, 30, "its second run")
    assert fault.cause == "its thread has ended", "until it is seen to run"
    supervised.supervise()
    assert fault.cause is None and work.runs == 2
    assert caplog.messages == ["failed: its thread has ended", "works again"]


def test_one_that_ends_again_waits_longer(
    supervised: Supervised,
    work: Work,
    end: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[int] = []
    monkeypatch.setattr(backoff, "retry_delay", lambda attempt: waits.append(attempt) or 3600.0)  # type: ignore[func-returns-value]
    supervised.start()
    end()
    supervised.supervise()
    end()
    supervised.supervise()  # it ran again
    for _ in range(3):
        supervised.supervise()
    assert work.runs == 2 and supervised.ended
    assert waits == [1]


def test_one_that_ran_for_long_starts_again_at_once(
    supervised: Supervised,
    work: Work,
    end: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "retry_delay", lambda attempt: 3600.0)
    monkeypatch.setattr(threads, "RENEW_INTERVAL", -1.0)
    supervised.start()
    for runs in (2, 3):
        end()
        supervised.supervise()
        wait_for(lambda runs=runs: work.runs == runs, 30, "its next run")  # type: ignore[misc]
        supervised.supervise()


def test_without_a_free_thread_it_starts_later(
    supervised: Supervised, work: Work, fault: Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(backoff, "retry_delay", lambda attempt: 0.0)
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", refuse)
        supervised.start()
        supervised.supervise()
    assert fault.cause == "can't start new thread"
    supervised.supervise()
    wait_for(lambda: work.runs == 1, 30, "its run")
    supervised.supervise()
    assert fault.cause is None


def test_a_fault_of_its_work_is_not_ended(supervised: Supervised, fault: Condition) -> None:
    """It runs, and fails each time."""
    supervised.start()
    fault.begin("RuntimeError: a bug")
    supervised.supervise()
    assert fault.cause == "RuntimeError: a bug"


def test_once_stopped_it_stays_so(supervised: Supervised, work: Work, fault: Condition) -> None:
    supervised.start()
    assert not supervised.stop()
    work.ends.set()
    assert supervised.stop(30.0)
    supervised.supervise()
    assert supervised.ended and work.runs == 1 and fault.cause is None


def test_one_that_was_not_started_stays_so(supervised: Supervised, work: Work) -> None:
    supervised.supervise()
    assert supervised.ended and work.runs == 0


def test_a_thread_that_just_starts_has_not_ended(
    fault: Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor to itself, which may ask before its start has returned."""
    seen: list[bool] = []
    itself = Supervised(lambda: seen.append(itself.ended), "worker", fault)
    start = threading.Thread.start

    def slow(thread: threading.Thread) -> None:
        start(thread)
        wait_for(lambda: seen, 30, "its answer")

    monkeypatch.setattr(threading.Thread, "start", slow)
    itself.start()
    assert seen == [False]
