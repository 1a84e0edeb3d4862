# SPDX-License-Identifier: Apache-2.0
import logging
import os
from pathlib import Path

import pytest

from watcher.age import AgeClock


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
def test_after_a_step_of_the_clock_files_age_anew(
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
            f"The system clock was set by {step:+.0f} seconds; files of unknown images wait anew",
        )
    ], "told once"


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
