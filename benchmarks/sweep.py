# SPDX-License-Identifier: Apache-2.0
"""The sweep, in process: ours, Glance's, and two limits on the same files and rows."""

import functools
from collections.abc import Iterator

from benchmarks.figures import OURS, Comparison
from benchmarks.rows import fill
from benchmarks.site import Peer, Site, in_turn, new_ids, stage

FASTER = {"mariadb": 25, "sqlite": 20, "postgresql": 25}  # times, than Glance's
SUBJECTS = ("watcher", "tight", "unlink", "glance")
NAMES = {
    "watcher": OURS,
    "glance": "Glance's cleaner",
    "tight": "scandir + IN + unlink",
    "unlink": "unlink alone",
}
SMALL, LARGE = 10_000, 1_000_000  # rows


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
        """Have at least so many rows."""
        if rows > self.rows:
            fill(self.url, rows - self.rows, self.rows)
            self.rows = rows

    def compare(
        self, files: int, shape: str, *, rounds: int, glance: int, title: str = ""
    ) -> Comparison:
        """Sweep by each subject in turn.

        :param shape: half, live or residue
        :param glance: rounds with Glance's cleaner
        """
        residue_count = {"half": files // 2, "live": 0, "residue": files}[shape]
        dead, live = new_ids(residue_count), new_ids(files - residue_count)
        self.images.insert(*live, status="importing")
        self.images.insert(*dead, deleted=True, status="deleted")
        self.residue.write_text("\n".join(dead))
        shown = {"half": "half residue", "live": "all live", "residue": "all residue"}[shape]
        large = self.rows >= LARGE
        comparison = Comparison(
            f"sweep-{self.kind}-{files}-{shape}-{'large' if large else 'small'}",
            title or f"sweep, {self.kind}, {files:,} files, {shown}{', 1,000,000 rows' * large}",
            "s",
        )

        def run(subject: str) -> None:
            if subject == "unlink" and not dead:
                return
            if subject == "glance" and len(comparison.series.get(NAMES["glance"], ())) >= glance:
                return
            stage(self.staging, [*live, *dead])
            comparison.add(NAMES[subject], float(self.peer(subject).ask(str(self.residue))))
            left = {path.name for path in self.staging.iterdir()}
            assert left == set(live), f"{subject} removed the wrong files"

        in_turn(rounds, *(functools.partial(run, subject) for subject in SUBJECTS))
        for name in live:
            (self.staging / name).unlink()
        self.images.purge(*live, *dead)
        return comparison

    def close(self) -> None:
        """End the subjects."""
        for peer in self._peers.values():
            peer.close()


def measure(kind: str, site: Site) -> Iterator[Comparison]:
    """All cells with one kind of database that end in reasonable time."""
    ground = Ground(site, kind)
    ground.grow(SMALL)
    if site.quick:
        yield ground.compare(1_000, "half", rounds=3, glance=2)
        yield ground.compare(10_000, "half", rounds=3, glance=0)
        ground.close()
        return
    patient = kind == "mariadb"  # where Glance's cleaner may take minutes
    yield ground.compare(1_000, "half", rounds=3, glance=3)
    main = ground.compare(10_000, "half", rounds=5, glance=2)
    main.faster(FASTER[kind], NAMES["glance"])
    main.at_most(1.6, NAMES["unlink"])
    yield main
    yield ground.compare(10_000, "live", rounds=3, glance=int(patient))
    yield ground.compare(10_000, "residue", rounds=3, glance=int(patient))
    most = ground.compare(100_000, "half", rounds=2, glance=int(patient))
    most.faster(FASTER[kind], NAMES["glance"])
    _linear(main, most)
    yield most
    ground.grow(LARGE)
    large = ground.compare(10_000, "half", rounds=3, glance=1)
    large.faster(FASTER[kind], NAMES["glance"])
    yield large
    ground.close()


def _linear(few: Comparison, many: Comparison) -> None:
    """The cost a file is the same for ten times the files; unlink's own grows a little."""
    few_ratio, many_ratio = few.ratio(OURS, NAMES["unlink"]), many.ratio(OURS, NAMES["unlink"])
    assert few_ratio and many_ratio
    many.bound("growth from 10,000 files, against unlink's", 1.1, value=many_ratio / few_ratio)
