# SPDX-License-Identifier: Apache-2.0
"""The queue between the triggers and the reconciler: keys, coalescing, delays.

A key says where to look, never what to do. It waits in the queue once, however often it is put.
"""

import heapq
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

# While a backlog lasts its keys gather until there are that many, or for that many seconds: one
# query asks for all of them, and the thread that puts them isn't interrupted at each one.
MANY = 32
GATHER = 0.01

MAX_KEYS = 100_000  # about 30 MB; beyond them a sweep looks at everything instead
MAX_STALE = 1000  # times in the heap, beyond as many as wait, of keys that no longer wait for them


@dataclass(frozen=True, slots=True)
class Sweep:
    """Look at every file of the staging directory."""


@dataclass(frozen=True, slots=True)
class Image:
    """Look at the files of one image: an ``image.delete`` notification named it."""

    id: str


@dataclass(frozen=True, slots=True)
class File:
    """Look at one file name: a file event named it, or its grace is over."""

    name: str


@dataclass(frozen=True, slots=True)
class Directory:
    """Look whether the staging directory is still the one that is watched."""


Key = Sweep | Image | File | Directory


class Waiting(NamedTuple):
    """What is kept of a key that waits.

    :param attempt: the taker's count of rechecks, 0 for a new event
    :param since: moment of the queue's clock at which the event was reported
    """

    attempt: int
    since: float


class _Delayed(NamedTuple):
    due: float
    waiting: Waiting
    fixed: bool  # must not be taken before that time


class WorkQueue:
    """Keys that wait, each once, some of them until a later time.

    Any thread may put; one thread takes all that is due at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._ready: dict[type[Key], dict[Key, Waiting]] = {
            kind: {} for kind in (Directory, Sweep, Image, File)
        }
        self._delayed: dict[Key, _Delayed] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._sequence = 0
        self._closed = False
        self._took_several = False
        self._gathering = False

    @property
    def closed(self) -> bool:
        """Whether the queue was closed: the taker finishes the current removal and stops."""
        return self._closed

    def put(
        self,
        key: Key,
        *,
        delay: float = 0.0,
        attempt: int = 0,
        since: float | None = None,
        replace: bool = False,
    ) -> None:
        """Put a key, to be taken now or ``delay`` seconds from now.

        A key that waits already keeps the earlier of the two times. ``attempt`` and ``since``
        (default: now) are handed out with the key: those put with that time, or less if a later
        put says so.

        :param replace: the key must not be taken earlier; one that waits gets the later time
        """
        with self._changed:
            now = self._clock()
            waiting = Waiting(attempt, now if since is None else since)
            if replace:
                self._replace(key, now + delay, waiting)
            else:
                self._put(key, delay, now, waiting)
            if not self._gathering or self.due >= MANY:
                self._changed.notify()

    def requeue(self, keys: Mapping[Key, Waiting], *, delay: float) -> None:
        """Put keys back that could not be handled, to be taken ``delay`` seconds from now."""
        for key, waiting in keys.items():
            self.put(key, delay=delay, attempt=waiting.attempt, since=waiting.since)

    def take(self) -> dict[Key, Waiting]:
        """Wait for keys that are due; take all of them.

        What is put while the taker waits is taken at once. When several keys were taken the last
        time, and more have been put meanwhile, it is a backlog: these wait for others a moment.

        Empty once the queue is closed.
        """
        with self._changed:
            if self._took_several and 0 < self.due < MANY and not self._closed:
                self._gathering = True
                self._changed.wait(GATHER)
                self._gathering = False
            while not self._closed:
                self._promote()
                if self.due:
                    self._took_several = self.due > 1
                    return self._take_ready(*self._ready)
                timeout = self._heap[0][0] - self._clock() if self._heap else None
                self._changed.wait(timeout)
            return {}

    def take_events(self, kind: type[Image | File] | None = None) -> dict[Key, Waiting]:
        """Take the images and files that are due, or one kind of them, without waiting.

        Sweeps stay.
        """
        kinds = (Image, File) if kind is None else (kind,)
        # without the lock: asked between any two removals
        if not self._heap and not any(self._ready[each] for each in kinds):
            return {}
        with self._changed:
            if self._closed:
                return {}
            self._promote()
            return self._take_ready(*kinds)

    def wait_closed(self, timeout: float) -> bool:
        """Wait until the queue is closed, at most ``timeout`` seconds; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, timeout)

    @property
    def depth(self) -> int:
        """Number of keys that are due or wait for their time."""
        return self.due + len(self._delayed)

    @property
    def due(self) -> int:
        """Number of keys that are due."""
        return sum(map(len, self._ready.values()))

    @property
    def delayed(self) -> int:
        """Number of keys that wait for their time."""
        return len(self._delayed)

    def close(self) -> None:
        """Wake the taker for the last time; nothing more is handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _put(self, key: Key, delay: float, now: float, waiting: Waiting) -> None:
        ready, delayed = self._ready[type(key)], self._delayed.get(key)
        if key in ready:
            ready[key] = _merged(ready[key], waiting)
        elif delayed is not None and (delayed.fixed or delayed.due <= now + max(0.0, delay)):
            self._delayed[key] = delayed._replace(waiting=_merged(delayed.waiting, waiting))
        elif delayed is None and self.depth >= MAX_KEYS and isinstance(key, Image | File):
            self._put(Sweep(), 0.0, now, waiting)
        elif delay <= 0:
            self._delayed.pop(key, None)
            ready[key] = waiting
        else:
            self._delay(key, _Delayed(now + delay, waiting, fixed=False))

    def _replace(self, key: Key, due: float, waiting: Waiting) -> None:
        self._ready[type(key)].pop(key, None)
        before = self._delayed.get(key)
        if before is not None and before.fixed:
            due = max(due, before.due)
        self._delay(key, _Delayed(due, waiting, fixed=True))

    def _delay(self, key: Key, delayed: _Delayed) -> None:
        self._delayed[key] = delayed
        self._sequence += 1
        heapq.heappush(self._heap, (delayed.due, self._sequence, key))
        if len(self._heap) > 2 * len(self._delayed) + MAX_STALE:
            self._heap = [entry for entry in self._heap if not self._is_stale(entry)]
            heapq.heapify(self._heap)

    def _is_stale(self, entry: tuple[float, int, Key]) -> bool:
        due, _, key = entry
        delayed = self._delayed.get(key)
        return delayed is None or delayed.due != due

    def _take_ready(self, *kinds: type[Key]) -> dict[Key, Waiting]:
        taken: dict[Key, Waiting] = {}
        for kind in kinds:
            taken.update(self._ready[kind])
            self._ready[kind].clear()
        return taken

    def _promote(self) -> None:
        now = self._clock()
        while self._heap:
            stale = self._is_stale(self._heap[0])
            if not stale and self._heap[0][0] > now:
                return
            _, _, key = heapq.heappop(self._heap)
            if not stale:
                self._ready[type(key)].setdefault(key, self._delayed.pop(key).waiting)


def _merged(one: Waiting, other: Waiting) -> Waiting:
    return Waiting(min(one.attempt, other.attempt), min(one.since, other.since))
