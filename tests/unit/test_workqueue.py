# SPDX-License-Identifier: Apache-2.0
import threading
import time

import pytest

from watcher import workqueue as workqueue_module
from watcher.workqueue import (
    GATHER,
    MANY,
    Directory,
    File,
    Image,
    Key,
    Sweep,
    Waiting,
    WorkQueue,
)


@pytest.fixture
def queue() -> WorkQueue:
    return WorkQueue()


def attempts(taken: dict[Key, Waiting]) -> dict[Key, int]:
    return {key: waiting.attempt for key, waiting in taken.items()}


def test_keys_of_different_kinds_differ() -> None:
    assert len({Sweep(), Directory(), Image("x"), File("x")}) == 4


def test_each_key_waits_once(queue: WorkQueue) -> None:
    for key in (Image("a"), Sweep(), Image("a"), File("a"), Sweep()):
        queue.put(key)
    assert list(queue.take()) == [Sweep(), Image("a"), File("a")]


def test_taken_keys_can_be_put_again(queue: WorkQueue) -> None:
    queue.put(Sweep())
    queue.take()
    queue.put(Sweep())
    assert attempts(queue.take()) == {Sweep(): 0}


def test_a_delayed_key_comes_when_it_is_due_and_not_before(queue: WorkQueue) -> None:
    begun = time.monotonic()
    queue.put(Sweep(), delay=0.05, attempt=3)
    queue.put(File("now"))
    assert attempts(queue.take()) == {File("now"): 0}
    assert attempts(queue.take()) == {Sweep(): 3}
    assert time.monotonic() - begun >= 0.05


@pytest.mark.parametrize("delays", [(0.02, 30.0), (30.0, 0.02), (30.0, 0.0)])
def test_the_earlier_time_holds(queue: WorkQueue, delays: tuple[float, float]) -> None:
    for delay in delays:
        queue.put(Sweep(), delay=delay)
    assert attempts(queue.take()) == {Sweep(): 0}
    queue.put(File("next"))
    assert attempts(queue.take()) == {File("next"): 0}, "the later time was forgotten"


def test_a_new_event_restarts_the_attempts(queue: WorkQueue) -> None:
    queue.put(Image("a"), attempt=5)
    queue.put(Image("a"))
    assert attempts(queue.take()) == {Image("a"): 0}


def test_delayed_keys_come_in_order_of_time(queue: WorkQueue) -> None:
    queue.put(File("b"), delay=0.04)
    queue.put(File("a"), delay=0.02)
    assert next(iter(queue.take())) == File("a")


def test_take_events_leaves_the_sweep(queue: WorkQueue) -> None:
    keys: list[Key] = [Sweep(), Image("a"), File("b"), Directory()]
    for key in keys:
        queue.put(key)
    assert list(queue.take_events()) == [Image("a"), File("b")]
    assert queue.take_events() == {}
    assert set(queue.take()) == {Sweep(), Directory()}


@pytest.mark.parametrize("kind", [Image, File])
def test_take_events_of_one_kind_leaves_the_other(
    queue: WorkQueue, kind: type[Image | File]
) -> None:
    keys: list[Key] = [Image("a"), File("b"), Image("c"), File("d")]
    for key in keys:
        queue.put(key)
    wanted = [key for key in keys if isinstance(key, kind)]
    assert list(queue.take_events(kind)) == wanted
    assert queue.take_events(kind) == {} and queue.depth == 2
    assert list(queue.take_events()) == [key for key in keys if key not in wanted]


def test_put_wakes_the_taker(queue: WorkQueue) -> None:
    taken: list[Key] = []
    taker = threading.Thread(target=lambda: taken.extend(queue.take()))
    taker.start()
    queue.put(Image("a"))
    taker.join(10)
    assert taken == [Image("a")]


def test_close_wakes_the_taker_with_nothing(queue: WorkQueue) -> None:
    taken: list[dict[Key, Waiting]] = []
    queue.put(Sweep(), delay=60)
    taker = threading.Thread(target=lambda: taken.append(queue.take()))
    taker.start()
    queue.close()
    taker.join(10)
    assert taken == [{}]
    queue.put(Image("late"))
    assert queue.take() == {} and queue.take_events() == {}


class FakeClock:
    """Time passes on request, or while something waits."""

    def __init__(self, queue: WorkQueue) -> None:
        self.waited: list[float | None] = []
        self.now = 0.0
        queue._clock = lambda: self.now
        queue._changed.wait = self.wait  # type: ignore[method-assign]

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout)
        self.now += timeout or 0.0
        return True


@pytest.fixture
def clock(queue: WorkQueue) -> FakeClock:
    return FakeClock(queue)


def test_the_taker_sleeps_until_the_next_key_is_due(queue: WorkQueue, clock: FakeClock) -> None:
    queue.put(File("b"), delay=7)
    queue.put(File("a"), delay=5)
    assert attempts(queue.take()) == {File("a"): 0}
    assert attempts(queue.take()) == {File("b"): 0}
    assert clock.waited == [5, 2]


@pytest.mark.parametrize(
    ("taken_before", "meanwhile", "waited"),
    [
        (1, 1, []),
        (1, 2, []),
        (2, 1, [GATHER]),
        (2, MANY - 1, [GATHER]),
        (2, MANY, []),
    ],
)
def test_keys_gather_while_a_backlog_lasts(
    queue: WorkQueue, clock: FakeClock, taken_before: int, meanwhile: int, waited: list[float]
) -> None:
    for count in (taken_before, meanwhile):
        keys = [Image(str(number)) for number in range(count)]
        for key in keys:
            queue.put(key)
        assert list(queue.take()) == keys
    assert clock.waited == waited


def test_what_comes_after_a_rest_is_taken_at_once(queue: WorkQueue, clock: FakeClock) -> None:
    rested: list[float | None] = []

    def rest(timeout: float | None = None) -> bool:
        rested.append(timeout)
        queue.put(File("single"))
        return True

    queue.put(Image("a"))
    queue.put(Image("b"))
    queue.take()
    queue._changed.wait = rest  # type: ignore[method-assign]
    assert list(queue.take()) == [File("single")]
    assert rested == [None]


def test_who_gathers_is_woken_by_many_keys_or_the_end_only(
    queue: WorkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[int] = []
    queue.put(Image("a"))
    queue.put(Image("b"))
    queue.take()
    queue.put(Image("first"))

    def put_many(timeout: float | None = None) -> bool:
        monkeypatch.setattr(queue._changed, "notify", lambda *_: woken.append(queue.depth))
        for number in range(MANY - 1):
            queue.put(Image(str(number)))
        queue.close()
        return True

    monkeypatch.setattr(queue._changed, "wait", put_many)
    assert queue.take() == {}
    assert woken == [MANY, MANY]


@pytest.mark.parametrize(
    ("puts", "due"),
    [
        ([(0, 5, 1)], {5: 1}),
        ([(0, 5, 1), (0, 5, 2)], {5: 1}),
        ([(0, 5, 1), (0, 9, 2)], {5: 1}),
        ([(0, 9, 1), (0, 5, 2)], {5: 2}),
        ([(0, 9, 1), (3, 0, 0)], {3: 0}),
        ([(0, 9, 1), (0, 5, 2), (6, 30, 3)], {5: 2, 36: 3}),
        ([(0, 9, 1), (0, 5, 2), (6, 1, 3)], {5: 2, 7: 3}),
        ([(0, 9, 1), (3, 0, 0), (4, 30, 2)], {3: 0, 34: 2}),
    ],
)
def test_when_a_key_comes_and_with_which_attempt(
    queue: WorkQueue,
    clock: FakeClock,
    puts: list[tuple[float, float, int]],
    due: dict[float, int],
) -> None:
    """``puts``: (at, delay, attempt)"""
    came: dict[float, int] = {}
    queue.put(File("another"), delay=8)
    for clock.now in range(50):
        for at, delay, attempt in puts:
            if at == clock.now:
                queue.put(File("a"), delay=delay, attempt=attempt)
        taken = queue.take_events()
        if File("a") in taken:
            came[clock.now] = taken[File("a")].attempt
    assert came == due


def test_keys_due_at_the_same_time_come_in_the_order_in_which_they_were_put(
    queue: WorkQueue, clock: FakeClock
) -> None:
    keys: list[Key] = [File("b"), File("c"), File("a")]
    for key in keys:
        queue.put(key, delay=5)
    assert list(queue.take()) == keys


def test_the_moment_of_the_first_event_comes_back_with_a_key() -> None:
    now = 100.0
    queue = WorkQueue(lambda: now)
    queue.put(Image("a"))
    queue.put(Image("b"), attempt=2, since=90.0)
    queue.put(File("later"), delay=5.0)
    now = 103.0
    queue.put(Image("a"))
    queue.put(Image("b"))
    assert queue.depth == 3
    assert queue.take() == {Image("a"): Waiting(0, 100.0), Image("b"): Waiting(0, 90.0)}
    now = 105.0
    assert queue.take() == {File("later"): Waiting(0, 100.0)}
    assert queue.depth == 0


@pytest.mark.parametrize("ready", [True, False])
def test_a_key_that_must_not_be_taken_earlier_replaces_one_that_waits(
    queue: WorkQueue, clock: FakeClock, ready: bool
) -> None:
    queue.put(Sweep(), delay=0 if ready else 2)
    queue.put(Sweep(), delay=5, attempt=3, replace=True)
    assert queue.depth == queue.delayed == 1
    queue.put(Sweep())  # neither now
    queue.put(Sweep(), delay=1)  # nor earlier
    queue.put(Sweep(), delay=9)  # nor later
    queue.put(File("a"), delay=4.5)
    assert attempts(queue.take()) == {File("a"): 0} and clock.now == 4.5
    assert queue.take() == {Sweep(): Waiting(0, 0.0)} and clock.now == 5
    queue.put(Sweep())
    assert attempts(queue.take()) == {Sweep(): 0}, "once taken it may be put for any time"


@pytest.mark.parametrize(("first", "second", "due"), [(5, 9, 9), (9, 5, 9)])
def test_of_two_that_must_not_be_taken_earlier_the_later_time_holds(
    queue: WorkQueue, clock: FakeClock, first: float, second: float, due: float
) -> None:
    queue.put(Sweep(), delay=first, replace=True)
    queue.put(Sweep(), delay=second, replace=True)
    queue.take()
    assert clock.now == due and queue.depth == 0


def test_what_could_not_be_handled_comes_back_as_it_was(queue: WorkQueue, clock: FakeClock) -> None:
    keys: dict[Key, Waiting] = {
        Image("a"): Waiting(2, -7.0),
        File("b"): Waiting(0, -1.0),
        Sweep(): Waiting(0, 0.0),
    }
    queue.requeue(keys, delay=4)
    assert queue.delayed == 3 and queue.take_events() == {}
    assert queue.take() == keys and clock.now == 4


def test_a_new_event_does_not_wait_with_what_was_put_back(
    queue: WorkQueue, clock: FakeClock
) -> None:
    queue.requeue({Image("a"): Waiting(2, -7.0)}, delay=60)
    queue.put(Image("a"))
    assert queue.take() == {Image("a"): Waiting(0, 0.0)}
    assert clock.now == 0 and queue.depth == 0


def test_of_a_key_put_several_times_the_first_event_counts(
    queue: WorkQueue, clock: FakeClock
) -> None:
    clock.now = 50.0
    queue.put(Image("a"), attempt=3, since=40.0)
    queue.put(Image("a"), attempt=1, since=45.0)
    queue.put(Image("b"), attempt=1, since=45.0)
    queue.put(Image("b"), attempt=3, since=40.0)
    assert queue.take() == {Image("a"): Waiting(1, 40.0), Image("b"): Waiting(1, 40.0)}


def test_beyond_the_most_keys_a_sweep_stands_for_all_others(
    queue: WorkQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workqueue_module, "MAX_KEYS", 3)
    queue.put(File("a"), delay=60)
    queue.put(Image("b"))
    queue.put(File("c"))
    queue.put(File("c"))  # waits already
    assert queue.depth == 3
    queue.put(File("d"), delay=60)
    queue.put(Image("e"))
    queue.put(Directory())  # one of a kind: needs no limit
    queue.put(File("a"))  # waits already, only later
    taken = queue.take()
    assert set(taken) == {Image("b"), File("c"), Sweep(), Directory(), File("a")}
    assert queue.depth == 0


def test_too_many_keys_do_not_hasten_a_sweep_that_must_come_later(
    queue: WorkQueue, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workqueue_module, "MAX_KEYS", 1)
    queue.put(Sweep(), delay=30, replace=True)
    queue.put(Image("a"))
    assert queue.depth == 1
    assert list(queue.take()) == [Sweep()] and clock.now == 30


def test_times_that_no_longer_hold_need_bounded_memory(
    queue: WorkQueue, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workqueue_module, "MAX_STALE", 10)
    queue.put(File("last"), delay=100)
    for _ in range(1000):
        queue.put(File("a"), delay=60)
        queue.put(File("a"))
        queue.take()
    assert len(queue._heap) <= 2 + 10 + 1
    queue.put(File("first"), delay=50)
    assert list(queue.take()) == [File("first")] and clock.now == 50
    assert list(queue.take()) == [File("last")] and clock.now == 100


def test_who_waits_for_the_end_is_woken_by_it(queue: WorkQueue) -> None:
    assert not queue.wait_closed(0) and not queue.closed
    ended: list[bool] = []
    waiter = threading.Thread(target=lambda: ended.append(queue.wait_closed(60)))
    waiter.start()
    queue.close()
    waiter.join(30)
    assert ended == [True] and queue.closed and queue.wait_closed(0)


def test_keys_are_due_in_time_after_stale_times_were_dropped(
    queue: WorkQueue, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [File(str(number)) for number in range(200)]
    for number, key in enumerate(keys):
        queue.put(key, delay=1 + number * 37 % 200)
    for key in keys[::3]:
        queue.put(key)
    queue.take()
    monkeypatch.setattr(workqueue_module, "MAX_STALE", -200)
    queue.put(File("one more"), delay=150.5)
    assert len(queue._heap) == queue.delayed == 134
    due: list[Key] = []
    while queue.depth:
        due.extend(queue.take())
    left = [(1.0 + number * 37 % 200, key) for number, key in enumerate(keys) if number % 3]
    expected = sorted([*left, (150.5, File("one more"))], key=lambda pair: pair[0])
    assert due == [key for _, key in expected]
    assert clock.now == expected[-1][0]


def test_a_backlog_does_not_delay_the_end(queue: WorkQueue, clock: FakeClock) -> None:
    queue.put(Image("a"))
    queue.put(Image("b"))
    queue.take()
    queue.put(Image("c"))
    queue.close()
    assert queue.take() == {} and clock.waited == []
