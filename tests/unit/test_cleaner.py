# SPDX-License-Identifier: Apache-2.0
"""Glance's cases, lines and counts; and where we differ from it on purpose."""

import errno
import logging
import math
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.services import Images as GlanceImages
from tests.unit.passes import clean, finish, new_cleaner, plan, sweep
from watcher.database.images import Found, Images, ImageState
from watcher.errors import DatabaseError
from watcher.reconcile import cleaner as cleaner_module
from watcher.reconcile.cleaner import Cleaner, Outcome, Progress, Removal, Step
from watcher.reconcile.planner import Action, Reason
from watcher.staging import directory as staging_module
from watcher.staging.directory import DirectoryReplacedError, FileChangedError, Staging
from watcher.stats import Trigger


def new_id() -> str:
    return str(uuid.uuid4())


class Host:
    """One staging directory and one SQLite database with a row in it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "staging"
        self.path.mkdir()
        url = f"sqlite:///{directory / 'glance.sqlite'}"
        self.glance = GlanceImages(url)
        self.glance.create_table()
        self.glance.insert(new_id())
        self.images = Images(url)
        self.staging = Staging(f"{self.path}/")

    def cleaner(self, *, trusted: bool = True, **limits: Any) -> Cleaner:
        return new_cleaner(self.staging, self.images, trusted=trusted, **limits)

    def sweep(self, **options: Any) -> Outcome:
        with self.staging:
            return sweep(self.cleaner(**options))

    def stage(self, *names: str) -> None:
        for name in names:
            (self.path / name).write_bytes(b"data")

    @property
    def left(self) -> set[str]:
        return set(os.listdir(self.path))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.glance.close()
    made.images.close()


@pytest.fixture(autouse=True)
def debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="watcher")


def reported(*names: str) -> dict[str, float]:
    return dict.fromkeys(names, 0.0)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def counts(outcome: Outcome) -> tuple[int, int, int]:
    return outcome.cleaned, outcome.ignored, outcome.error


def test_an_empty_directory_says_nothing(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    assert counts(host.sweep()) == (0, 0, 0)
    with host.staging:
        assert counts(clean(host.cleaner(), {}, Trigger.FILE_EVENT)) == (0, 0, 0)
    assert not caplog.records


def test_live_stale_and_foreign_files(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    live, stale, midconvert = new_id(), new_id(), new_id()
    host.glance.insert(live)
    host.stage("notanimageid", live, stale, midconvert, f"{midconvert}.qcow2")
    assert counts(host.sweep()) == (3, 2, 0)
    assert host.left == {"notanimageid", live}
    said = lines(caplog)
    assert {level for level, _ in said} == {"DEBUG"}
    assert said[0][1] == "Found 5 files in staging directory for potential cleanup"
    assert said[-1][1] == "Cleaned 3 stale staging files, 2 ignored (0 errors)"
    assert {text for _, text in said[1:-1]} == {
        "Staging directory contains unexpected non-image file 'notanimageid'; ignoring",
        *(
            f"Stale staging residue found for image {name.partition('.')[0]}: "
            f"'{host.path}/{name}'; deleting now."
            for name in (stale, midconvert, f"{midconvert}.qcow2")
        ),
    }
    assert len(said) == 6


def test_a_file_that_vanishes_and_one_that_cannot_go(
    host: Host, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, stuck = new_id(), new_id()
    host.stage(gone, stuck)
    unlink = os.unlink

    def refuse(name: str, *, dir_fd: int) -> None:
        if name == stuck:  # root may unlink anything; chattr +i is tested on the real program
            raise PermissionError(1, "Operation not permitted", name)
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    listing = host.staging.listing

    def listed() -> Iterator[str]:
        found = list(listing())
        unlink(host.path / gone)
        return iter(found)

    monkeypatch.setattr(host.staging, "listing", listed)
    assert counts(host.sweep()) == (1, 0, 1)
    assert host.left == {stuck}
    errors = [text for level, text in lines(caplog) if level == "ERROR"]
    path = f"{host.path}/{stuck}"
    assert errors == [
        f"Failed to delete stale staging path '{path}': [Errno 1] Operation not permitted: '{path}'"
    ]
    assert lines(caplog)[-1][1] == "Cleaned 1 stale staging files, 0 ignored (1 errors)"


def test_converting_and_decompressing(host: Host) -> None:
    stale, converting, decompressing, staged = (new_id() for _ in range(4))
    host.glance.insert(staged)
    host.glance.insert(stale, converting, deleted=True)
    host.stage("foo", stale, converting, f"{converting}.qcow2", f"{decompressing}.uc", staged)
    assert counts(host.sweep()) == (4, 2, 0)
    assert host.left == {"foo", staged}


def test_deleted_rows_of_any_status_need_no_wait(host: Host) -> None:
    image = new_id()
    host.glance.insert(image, deleted=True, status="pending_delete")
    host.stage(image)
    assert counts(host.sweep(absent_grace=3600)) == (1, 0, 0)


def test_the_whole_database_is_deleted_rows(host: Host) -> None:
    host.glance.clear()
    image = new_id()
    host.glance.insert(image, deleted=True)
    host.stage(image)
    assert counts(host.sweep()) == (1, 0, 0)


def test_young_files_of_absent_images_wait(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    young, old = new_id(), new_id()
    host.stage(young, old)
    cleaner = host.cleaner(absent_grace=60)
    ages = {young: 20.0, old: 61.0}
    inodes = {(host.path / name).stat().st_ino: age for name, age in ages.items()}
    monkeypatch.setattr(cleaner.planner._clock, "age", lambda status: inodes[status.st_ino])
    with host.staging:
        outcome = sweep(cleaner)
    assert counts(outcome) == (1, 1, 0)
    assert host.left == {young}
    assert outcome.young == {young: pytest.approx(40, abs=0.1)}


def test_on_a_network_file_system_only_what_was_seen_long_enough_is_old(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File times are of another clock there."""
    image = new_id()
    host.stage(image)
    cleaner = host.cleaner(absent_grace=60)
    monkeypatch.setattr(cleaner.planner._clock, "age", lambda status: 86400.0)
    moment = [500.0]
    monkeypatch.setattr(cleaner.planner._sightings, "_monotonic", lambda: moment[0])
    with host.staging:
        monkeypatch.setattr(host.staging, "network", "nfs4")
        outcome = sweep(cleaner)
        assert counts(outcome) == (0, 1, 0)
        assert outcome.young == {image: pytest.approx(60, abs=0.1)}
        moment[0] += 59
        (decision,) = plan(cleaner)
        assert decision.reason is Reason.YOUNG
        (host.path / image).write_bytes(b"more data")
        moment[0] += 59
        assert counts(sweep(cleaner)) == (0, 1, 0)
        moment[0] += 60
        assert counts(sweep(cleaner)) == (1, 0, 0)


def test_a_row_that_appears_before_the_second_read_saves_the_file(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = new_id()
    host.stage(image)
    first_read = host.images.find

    def late(ids: set[str]) -> dict[str, Found]:
        images = first_read(ids)
        host.glance.insert(image)
        return images

    monkeypatch.setattr(host.images, "find", late)
    assert counts(host.sweep()) == (0, 1, 0)
    assert host.left == {image}


def test_a_file_that_comes_of_age_between_the_looks_waits_for_its_second_read(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = new_id()
    host.stage(image)
    cleaner = host.cleaner(absent_grace=60)
    ages = iter([59.999, 60.001])
    monkeypatch.setattr(cleaner.planner._clock, "age", lambda status: next(ages))
    with host.staging:
        assert counts(sweep(cleaner)) == (0, 1, 0)


def test_a_file_of_an_absent_image_that_is_written_to_stays(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = new_id()
    host.stage(image)
    second_read = host.images.confirm_absent

    def meanwhile(ids: set[str]) -> dict[str, ImageState]:
        (host.path / image).write_bytes(b"more data")
        return second_read(ids)

    monkeypatch.setattr(host.images, "confirm_absent", meanwhile)
    outcome = host.sweep()
    assert counts(outcome) == (0, 1, 0)
    assert outcome.changed == [image]
    assert host.left == {image}


@pytest.mark.parametrize("deleted", [True, False])
def test_a_file_that_is_made_after_the_look_stays(
    host: Host, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    """As when an image is restored, and staged again, while its row is read."""
    image = new_id()
    if deleted:
        host.glance.insert(image, deleted=True)
    read = host.images.find

    def meanwhile(ids: set[str]) -> dict[str, Found]:
        host.stage(image)
        return read(ids)

    monkeypatch.setattr(host.images, "find", meanwhile)
    with host.staging:
        outcome = clean(host.cleaner(), reported(image), Trigger.FILE_EVENT)
    assert counts(outcome) == (0, 1, 0)
    assert outcome.changed == [image]
    assert host.left == {image}


def test_a_file_of_a_deleted_image_that_is_staged_again_stays(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = new_id()
    host.glance.insert(image, deleted=True)
    host.stage(image)
    read = host.images.find

    def meanwhile(ids: set[str]) -> dict[str, Found]:
        images = read(ids)
        (host.path / image).unlink()
        (host.path / image).write_bytes(b"of a restored image")
        return images

    monkeypatch.setattr(host.images, "find", meanwhile)
    outcome = host.sweep()
    assert counts(outcome) == (0, 1, 0) and outcome.changed == [image]
    assert host.left == {image}


class Clock:
    """A clock that only a test moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))


def slow_unlink(monkeypatch: pytest.MonkeyPatch, clock: Clock, seconds: float) -> None:
    unlink = os.unlink

    def slowly(name: str, *, dir_fd: int) -> None:
        clock.now += seconds
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", slowly)


def test_old_decisions_are_made_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image is restored while others are removed slowly."""
    images = sorted(new_id() for _ in range(10))
    host.glance.insert(*images, deleted=True)
    host.stage(*images)
    clock = Clock(monkeypatch, cleaner_module)
    slow_unlink(monkeypatch, clock, 0.6)
    work = host.cleaner().clean(reported(*images), Trigger.FILE_EVENT)
    with host.staging:
        for step in work.steps():
            if isinstance(step, Removal) and step.image_id == images[1]:
                host.glance.purge(images[9])
                host.glance.insert(images[9])  # restored
    assert counts(work.outcome) == (9, 1, 0)
    assert host.left == {images[9]}


@pytest.mark.parametrize(("pause", "reads"), [(0.1, 1), (0.6, 3), (60.0, 10)])
def test_how_often_decisions_are_made_again(
    host: Host, monkeypatch: pytest.MonkeyPatch, pause: float, reads: int
) -> None:
    """At least one removal a read: it ends, however slow the file system is."""
    images = [new_id() for _ in range(10)]
    host.glance.insert(*images, deleted=True)
    host.stage(*images)
    slow_unlink(monkeypatch, Clock(monkeypatch, cleaner_module), pause)
    read, asked = host.images.find, []

    def count(ids: set[str]) -> dict[str, Found]:
        asked.append(len(ids))
        return read(ids)

    monkeypatch.setattr(host.images, "find", count)
    assert counts(host.sweep()) == (10, 0, 0)
    assert len(asked) == reads


def test_a_pass_goes_on_where_a_database_error_stopped_it(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cleaner_module, "FILES_PER_STEP", 2)
    live, dead = [new_id() for _ in range(3)], [new_id() for _ in range(4)]
    host.glance.insert(*live)
    host.glance.insert(*dead, deleted=True)
    host.stage(*live, *dead)
    read, reads = host.images.find, iter(range(20))
    asked: list[str] = []

    def failing(ids: set[str]) -> dict[str, Found]:
        if next(reads) % 2:
            raise DatabaseError("gone away")
        asked.extend(ids)
        return read(ids)

    monkeypatch.setattr(host.images, "find", failing)
    cleaner = host.cleaner()
    with host.staging:
        work = cleaner.sweep()
        for _ in range(3):
            with pytest.raises(DatabaseError):
                finish(work)
        finish(work)
    assert counts(work.outcome) == (4, 3, 0)
    assert sorted(asked) == sorted([*live, *dead]), "each was asked for once"
    tally = cleaner.stats.tallies[Trigger.SWEEP]
    assert (tally.cleaned, tally.ignored, tally.removed) == (4, 3, 4)
    assert cleaner.stats.sweeps == 1
    texts = [text for _, text in lines(caplog)]
    assert sum(text.startswith("Found") for text in texts) == 1
    assert texts[-1] == "Cleaned 4 stale staging files, 3 ignored (0 errors)"


def test_without_a_witness_files_without_a_row_stay(host: Host) -> None:
    absent, dead = [new_id() for _ in range(3)], new_id()
    host.stage(*absent)
    cleaner = host.cleaner(trusted=False)
    with host.staging:
        outcome = sweep(cleaner)
        assert counts(outcome) == (0, 3, 0) and outcome.unwitnessed == 3
        assert {decision.reason for decision in plan(cleaner)} == {Reason.NO_WITNESS}
        host.glance.insert(dead, deleted=True)
        host.stage(dead)
        assert counts(clean(cleaner, reported(dead), Trigger.FILE_EVENT)) == (1, 0, 0)
        outcome = sweep(cleaner)
    assert counts(outcome) == (3, 0, 0) and outcome.unwitnessed == 0


@pytest.mark.parametrize("deleted", [True, False])
def test_a_witness_found_late_in_a_pass_counts_for_all_of_it(
    host: Host, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    monkeypatch.setattr(cleaner_module, "FILES_PER_STEP", 2)
    absent, known = [new_id() for _ in range(5)], new_id()
    host.glance.insert(known, deleted=deleted)
    host.stage(*absent, known)
    monkeypatch.setattr(host.staging, "listing", lambda: iter([*absent, known]))
    cleaner = host.cleaner(trusted=False)
    with host.staging:
        decided = {decision.name: decision.action for decision in plan(cleaner)}
        assert decided == dict.fromkeys(absent, Action.REMOVE) | {
            known: Action.REMOVE if deleted else Action.KEEP
        }
        outcome = sweep(host.cleaner(trusted=False))
    assert counts(outcome) == ((6, 0, 0) if deleted else (5, 1, 0))


def test_a_database_that_is_swapped_under_way_proves_nothing(host: Host) -> None:
    """The witness must be in the same answer as what is absent."""
    live, absent = [new_id() for _ in range(3)], new_id()
    host.glance.insert(*live)
    host.stage(*live)
    cleaner = host.cleaner(trusted=False)
    with host.staging:
        assert counts(sweep(cleaner)) == (0, 3, 0) and cleaner.planner.witnessed
        host.glance.clear()
        host.glance.insert(new_id())
        outcome = sweep(cleaner)
        assert counts(outcome) == (0, 3, 0) and outcome.unwitnessed == 3
        host.glance.insert(*live)
        host.stage(absent)
        assert counts(sweep(cleaner)) == (1, 3, 0)
    assert host.left == set(live)


def test_a_witness_whose_row_is_purged_gives_way_to_another(host: Host) -> None:
    first, second, absent = (new_id() for _ in range(3))
    host.glance.insert(first, deleted=True)
    host.glance.insert(second)
    host.stage(first, second)
    cleaner = host.cleaner(trusted=False)
    with host.staging:
        assert counts(clean(cleaner, reported(first))) == (1, 0, 0)
        host.glance.purge(first)
        host.stage(absent)
        assert counts(clean(cleaner, reported(absent))) == (0, 1, 0)
        assert counts(clean(cleaner, reported(absent, second))) == (1, 1, 0)


def test_files_beyond_those_that_can_wait_for_a_witness_stay(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaner_module, "FILES_PER_STEP", 1)
    monkeypatch.setattr(cleaner_module, "MAX_HELD", 2)
    absent, known = [new_id() for _ in range(4)], new_id()
    host.glance.insert(known)
    host.stage(*absent, known)
    monkeypatch.setattr(host.staging, "listing", lambda: iter([*absent, known]))
    with host.staging:
        outcome = sweep(host.cleaner(trusted=False))
    assert counts(outcome) == (2, 3, 0) and outcome.unwitnessed == 2


def test_a_directory_that_is_replaced_ends_the_pass(host: Host) -> None:
    images = [new_id() for _ in range(3)]
    host.glance.insert(*images, deleted=True)
    host.stage(*images)
    with host.staging:
        host.path.rename(host.path.with_name("away"))
        host.path.mkdir()
        with pytest.raises(DirectoryReplacedError):
            sweep(host.cleaner())
    assert len(os.listdir(host.path.with_name("away"))) == 3


@pytest.mark.parametrize("deleted", [True, False])
def test_what_others_removed_is_cleaned_but_no_removal_of_ours(host: Host, deleted: bool) -> None:
    """Glance's own cleaner, or another watcher, was faster."""
    gone, ours = [new_id() for _ in range(3)], new_id()
    if deleted:
        host.glance.insert(*gone, ours, deleted=True)
    host.stage(*gone, ours)
    cleaner = host.cleaner(max_absent_removals=1)
    unlink, remove = os.unlink, host.staging.remove

    def slower(name: str, seen: os.stat_result | None = None) -> int | None:
        if name in gone:
            unlink(host.path / name)
        return remove(name, seen)

    host.staging.remove = slower  # type: ignore[method-assign]
    with host.staging:
        steps: list[Step] = []
        outcome = finish(cleaner.clean(reported(*gone, ours), Trigger.FILE_EVENT), steps)
    removals = [step for step in steps if isinstance(step, Removal)]
    assert counts(outcome) == (4, 0, 0)
    tally = cleaner.stats.tallies[Trigger.FILE_EVENT]
    assert outcome.removed == tally.removed == 1
    assert [removal.image_id for removal in removals] == [ours]
    assert removals[0].size > 0
    assert not host.left, "what others removed does not use the limit up"


def test_the_limit_on_absent_images_holds_over_sweeps_and_events(host: Host) -> None:
    absent, deleted = [new_id() for _ in range(5)], new_id()
    host.glance.insert(deleted, deleted=True)
    host.stage(*absent, deleted)
    cleaner = host.cleaner(max_absent_removals=2)
    with host.staging:
        outcome = sweep(cleaner)
        assert counts(outcome) == (3, 3, 0) and outcome.limited == 3
        assert deleted not in host.left
        for _ in range(3):
            outcome = clean(cleaner, reported(*host.left), Trigger.FILE_EVENT)
            assert counts(outcome) == (0, 3, 0) and outcome.limited == 3
            assert counts(sweep(cleaner)) == (0, 3, 0)
        cleaner.planner.budget.limit = 4
        assert counts(sweep(cleaner)) == (2, 1, 0)


@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN])
def test_a_file_whose_status_cannot_be_read_stays(
    host: Host, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    broken, whole = new_id(), new_id()
    host.stage(broken, whole)
    lstat = host.staging.lstat

    def failing(name: str) -> os.stat_result:
        if name == broken:  # a broken file system can't be had
            raise OSError(number, os.strerror(number))
        return lstat(name)

    monkeypatch.setattr(host.staging, "lstat", failing)
    outcome = host.sweep()
    assert counts(outcome) == (1, 1, 0)
    assert host.left == {broken}
    assert outcome.young[broken] == math.inf


@pytest.mark.parametrize("trusted", [True, False])
def test_no_row_in_the_table_removes_nothing(host: Host, trusted: bool) -> None:
    host.glance.clear()
    host.stage(new_id())
    with pytest.raises(DatabaseError, match="no row at all"):
        host.sweep(trusted=trusted)
    assert len(host.left) == 1


def test_a_database_error_ends_the_sweep(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaner_module, "FILES_PER_STEP", 2)
    host.stage(*(new_id() for _ in range(6)))
    first_read, reads = host.images.find, iter(range(10))

    def failing(ids: set[str]) -> dict[str, Found]:
        if next(reads) == 1:
            raise DatabaseError("gone away")
        return first_read(ids)

    monkeypatch.setattr(host.images, "find", failing)
    with pytest.raises(DatabaseError):
        host.sweep()
    assert len(host.left) == 4


def test_a_live_row_of_a_notified_image_is_lagging(host: Host) -> None:
    image, other = new_id(), new_id()
    host.glance.insert(image.upper(), other)
    host.stage(image.upper(), other)
    with host.staging:
        outcome = clean(
            host.cleaner(),
            reported(image.upper(), other),
            Trigger.NOTIFICATION,
            notified={image, other[:-1]},
        )
    assert counts(outcome) == (0, 2, 0)
    assert outcome.lagging == {image}


def test_the_same_failure_is_an_error_line_once(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    image = new_id()
    host.glance.insert(image, deleted=True)
    (host.path / image).mkdir()
    cleaner = host.cleaner()

    def levels() -> list[str]:
        caplog.clear()
        with host.staging:
            assert counts(sweep(cleaner)) == (0, 0, 1)
        return [level for level, text in lines(caplog) if text.startswith("Failed to delete")]

    assert levels() == ["ERROR"]
    assert levels() == ["DEBUG"]
    (host.path / image).rmdir()
    with host.staging:
        sweep(cleaner)
    (host.path / image).mkdir()
    assert levels() == ["ERROR"], "it had gone meanwhile"


def test_the_caller_may_do_something_else_between_any_two_removals(host: Host) -> None:
    host.stage(*(new_id() for _ in range(5)))
    steps: list[Step] = []
    with host.staging:
        left = []
        for step in host.cleaner().sweep().steps():
            steps.append(step)
            left.append(len(host.left))
    assert [type(step) for step in steps] == [
        *(Progress, Progress, Progress),
        *[Removal] * 5,
        Progress,
    ]
    assert left == [5, 5, 5, 4, 3, 2, 1, 0, 0]
    asking = [step.asking for step in steps if isinstance(step, Progress)]
    assert asking == [True, True, False, True], "before a look, and before a query"


def test_a_step_takes_a_bounded_time(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.stage(*(f"x{number}" for number in range(10)))
    clock = Clock(monkeypatch, cleaner_module)
    lstat = host.staging.lstat

    def slowly(name: str) -> os.stat_result:
        clock.now += 0.45 * cleaner_module.STEP_TIME
        return lstat(name)

    monkeypatch.setattr(host.staging, "lstat", slowly)
    with host.staging:
        done = [step.done for step in host.cleaner().sweep().steps() if isinstance(step, Progress)]
    assert done == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9, 10]


def test_fewer_files_that_events_report_are_looked_up_together(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaner_module, "EVENTS_PER_STEP", 2)
    names = [f"x{number}" for number in range(5)]
    host.stage(*names)
    with host.staging:
        of_events = host.cleaner().clean(reported(*names), Trigger.FILE_EVENT)
        done = [step.done for step in of_events.steps() if isinstance(step, Progress)]
        of_sweep = host.cleaner().sweep()
        at_once = [step.done for step in of_sweep.steps() if isinstance(step, Progress)]
    assert done == [0, 0, 0, 2, 2, 2, 4, 4, 4, 5]
    assert at_once == [0, 0, 0, 5]


@pytest.mark.parametrize("batch", [1, 3, 7, 8])
def test_a_huge_directory_is_swept_in_batches(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, batch: int
) -> None:
    monkeypatch.setattr(staging_module, "BATCH", batch)
    live = [new_id() for _ in range(3)]
    host.glance.insert(*live)
    host.stage("foo", *live, *(f"{new_id()}.uc" for _ in range(3)))
    assert counts(host.sweep()) == (3, 4, 0)
    assert host.left == {"foo", *live}
    assert "Found 7 files" in lines(caplog)[0][1]
    assert lines(caplog)[-1][1] == "Cleaned 3 stale staging files, 4 ignored (0 errors)"


def test_who_stops_asking_stops_the_removals(host: Host) -> None:
    host.stage(*(new_id() for _ in range(5)))
    cleaner = host.cleaner()
    with host.staging:
        work = cleaner.sweep()
        steps = work.steps()
        while work.outcome.cleaned < 2:
            next(steps)
        del steps
    assert len(host.left) == 3
    assert cleaner.stats.tallies[Trigger.SWEEP].cleaned == 2


def test_the_plan_removes_nothing_and_says_why(host: Host) -> None:
    live, deleted, absent, young = (new_id() for _ in range(4))
    host.glance.insert(live)
    host.glance.insert(deleted, deleted=True)
    host.stage("foo", live, deleted, absent, young)
    cleaner = host.cleaner(absent_grace=60)
    old = (host.path / absent).stat().st_ino
    cleaner.planner._clock.age = lambda status: 61.0 if status.st_ino == old else 1.0  # type: ignore[method-assign]
    with host.staging:
        decided = {decision.name: decision for decision in plan(cleaner)}
    assert {name: decision.action for name, decision in decided.items()} == {
        "foo": Action.KEEP,
        live: Action.KEEP,
        deleted: Action.REMOVE,
        absent: Action.REMOVE,
        young: Action.RECHECK,
    }
    assert {name: decision.reason for name, decision in decided.items()} == {
        "foo": Reason.NOT_AN_IMAGE,
        live: Reason.LIVE,
        deleted: Reason.DELETED,
        absent: Reason.ABSENT,
        young: Reason.YOUNG,
    }
    assert {name: decision.delay for name, decision in decided.items()} == {
        **dict.fromkeys(("foo", live, deleted, absent), 0.0),
        young: pytest.approx(59.05),
    }
    assert len(host.left) == 5


def test_the_plan_says_what_the_limit_keeps(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.stage(*(new_id() for _ in range(4)))
    cleaner = host.cleaner(absent_grace=60, max_absent_removals=2)
    ages = iter([10.0, 70.0, 70.0, 70.0])
    monkeypatch.setattr(cleaner.planner._clock, "age", lambda status: next(ages))
    with host.staging:
        reasons = [decision.reason for decision in plan(cleaner)]
    assert reasons == [Reason.YOUNG, Reason.ABSENT, Reason.ABSENT, Reason.LIMIT]


@pytest.mark.parametrize("how", ["fails", "changes"])
def test_what_cannot_be_removed_does_not_use_the_limit_up(
    host: Host, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    stuck, absent = [new_id() for _ in range(3)], [new_id() for _ in range(3)]
    host.stage(*stuck, *absent)
    monkeypatch.setattr(host.staging, "listing", lambda: iter([*stuck, *absent]))
    remove = host.staging.remove

    def refuse(name: str, seen: os.stat_result | None = None) -> int | None:
        if name in stuck:
            raise FileChangedError(name) if how == "changes" else PermissionError(1, "no", name)
        return remove(name, seen)

    monkeypatch.setattr(host.staging, "remove", refuse)
    with host.staging:
        outcome = sweep(host.cleaner(max_absent_removals=2))
    assert counts(outcome) == {"fails": (2, 1, 3), "changes": (2, 4, 0)}[how]
    assert outcome.changed == (stuck if how == "changes" else [])
    assert len(host.left) == 4


def test_a_deleted_image_gives_nothing_back_to_the_limit(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent, deleted = new_id(), new_id()
    host.glance.insert(deleted, deleted=True)
    host.stage(absent, deleted)
    monkeypatch.setattr(host.staging, "listing", lambda: iter([absent, deleted]))
    remove = host.staging.remove

    def refuse(name: str, seen: os.stat_result | None = None) -> int | None:
        if name == deleted:
            raise PermissionError(1, "no", name)
        return remove(name, seen)

    monkeypatch.setattr(host.staging, "remove", refuse)
    cleaner = host.cleaner(max_absent_removals=2)
    with host.staging:
        assert counts(sweep(cleaner)) == (1, 0, 1)
    assert cleaner.planner.budget.room == 1


def test_only_what_may_go_has_a_second_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    live, deleted, young, old = (new_id() for _ in range(4))
    host.glance.insert(live)
    host.glance.insert(deleted, deleted=True)
    host.stage("foo", live, deleted, young, old)
    cleaner = host.cleaner(absent_grace=60)
    old_inode = (host.path / old).stat().st_ino
    monkeypatch.setattr(
        cleaner.planner._clock, "age", lambda status: 61.0 if status.st_ino == old_inode else 1.0
    )
    asked: list[set[str]] = []
    second_read = host.images.confirm_absent

    def note(ids: set[str]) -> dict[str, ImageState]:
        asked.append(ids)
        return second_read(ids)

    monkeypatch.setattr(host.images, "confirm_absent", note)
    with host.staging:
        assert counts(sweep(cleaner)) == (2, 3, 0)
    [ids] = asked
    assert old in ids and young not in ids
    assert len(ids) <= 2, "and perhaps a witness"


def test_a_file_just_of_age_has_its_second_read(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = new_id()
    host.glance.insert(image)
    host.stage(image.upper())
    cleaner = host.cleaner(absent_grace=60)
    monkeypatch.setattr(cleaner.planner._clock, "age", lambda status: 60.0)
    with host.staging:
        assert counts(sweep(cleaner)) == (0, 1, 0)


def test_a_failure_after_a_removal_is_an_error_line_again(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    image = new_id()
    host.glance.insert(image, deleted=True)
    cleaner = host.cleaner()
    with host.staging:
        for _ in range(2):
            (host.path / image).mkdir()
            assert counts(clean(cleaner, reported(image), Trigger.FILE_EVENT)) == (0, 0, 1)
            (host.path / image).rmdir()
            host.stage(image)
            assert counts(clean(cleaner, reported(image), Trigger.FILE_EVENT)) == (1, 0, 0)
    assert [level for level, text in lines(caplog) if text.startswith("Failed")] == ["ERROR"] * 2


def test_a_failure_after_a_sweep_removed_it_is_an_error_line_again(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    image = new_id()
    host.glance.insert(image, deleted=True)
    cleaner = host.cleaner()
    with host.staging:
        (host.path / image).mkdir()
        assert counts(sweep(cleaner)) == (0, 0, 1)
        (host.path / image).rmdir()
        host.stage(image)
        assert counts(sweep(cleaner)) == (1, 0, 0)
        (host.path / image).mkdir()
        assert counts(clean(cleaner, reported(image), Trigger.FILE_EVENT)) == (0, 0, 1)
    assert [level for level, text in lines(caplog) if text.startswith("Failed")] == ["ERROR"] * 2


def test_a_removal_says_what_was_removed_and_why(host: Host) -> None:
    deleted, absent = new_id(), new_id()
    host.glance.insert(deleted, deleted=True)
    names = [f"{deleted}.qcow2", absent.upper()]
    for name, size in zip(names, (5000, 20_000), strict=True):
        (host.path / name).write_bytes(b"x" * size)
    sizes = [(host.path / name).stat().st_blocks * 512 for name in names]
    steps: list[Step] = []
    cleaner = host.cleaner()
    with host.staging:
        since = time.monotonic() - 60
        outcome = finish(cleaner.clean(dict.fromkeys(names, since), Trigger.FILE_EVENT), steps)
    assert [step._replace(waited=None) for step in steps if isinstance(step, Removal)] == [
        Removal(
            f"{host.path}/{names[0]}",
            deleted,
            ImageState.DELETED,
            sizes[0],
            Trigger.FILE_EVENT,
            None,
        ),
        Removal(
            f"{host.path}/{names[1]}",
            absent.upper(),
            ImageState.ABSENT,
            sizes[1],
            Trigger.FILE_EVENT,
            None,
        ),
    ]
    assert all(step.waited >= 60 for step in steps if isinstance(step, Removal) and step.waited)
    tally = cleaner.stats.tallies[Trigger.FILE_EVENT]
    assert (outcome.removed, outcome.size) == (tally.removed, tally.size) == (2, sum(sizes))
    host.stage(deleted)
    with host.staging:
        finish(cleaner.sweep(), steps)
    assert isinstance(steps[-2], Removal) and steps[-2].waited is None


def test_a_dry_run_and_the_sweep_agree(host: Host) -> None:
    """Also on which files the limit keeps: the plan has a budget of its own, and the sweep's
    budget is not used up by it."""
    deleted, absent = new_id(), [new_id() for _ in range(4)]
    host.glance.insert(deleted, deleted=True)
    host.stage("foo", deleted, *absent)
    with host.staging:
        planned = {each.name: each.action for each in plan(host.cleaner(max_absent_removals=2))}
        assert len(host.left) == 6
        assert counts(sweep(host.cleaner(max_absent_removals=2))) == (3, 3, 0)
    assert host.left == {name for name, action in planned.items() if action is Action.KEEP}


def test_a_pass_that_is_replaced_gives_its_reservation_back(host: Host) -> None:
    host.stage(new_id())
    cleaner = host.cleaner(max_absent_removals=1)
    with host.staging:
        work = cleaner.sweep()
        steps = work.steps()
        while not (isinstance(step := next(steps), Progress) and not step.asking):
            pass
        host.path.rename(host.path.with_name("away"))
        with pytest.raises(DirectoryReplacedError):
            next(steps)
    assert cleaner.planner.budget.room == 1
    assert len(os.listdir(host.path.with_name("away"))) == 1
    tally = cleaner.stats.tallies[Trigger.SWEEP]
    assert (tally.cleaned, tally.ignored, tally.error, cleaner.stats.sweeps) == (0, 0, 0, 0)


def test_each_sweep_forgets_what_the_one_before_did_not_see(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = new_id()
    cleaner = host.cleaner(absent_grace=60)
    moment = [500.0]
    monkeypatch.setattr(cleaner.planner._sightings, "_monotonic", lambda: moment[0])
    with host.staging:
        monkeypatch.setattr(host.staging, "network", "nfs4")
        host.stage(image)
        status = host.staging.lstat(image)
        monkeypatch.setattr(host.staging, "lstat", lambda name: status)
        assert counts(sweep(cleaner)) == (0, 1, 0)
        for _ in range(2):  # an NFS server that restarts may hide it for a while
            monkeypatch.setattr(host.staging, "listing", lambda: iter([]))
            assert counts(sweep(cleaner)) == (0, 0, 0)
        moment[0] += 3600
        monkeypatch.setattr(host.staging, "listing", lambda: iter([image]))
        assert counts(sweep(cleaner)) == (0, 1, 0)


def test_a_file_system_that_fails_is_a_bounded_number_of_lines_and_of_names(
    host: Host, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaner_module, "MAX_FAILURES", 3)
    monkeypatch.setattr(cleaner_module, "MAX_KNOWN", 5)
    images = [new_id() for _ in range(8)]
    host.glance.insert(*images, deleted=True)
    for image in images:
        (host.path / image).mkdir()
    cleaner = host.cleaner()
    for errors in (3, 0, 0):
        caplog.clear()
        with host.staging:
            assert counts(sweep(cleaner)) == (0, 0, 8)
        found = [level for level, text in lines(caplog) if text.startswith("Failed to delete")]
        assert found.count("ERROR") == errors and len(found) == 8
        assert len(cleaner._failures) == 5
