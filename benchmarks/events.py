# SPDX-License-Identifier: Apache-2.0
"""File event → file gone: a residue file is renamed into the staging directory."""

import functools
import os
import time
from pathlib import Path

from benchmarks.figures import OURS, Comparison
from benchmarks.inotify import Removals
from benchmarks.proc import settle
from benchmarks.rows import fill
from benchmarks.site import Site, in_turn, new_ids, stage

PAUSE = 0.01  # seconds
SLOW = "watchfiles"


class Watching:
    """One subject at work."""

    def __init__(self, site: Site, kind: str, database: str, count: int) -> None:
        directory = site.new_directory("events")
        if database:
            site.configure(directory, database)
        self._staging, self._prepared = directory / "staging", directory / "prepared"
        self._staging.mkdir(exist_ok=True)
        self._prepared.mkdir()
        self._ids = new_ids(count)
        stage(self._prepared, self._ids)
        if database:
            site.images(database).insert(*self._ids, deleted=True, status="deleted")
            self.pid = site.watcher(directory).process.pid
        else:
            self.pid = site.peer("watch", kind, str(self._staging)).process.pid
        self._removals = Removals(str(self._staging))

    def one(self) -> float:
        """Milliseconds from a file's coming to its going."""
        name = self._ids.pop()
        source, target = Path(self._prepared, name), Path(self._staging, name)
        time.sleep(PAUSE)
        started = time.perf_counter()
        os.rename(source, target)
        return (self._removals.wait(name) - started) * 1e3


def measure(site: Site) -> list[Comparison]:
    """One file at a time, for each subject in turn."""
    count = 50 if site.quick else 400
    databases = {kind: site.database(kind) for kind in ("mariadb", "sqlite")}
    for database in databases.values():
        fill(database, 10_000)
    subjects = {
        OURS: Watching(site, "watcher", databases["mariadb"], count + 5),
        "watcher, SQLite": Watching(site, "watcher", databases["sqlite"], count + 5),
        "bare inotify, no database": Watching(site, "inotify", "", count + 5),
        SLOW: Watching(site, "watchfiles", "", count + 5),
    }
    comparison = Comparison("event", "file event → file gone (watcher: MariaDB)", "ms")
    for watching in subjects.values():
        settle(watching.pid)

    def run(subject: str) -> None:
        if subject == SLOW and len(comparison.series.get(SLOW, ())) >= count // 5:
            return
        milliseconds = subjects[subject].one()
        if warm:
            comparison.add(subject, milliseconds)

    for warm in (False, True):
        in_turn(count if warm else 5, *(functools.partial(run, subject) for subject in subjects))
    comparison.bound("p50 in ms", 2.0)
    comparison.faster(1.0, SLOW)
    for watching in subjects.values():
        os.kill(watching.pid, 9)
    return [comparison]
