# SPDX-License-Identifier: Apache-2.0
"""How a sweep by the program grows, up to a million files: the most memory, and time a file."""

import functools
import random
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import proc
from benchmarks.figures import OURS, Comparison, median
from benchmarks.rows import fill, some
from benchmarks.site import ROOT, Site, in_turn, stage

TIGHT, GLANCE = "scandir + IN + unlink", "Glance's cleaner"
PROGRAM = """
import sys, time
from watcher.cli import main
from benchmarks.proc import memory
started = time.perf_counter()
try:
    main(["sweep", "--config-file", sys.argv[1]])
finally:
    print(memory("self", "VmHWM"), time.perf_counter() - started)
"""


def measure(site: Site) -> Iterator[Comparison]:
    """Empty files, half of them residue, MariaDB; the program's start is a part of its time."""
    sizes = (1_000, 10_000, 100_000) if site.quick else (10_000, 100_000, 1_000_000)
    database = site.database("mariadb")
    fill(database, sizes[-1])
    before: Comparison | None = None
    for count, rounds in zip(sizes, (3, 3, 2), strict=True):
        # Glance's cleaner takes half a minute for 10,000; who holds all names isn't asked for more
        peers = 2 if count < sizes[-1] else 0
        memory, pace = _sweep(site, database, count, rounds, peers, glance=count == sizes[0])
        memory.bound("MB", 90)
        if before is not None and count == sizes[-1]:
            grown = median(pace.series[OURS]) / median(before.series[OURS])
            pace.bound("times that of a tenth of the files", 1.2, value=grown)
        before = pace
        yield from (memory, pace)


def _sweep(
    site: Site, database: str, count: int, rounds: int, peers: int, *, glance: bool
) -> tuple[Comparison, Comparison]:
    directory = site.new_directory("scale")
    config, staging = str(site.configure(directory, database)), directory / "staging"
    dead = some(database, count // 2, deleted=True)
    files = some(database, count // 2, deleted=False) + dead
    random.Random(0).shuffle(files)
    (names := directory / "names").write_text("\n".join(dead))
    memory = Comparison(f"memory-{count}", f"sweep of {count:,} files: most resident memory", "MB")
    pace = Comparison(f"pace-{count}", f"sweep of {count:,} empty files: time a file", "µs")

    def ours() -> None:
        stage(staging, files, b"")
        command = [sys.executable, "-c", PROGRAM, config]
        out = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
        megabytes, seconds = out.stdout.split()[-2:]
        memory.add(OURS, float(megabytes))
        pace.add(OURS, float(seconds) / count * 1e6)

    def peer(subject: str, name: str, most: int) -> None:
        if len(memory.series.get(name, ())) >= most:
            return
        stage(staging, files, b"")
        process = site.peer("sweep", subject, config, database, str(staging))
        seconds = float(process.ask(str(names)))
        memory.add(name, proc.memory(process.process.pid, "VmHWM"))
        pace.add(name, seconds / count * 1e6)
        process.close()

    in_turn(
        rounds,
        ours,
        functools.partial(peer, "tight", TIGHT, peers),
        functools.partial(peer, "glance", GLANCE, int(glance)),
    )
    return memory, pace
