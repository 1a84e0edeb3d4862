# SPDX-License-Identifier: Apache-2.0
"""What a sweep leaves, by kind: files, bytes, and the moment at which the oldest one changed."""

import os
import sqlite3
import uuid
from pathlib import Path

import pytest

from tests.unit.passes import clean, new_cleaner, sweep
from watcher.database.images import Images
from watcher.reconcile.kinds import ALL, Kind, Share, merged
from watcher.staging.directory import Staging

OLD = 1_600_000_000.0


class Site:
    """A directory and a table, with a file of a live image in it."""

    def __init__(self, home: Path) -> None:
        self.path = home / "staging"
        self.path.mkdir()
        self.url = f"sqlite:///{home / 'glance.sqlite'}"
        self._database = sqlite3.connect(home / "glance.sqlite", isolation_level=None)
        self._database.execute("CREATE TABLE images (id TEXT PRIMARY KEY, deleted, status)")
        self.stage("importing")

    def stage(self, status: object, *, deleted: bool = False, size: int = 0) -> Path:
        """A file of an image; its path."""
        image = str(uuid.uuid4())
        self._database.execute("INSERT INTO images VALUES (?, ?, ?)", (image, deleted, status))
        file = self.path / image
        file.write_bytes(b"x" * size)
        return file

    def left(self, **options: float) -> dict[str, Share]:
        """What a sweep leaves."""
        staging = Staging(str(self.path))
        with staging:
            outcome = sweep(new_cleaner(staging, Images(self.url), **options))  # type: ignore[arg-type]
        assert sum(share.files for share in outcome.kinds.values()) == len(os.listdir(self.path))
        return {str(kind): share for kind, share in outcome.kinds.in_order()}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_each_file_that_stays_is_of_one_kind(site: Site) -> None:
    for status in ("active", "uploading", "queued", "queued", "strange", None, b"\xff", ""):
        site.stage(status)
    site.stage("deleted", deleted=True)
    (site.path / f"{uuid.uuid4()}").touch()  # young, without a row
    (site.path / "disk.img").touch()
    (site.path / "nested").mkdir()
    stuck = site.stage("deleted", deleted=True)
    stuck.unlink()
    stuck.mkdir()
    files = {name: share.files for name, share in site.left(absent_grace=60).items()}
    assert files == {
        "live:queued": 2,
        "live:uploading": 1,
        "live:importing": 1,
        "live:active": 1,
        "live:other": 4,
        "unknown": 1,
        "foreign": 1,
        "directory": 2,
    }


def test_residue_that_cannot_be_removed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.stage("deleted", deleted=True)

    def refuse(name: str, *, dir_fd: int) -> None:
        raise PermissionError(1, "no")

    monkeypatch.setattr(os, "unlink", refuse)
    assert site.left()["residue"].files == 1


def test_files_of_images_without_a_row_that_the_limit_keeps(site: Site) -> None:
    for _ in range(2):
        (site.path / str(uuid.uuid4())).touch()
    assert site.left(max_absent_removals=1)["unknown"].files == 1


def test_bytes_and_the_oldest_change(site: Site) -> None:
    for moment, size in ((OLD + 60, 5000), (OLD, 20_000)):
        file = site.stage("uploading", size=size)
        os.utime(file, (moment, moment))
    share = site.left()["live:uploading"]
    assert share.size == sum(
        file.stat().st_blocks * 512 for file in site.path.iterdir() if file.stat().st_size
    )
    changed = min(file.stat().st_ctime for file in site.path.iterdir() if file.stat().st_size)
    assert share.oldest == changed, "a time that someone set is not that of the last change"
    assert share.age(changed + 90) == 90.0
    assert share.age(changed - 90) == 0.0
    assert Share().age(changed) == 0.0


def test_no_event_counts_kinds(site: Site) -> None:
    staging = Staging(str(site.path))
    with staging:
        outcome = clean(
            new_cleaner(staging, Images(site.url)), dict.fromkeys(os.listdir(site.path), 0.0)
        )
    assert outcome.ignored == 1 and not outcome.kinds


def test_sums_of_several() -> None:
    one, other, none = Share(), Share(), Share()
    one.files, one.size, one.oldest = 1, 10, 300.0
    other.files, other.size, other.oldest = 2, 20, 200.0
    kind = Kind("foreign")
    both = merged([{kind: one}, {kind: other}, {kind: none}])[kind]  # type: ignore[list-item]
    assert (both.files, both.size, both.oldest) == (3, 30, 200.0)


def test_each_kind_has_a_name_of_its_own() -> None:
    assert len({str(kind) for kind in ALL}) == len(ALL) == 4 + 9
