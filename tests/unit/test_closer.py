# SPDX-License-Identifier: Apache-2.0
import errno
import os
import threading
from pathlib import Path

import pytest

from tests.services.waiting import wait_for
from watcher.staging import closer as closer_module
from watcher.staging.closer import Closer


class Held:
    """Files whose closing takes as long as a test wants."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.may_close = threading.Event()
        self.closed = threading.Semaphore(0)
        self.by: list[threading.Thread] = []
        close = os.close

        def closing(descriptor: int) -> None:
            if descriptor in self.descriptors:
                self.by.append(threading.current_thread())
                if self.by[-1] is not threading.main_thread():
                    self.may_close.wait(30)
                self.closed.release()
            close(descriptor)

        self.descriptors: set[int] = set()
        monkeypatch.setattr(os, "close", closing)

    def open(self) -> int:
        """One more descriptor."""
        descriptor = os.open(self.directory, os.O_RDONLY)
        self.descriptors.add(descriptor)
        return descriptor


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(tmp_path, monkeypatch)


def test_one_thread_closes_all(held: Held) -> None:
    closer = Closer()
    held.may_close.set()
    for _ in range(5):
        closer.close(held.open())
    for _ in range(5):
        assert held.closed.acquire(timeout=30)
    assert len(set(held.by)) == 1
    assert held.by[0].daemon and held.by[0] is not threading.main_thread()


def test_what_the_queue_does_not_take_is_closed_by_the_caller(held: Held) -> None:
    closer = Closer()
    for _ in range(closer_module.MAX_OPEN + 5):
        closer.close(held.open())
    assert threading.main_thread() in held.by
    held.may_close.set()
    for _ in range(closer_module.MAX_OPEN + 5):
        assert held.closed.acquire(timeout=30)
    assert len(set(held.by)) == 2


def test_without_a_free_thread_the_caller_closes(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    closer = Closer()
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            closer.close(held.open())
    assert held.by == [threading.main_thread()] * 3
    held.may_close.set()
    closer.close(held.open())
    assert held.closed.acquire(timeout=30)


def test_a_thread_that_ended_is_replaced(held: Held) -> None:
    closer = Closer()
    closer._thread = threading.Thread(target=lambda: None)
    held.may_close.set()
    closer.close(held.open())
    assert held.closed.acquire(timeout=30)
    assert held.by[0] is not threading.main_thread()


@pytest.mark.parametrize("threads", [0, 1])
def test_an_error_of_the_device_is_no_failed_removal(
    held: Held, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """The name is gone already: with an error, the removal would miss in audit and counts."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def failing(descriptor: int) -> None:
        close(descriptor)
        if descriptor in held.descriptors:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    close = os.close
    monkeypatch.setattr(os, "close", failing)
    if not threads:
        monkeypatch.setattr(threading.Thread, "start", refuse)
    closer = Closer()
    held.may_close.set()
    for _ in range(closer_module.MAX_OPEN + 5):
        closer.close(held.open())
    for _ in range(closer_module.MAX_OPEN + 5):
        assert held.closed.acquire(timeout=30)


def test_the_caller_closes_despite_an_error_when_the_queue_is_full(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    closer = Closer()
    for _ in range(closer_module.MAX_OPEN + 1):
        closer.close(held.open())  # the thread has one of them, or is about to
    close = os.close

    def failing(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "close", failing)
        closer.close(held.open())
        closer.close(held.open())
    assert threading.main_thread() in held.by
    held.may_close.set()
    for _ in range(closer_module.MAX_OPEN + 3):
        assert held.closed.acquire(timeout=30)


def test_a_thread_that_ended_is_a_failure_while_descriptors_wait(held: Held) -> None:
    closer = Closer()
    assert closer.failure is None
    closer._thread = threading.Thread(target=lambda: None)
    assert closer.failure is None, "there is nothing to close"
    closer._waiting.put(held.open())
    assert closer.failure == "its thread has ended"
    held.may_close.set()
    closer.supervise()
    assert held.closed.acquire(timeout=30)
    assert held.by[0] is not threading.main_thread() and closer.failure is None


def test_a_close_without_end_is_a_failure(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    closer = Closer()
    closer.close(held.open())
    wait_for(lambda: held.by, 30, "the thread to close it")
    assert closer.failure is None
    monkeypatch.setattr(closer_module, "STALL_TIMEOUT", -1.0)
    assert str(closer.failure).startswith("closing a removed file takes ")
    held.may_close.set()
    wait_for(lambda: closer.failure is None, 30, "its end")
