# SPDX-License-Identifier: Apache-2.0
"""Threads that are started again when they end."""

import threading
import time
from collections.abc import Callable

from watcher import backoff
from watcher.conditions import Condition

RENEW_INTERVAL = 60.0  # seconds; what worked for longer starts again without a wait
STALL_TIMEOUT = 120.0  # seconds; far longer than a database, brokers or the blocks of a file take

ENDED = "its thread has ended"


class Supervised:
    """A daemon thread that is to run until the process stops.

    :param fault: active from the moment an end is noticed until the thread runs again
    """

    def __init__(self, target: Callable[[], None], name: str, fault: Condition) -> None:
        self._target, self._name, self._fault = target, name, fault
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._started = self._retry_at = 0.0
        self._attempt = 0
        self._failing = self._stopping = False

    @property
    def ended(self) -> bool:
        """Whether it doesn't run, and isn't about to."""
        thread = self._thread
        return thread is None or (thread.ident is not None and not thread.is_alive())

    def start(self) -> None:
        """Start it; where that isn't possible `supervise` tries again."""
        with self._lock:
            self._start()

    def supervise(self) -> None:
        """Start it again if it ended, after a wait. Any thread may call it, again and again."""
        with self._lock:
            if self._stopping or not self._started:
                return
            if not self.ended:
                if self._failing:
                    self._failing = False
                    self._fault.end()
                if time.monotonic() - self._started > RENEW_INTERVAL:
                    self._attempt, self._retry_at = 0, 0.0
                return
            self._fail(ENDED)
            if time.monotonic() >= self._retry_at:
                self._start()

    def stop(self, timeout: float | None = None) -> bool:
        """Start it no more, and wait for its end; True when it ended.

        :param timeout: seconds; None: don't wait
        """
        with self._lock:
            self._stopping = True
        if self._thread is not None and timeout is not None:
            self._thread.join(timeout)
        return self.ended

    def _start(self) -> None:
        self._started = self._retry_at = time.monotonic()
        if self._attempt:
            self._retry_at += backoff.retry_delay(self._attempt)
        self._attempt += 1
        thread = threading.Thread(target=self._target, name=self._name, daemon=True)
        self._thread = thread  # before it runs: it may ask for its own state
        try:
            thread.start()
        except RuntimeError as error:  # no thread can be started
            self._thread = None
            self._fail(str(error))

    def _fail(self, cause: str) -> None:
        if not self._failing:
            self._failing = True
            self._fault.begin(cause)
