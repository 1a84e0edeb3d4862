# SPDX-License-Identifier: Apache-2.0
"""Simulated time, in which code that blocks runs as it is.

What would block a thread switches to the one loop that lets time pass, as greenlets can and
the generators of the known libraries for discrete events can't: the watcher's own loops need no
second writing.
"""

import heapq
import itertools
import math
import threading
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet


class Timeline:
    """A clock, and what happens when."""

    def __init__(self) -> None:
        #: seconds since the beginning
        self.now = 0.0
        self._hub = getcurrent()
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._sequence = itertools.count()
        self._tasks: list[greenlet] = []

    def at(self, moment: float, action: Callable[..., object], *arguments: Any) -> None:
        """Do something then; at the same moment, in the order of the calls."""
        heapq.heappush(self._events, (moment, next(self._sequence), action, arguments))

    def spawn(self, moment: float, run: Callable[[], object]) -> None:
        """Begin a task then; it may `sleep`, and wait for a `Condition`."""
        task = greenlet(run, parent=self._hub)
        self._tasks.append(task)
        self.at(moment, task.switch)

    def sleep(self, seconds: float) -> None:
        """Let time pass for the task that calls."""
        self.at(self.now + seconds, getcurrent().switch)
        self.pause()

    def pause(self) -> None:
        """Leave the task that calls, until somebody switches to it."""
        self._hub.switch()

    def run(self, until: float) -> None:
        """Let time pass until then. What a task raises is raised here."""
        while self._events and self._events[0][0] <= until:
            self.now, _, action, arguments = heapq.heappop(self._events)
            action(*arguments)
        self.now = until

    def close(self) -> None:
        """End all tasks where they are."""
        for task in self._tasks:
            task.throw()


class Condition(threading.Condition):
    """A condition with one waiter, on simulated time; tasks share a thread, so its lock is free.

    A wait mostly ends long before its time: an alarm that is set already serves the next wait.
    """

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline
        self._waiter: greenlet | None = None
        self._deadline = math.inf
        self._alarms = [math.inf]  # a heap

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for `notify`, at most that many seconds."""
        self._waiter = getcurrent()
        self._deadline = math.inf if timeout is None else self._timeline.now + timeout
        self._set_alarm()
        self._timeline.pause()
        return True

    def notify(self, n: int = 1) -> None:
        """Wake the waiter."""
        if self._waiter is not None:
            self._timeline.at(self._timeline.now, self._waiter.switch)
            self._waiter = None

    def _set_alarm(self) -> None:
        if self._deadline < self._alarms[0]:
            heapq.heappush(self._alarms, self._deadline)
            self._timeline.at(self._deadline, self._alarm)

    def _alarm(self) -> None:
        heapq.heappop(self._alarms)
        if self._deadline <= self._timeline.now:
            self.notify()
        elif self._waiter is not None:
            self._set_alarm()
