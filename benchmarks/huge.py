# SPDX-License-Identifier: Apache-2.0
"""One huge file first, then small ones: how long must these wait for it?"""

import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import proc
from benchmarks.figures import OURS, Comparison
from benchmarks.inotify import Removals
from benchmarks.site import Site, in_turn, new_ids, stage

SMALL = 100  # files that come after the huge one
CHUNK = os.urandom(1 << 20)
SPARSE = 1 << 40  # bytes, none of them on the disk


def measure(site: Site) -> Iterator[Comparison]:
    """Residue renamed into the directory, SQLite: the small files alone, and after a huge one."""
    size, rounds = (1 << 30, 2) if site.quick else (1 << 31, 3)
    database = site.database("sqlite")
    images = site.images(database)
    directory = site.new_directory("huge")
    site.configure(directory, database)
    prepared, staging = directory / "prepared", directory / "staging"
    prepared.mkdir()
    pid = site.watcher(directory).process.pid
    removals = Removals(str(staging))
    gigabytes = size >> 30
    comparison = Comparison("huge", f"{SMALL} small files come, until the last one is gone", "ms")

    def write(path: Path) -> None:
        with path.open("wb", buffering=0) as file:
            for _ in range(size // len(CHUNK)):
                file.write(CHUNK)
            os.fsync(file.fileno())

    def sparse(path: Path) -> None:
        path.touch()
        os.truncate(path, SPARSE)

    def come(subject: str, make: Callable[[Path], None] | None) -> None:
        names = new_ids(SMALL + (make is not None))
        images.insert(*names, deleted=True, status="deleted")
        if make is not None:
            make(prepared / names[0])
        stage(prepared, names)
        proc.settle(pid)
        started = time.perf_counter()
        for name in names:
            os.rename(prepared / name, staging / name)
        comparison.add(subject, (removals.wait_for_all(len(names)) - started) * 1e3)

    def unlink() -> None:
        write(path := prepared / "huge")
        started = time.perf_counter()
        path.unlink()
        comparison.add(f"unlink of {gigabytes} GiB", (time.perf_counter() - started) * 1e3)

    in_turn(
        rounds,
        functools.partial(come, OURS, None),
        functools.partial(come, "watcher, after a sparse file of 1 TiB", sparse),
        functools.partial(come, f"watcher, after a written one of {gigabytes} GiB", write),
        unlink,
    )
    os.kill(pid, 9)
    yield comparison
