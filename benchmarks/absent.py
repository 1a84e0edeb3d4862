# SPDX-License-Identifier: Apache-2.0
"""The second read, before a file without a row goes: ids that a large table doesn't have."""

import time
from collections.abc import Iterator

from benchmarks.figures import OURS, Comparison
from benchmarks.rows import fill
from benchmarks.site import Site, new_ids
from watcher.database.images import Images, ImageState

KINDS = ("mariadb", "postgresql")
ROWS, QUICK_ROWS = 3_000_000, 100_000
IDS = 1000  # as many as one step of a sweep asks for
ROUNDS = 10


def measure(kind: str, site: Site) -> Iterator[Comparison]:
    """Seconds until the server has stated that there is none of them; beside the first read."""
    rows = QUICK_ROWS if site.quick else ROWS
    url = site.database(kind)
    fill(url, rows)
    comparison = Comparison(
        f"absent-{kind}", f"{IDS:,} ids without a row, {kind}, {rows:,} rows", "s"
    )
    images = Images(url)
    for _ in range(ROUNDS):
        ids = new_ids(IDS)
        for subject, read in ((OURS, images.confirm_absent), ("first read", images.states)):
            started = time.perf_counter()
            found = read(ids)
            comparison.add(subject, time.perf_counter() - started)
            assert set(found.values()) == {ImageState.ABSENT}
    images.close()
    comparison.bound("seconds, the longest", 1.0, value=max(comparison.series[OURS]))
    yield comparison
