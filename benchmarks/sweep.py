# SPDX-License-Identifier: Apache-2.0
"""The sweep, in process: ours, Glance's, and two limits on the same files and rows."""

import functools
import os
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.figures import OURS, Comparison
from benchmarks.rows import fill
from benchmarks.site import Peer, Site, in_turn, new_ids, stage

KINDS = ("mariadb", "sqlite", "postgresql")
SUBJECTS = ("watcher", "tight", "unlink", "glance")
NAMES = {
    "watcher": OURS,
    "glance": "Glance's cleaner",
    "tight": "scandir + IN + unlink",
    "unlink": "unlink alone",
}
SMALL, LARGE = 10_000, 1_000_000  # rows
SHAPES = {"half": "half residue", "live": "all live", "residue": "all residue"}


class Cell(NamedTuple):
    """A sweep to measure.

    :param rows: of the images table, besides those of the files
    :param shape: half, live or residue
    :param rounds: how often each subject sweeps
    :param glance: how often Glance's cleaner does, at most
    """

    rows: int
    files: int
    shape: str
    rounds: int
    glance: int


class Ground:
    """One database, one directory, all subjects at work on them."""

    def __init__(self, site: Site, kind: str) -> None:
        self.site, self.kind = site, kind
        self.rows = 0
        self.url = site.database(kind)
        self.images = site.images(self.url)
        directory = site.new_directory("sweep")
        self.config = site.configure(directory, self.url)
        self.staging = directory / "staging"
        self.residue = directory / "residue.txt"
        self._peers: dict[str, Peer] = {}

    def peer(self, subject: str) -> Peer:
        """The process that sweeps as ``subject`` does."""
        if subject not in self._peers:
            self._peers[subject] = self.site.peer(
                "sweep", subject, str(self.config), self.url, str(self.staging)
            )
        return self._peers[subject]

    def grow(self, rows: int) -> None:
        """Have at least that many rows."""
        if rows > self.rows:
            fill(self.url, rows - self.rows, self.rows)
            self.rows = rows

    def compare(self, cell: Cell) -> Comparison:
        """Sweep by each subject in turn."""
        files, shape, large = cell.files, cell.shape, cell.rows > SMALL
        residue_count = {"half": files // 2, "live": 0, "residue": files}[shape]
        dead, live = new_ids(residue_count), new_ids(files - residue_count)
        self.images.insert(*live, status="importing")
        self.images.insert(*dead, deleted=True, status="deleted")
        self.residue.write_text("\n".join(dead))
        comparison = Comparison(
            f"sweep-{self.kind}-{files}-{shape}-{'large' if large else 'small'}",
            f"sweep, {self.kind}, {files:,} files, {SHAPES[shape]}"
            + (f", {cell.rows:,} rows" if large else ""),
            "s",
        )

        left = set(live)

        def run(subject: str) -> None:
            if subject == "unlink" and not dead:
                return
            if (
                subject == "glance"
                and len(comparison.series.get(NAMES["glance"], ())) >= cell.glance
            ):
                return
            stage(self.staging, [*live, *dead])
            comparison.add(NAMES[subject], float(self.peer(subject).ask(str(self.residue))))
            assert set(os.listdir(self.staging)) == left, f"{subject} removed the wrong files"

        in_turn(cell.rounds, *(functools.partial(run, subject) for subject in SUBJECTS))
        for name in live:
            (self.staging / name).unlink()
        self.images.purge(*live, *dead)
        return comparison

    def close(self) -> None:
        """End the subjects."""
        for peer in self._peers.values():
            peer.close()


def measure(kind: str, site: Site) -> Iterator[Comparison]:
    """The cells of one kind of database."""
    ground = Ground(site, kind)
    headline: Comparison | None = None
    for cell in _quick_cells() if site.quick else _cells(patient=kind == "mariadb"):
        ground.grow(cell.rows)
        comparison = ground.compare(cell)
        if cell.shape == "half" and cell.files >= 10_000:
            comparison.faster(20, NAMES["glance"])
        if cell[:3] == (SMALL, 10_000, "half"):
            comparison.at_most(1.25, NAMES["tight"])
            headline = comparison
        elif cell[:3] == (SMALL, 100_000, "half") and headline is not None:
            _linear(headline, comparison)
        yield comparison
    ground.close()


def _cells(*, patient: bool) -> Iterator[Cell]:
    """What it compares, in the time there is.

    Glance's cleaner takes 2 ms a file: it sweeps 1,000 files of every kind, more of them only as
    often as it takes to see that its cost is the same for each file.

    :param patient: with Glance's cleaner on 100,000 files too, which takes 3 minutes
    """
    yield Cell(SMALL, 1_000, "half", 3, 3)
    yield Cell(SMALL, 1_000, "live", 3, 2)
    yield Cell(SMALL, 1_000, "residue", 3, 2)
    yield Cell(SMALL, 10_000, "half", 5, 2)
    yield Cell(SMALL, 10_000, "live", 3, int(patient))
    yield Cell(SMALL, 10_000, "residue", 3, int(patient))
    yield Cell(SMALL, 100_000, "half", 2, int(patient))
    if patient:
        yield Cell(SMALL, 100_000, "live", 2, 0)
    yield Cell(LARGE, 1_000, "half", 3, 2)
    yield Cell(LARGE, 10_000, "half", 3, int(patient))
    yield Cell(LARGE, 10_000, "live", 3, 0)


def _quick_cells() -> Iterator[Cell]:
    yield Cell(SMALL, 1_000, "half", 3, 1)
    yield Cell(SMALL, 1_000, "live", 2, 0)
    yield Cell(SMALL, 1_000, "residue", 2, 0)
    yield Cell(SMALL, 10_000, "half", 2, 0)
    yield Cell(2 * SMALL, 1_000, "half", 2, 0)


def _linear(few: Comparison, many: Comparison) -> None:
    """The cost a file is the same for ten times the files; unlink's own grows a little."""
    few_ratio, many_ratio = few.ratio(OURS, NAMES["unlink"]), many.ratio(OURS, NAMES["unlink"])
    assert few_ratio and many_ratio
    many.bound("growth from 10,000 files, against unlink's", 1.1, value=many_ratio / few_ratio)
