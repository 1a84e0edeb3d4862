# SPDX-License-Identifier: Apache-2.0
"""The queue between the triggers and the one cleaner: keys, coalescing, delays.

A key says where to look, never what to do. It waits in the queue once, however often it is put.
"""

import heapq
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

# While a backlog lasts its keys gather until there are so many, or for so many seconds: one query
# asks for all of them, and the thread that puts them isn't interrupted at each one.
MANY = 32
GATHER = 0.01


@dataclass(frozen=True, slots=True)
class Sweep:
    """Look at every file of the staging directory.

    :param reconnect: number of the broker's return after which it is to come; an earlier sweep,
        which may see too little, doesn't take its place
    """

    reconnect: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """Look at the files of one image: an ``image.delete`` notification came for it."""

    id: str


@dataclass(frozen=True, slots=True)
class File:
    """Look at one file name: a file event came for it, or its grace is over."""

    name: str


@dataclass(frozen=True, slots=True)
class Directory:
    """Look whether the staging directory is still the one that is watched."""


Key = Sweep | Image | File | Directory


class Waiting(NamedTuple):
    """What is kept of a key that waits.

    :param attempt: the taker's count of rechecks, 0 for a new event
    :param since: moment of the queue's clock at which the event came
    """

    attempt: int
    since: float


class WorkQueue:
    """Keys that wait, each once, some of them until a later time.

    Any thread may put; one thread takes all that is due at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._ready: dict[Key, Waiting] = {}
        self._due: dict[Key, tuple[float, Waiting]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._sequence = 0
        self._closed = False
        self._took_several = False
        self._gathering = False

    @property
    def closed(self) -> bool:
        """Whether the queue was closed: the taker ends what it has in hand and stops."""
        return self._closed

    def put(
        self, key: Key, *, delay: float = 0.0, attempt: int = 0, since: float | None = None
    ) -> None:
        """Put a key, to be taken now or ``delay`` seconds from now.

        A key that waits already keeps the earlier of the two times. ``attempt`` and ``since``
        (default: now) come back with the key: those that were put with that time, and of puts
        that are due already the least.
        """
        with self._changed:
            now = self._clock()
            waiting = Waiting(attempt, now if since is None else since)
            ready = self._ready.get(key)
            if ready is not None:
                self._ready[key] = Waiting(
                    min(ready.attempt, attempt), min(ready.since, waiting.since)
                )
                return
            if delay <= 0:
                self._due.pop(key, None)
                self._ready[key] = waiting
            else:
                due = now + delay
                if key in self._due and self._due[key][0] <= due:
                    return
                self._due[key] = (due, waiting)
                self._sequence += 1
                heapq.heappush(self._heap, (due, self._sequence, key))
            if not self._gathering or len(self._ready) >= MANY:
                self._changed.notify()

    def take(self) -> dict[Key, Waiting]:
        """Wait for keys that are due; take all of them.

        What comes after a rest is taken at once. When several keys were taken the last time, and
        more have come meanwhile, it is a backlog: these wait for others for a moment.

        Empty once the queue is closed.
        """
        with self._changed:
            if self._took_several and 0 < len(self._ready) < MANY and not self._closed:
                self._gathering = True
                self._changed.wait(GATHER)
                self._gathering = False
            while not self._closed:
                self._promote()
                if self._ready:
                    self._took_several = len(self._ready) > 1
                    return self._take_ready()
                timeout = self._heap[0][0] - self._clock() if self._heap else None
                self._changed.wait(timeout)
            return {}

    def take_events(self) -> dict[Key, Waiting]:
        """Take the images and files that are due, without waiting; sweeps stay."""
        with self._changed:
            if self._closed:
                return {}
            self._promote()
            taken = self._take_ready()
            self._ready = {k: w for k, w in taken.items() if not isinstance(k, Image | File)}
            return {k: w for k, w in taken.items() if k not in self._ready}

    @property
    def depth(self) -> int:
        """Number of keys that are due or wait for their time."""
        return len(self._ready) + len(self._due)

    @property
    def delayed(self) -> int:
        """Number of those keys that wait for their time."""
        return len(self._due)

    def close(self) -> None:
        """Wake the taker for the last time; nothing more is handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _take_ready(self) -> dict[Key, Waiting]:
        taken, self._ready = self._ready, {}
        return taken

    def _promote(self) -> None:
        now = self._clock()
        while self._heap:
            due, _, key = self._heap[0]
            waiting = self._due.get(key)
            stale = waiting is None or waiting[0] != due
            if not stale and due > now:
                return
            heapq.heappop(self._heap)
            if waiting is not None and not stale:
                del self._due[key]
                self._ready.setdefault(key, waiting[1])
