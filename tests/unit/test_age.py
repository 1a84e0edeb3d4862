# SPDX-License-Identifier: Apache-2.0
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from watcher.reconcile import age as age_module
from watcher.reconcile.age import AgeClock, Sightings


class FakeTime:
    """A wall clock that can be set, and a monotonic one that can't."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 1_000_000.0, 500.0

    def run(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
def now() -> FakeTime:
    return FakeTime()


@pytest.fixture
def clock(now: FakeTime) -> AgeClock:
    return AgeClock(lambda: now.wall, lambda: now.monotonic)


def status(mtime: float, ctime: float) -> os.stat_result:
    return os.stat_result((0o100644, 1, 1, 1, 0, 0, 0, 0, mtime, ctime))


def test_the_last_change_of_any_kind_counts(now: FakeTime, clock: AgeClock) -> None:
    assert clock.age(status(now.wall - 100, now.wall - 100)) == 100
    assert clock.age(status(now.wall - 10, now.wall - 100)) == 10
    assert clock.age(status(now.wall - 100, now.wall - 10)) == 10, "an old file moved in is young"


def test_a_file_of_the_future_is_young(now: FakeTime, clock: AgeClock) -> None:
    assert clock.age(status(now.wall + 50, now.wall)) == -50


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_after_a_step_of_the_clock_files_age_again(
    now: FakeTime, clock: AgeClock, step: float, caplog: pytest.LogCaptureFixture
) -> None:
    written = status(now.wall, now.wall)
    now.wall += step
    with caplog.at_level(logging.WARNING):
        assert clock.age(written) <= 0
        now.run(30)
        fresh = status(now.wall - 1, now.wall - 1)
        assert clock.age(fresh) == 1
        assert clock.age(written) <= 30
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            f"System clock stepped by {step:+.0f} s; restarting absent_grace",
        )
    ], "logged once"


@pytest.mark.parametrize(("step", "age"), [(1.0, 101.0), (-1.0, 99.0), (1.25, 0.0), (-1.25, 0.0)])
def test_what_counts_as_a_step(now: FakeTime, clock: AgeClock, step: float, age: float) -> None:
    written = status(now.wall - 100, now.wall - 100)
    now.wall += step
    assert clock.age(written) == age


def test_a_clock_that_drifts_is_no_step(
    now: FakeTime, clock: AgeClock, caplog: pytest.LogCaptureFixture
) -> None:
    written = status(now.wall, now.wall)
    for _ in range(20):
        now.run(600)
        now.wall += 0.3
        age = clock.age(written)
    assert age == pytest.approx(20 * 600.3)
    assert not caplog.records


def test_real_clocks(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert 0 <= AgeClock().age(file.lstat()) < 60


OTHER_CLOCK = -86_400.0  # a server's clock has nothing to do with ours


def seen(size: int = 0, mtime: float = OTHER_CLOCK, ctime: float = OTHER_CLOCK) -> os.stat_result:
    times = {"st_mtime_ns": int(mtime * 1e9), "st_ctime_ns": int(ctime * 1e9)}
    return os.stat_result((0o100644, 1, 1, 1, 0, 0, size, 0, mtime, ctime), times)


@pytest.mark.parametrize(
    ("looks", "age"),
    [
        ([(0, seen())], 0),
        ([(0, seen()), (30, seen())], 30),
        ([(0, seen()), (30, seen()), (30, seen())], 60),
        ([(0, seen()), (30, seen(size=1))], 0),
        ([(0, seen()), (30, seen(mtime=1))], 0),
        ([(0, seen()), (30, seen(ctime=1))], 0),
        ([(0, seen()), (30, seen(size=1)), (10, seen(size=1))], 10),
        ([(0, seen()), (30, seen(size=1)), (10, seen())], 0),
        ([(0, seen()), "sweep", (30, seen())], 30),
        ([(0, seen()), "sweep", (30, seen()), "sweep", (30, seen())], 60),
        ([(0, seen()), "sweep", (30, seen(size=1)), (10, seen(size=1))], 10),
        ([(0, seen()), "sweep", "sweep", (30, seen())], 0),
    ],
)
def test_how_long_a_file_has_been_seen_as_it_is(
    now: FakeTime, looks: Sequence[tuple[float, os.stat_result] | str], age: float
) -> None:
    sightings = Sightings(lambda: now.monotonic)
    reported = math.nan
    for look in looks:
        if isinstance(look, str):
            sightings.begin()
        else:
            now.run(look[0])
            sightings.age("another file", seen(size=round(now.monotonic)))
            reported = sightings.age("file", look[1])
    assert reported == age


def test_what_is_too_much_to_remember_is_young(
    now: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(age_module, "MAX_SEEN", 2)
    sightings = Sightings(lambda: now.monotonic)
    assert [sightings.age(name, seen()) for name in "abc"] == [0, 0, -math.inf]
    now.run(60)
    assert [sightings.age(name, seen()) for name in "abc"] == [60, 60, -math.inf]
    sightings.begin()
    assert [sightings.age(name, seen()) for name in "bc"] == [60, 0]
    sightings.begin()
    sightings.begin()
    assert not sightings._now and not sightings._before, "memory is given back"
