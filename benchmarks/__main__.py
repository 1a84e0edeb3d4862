# SPDX-License-Identifier: Apache-2.0
"""Measures: python -m benchmarks [--quick] [--only NAME]... [--redraw]."""

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import (
    absent,
    delays,
    events,
    hosts,
    huge,
    notifications,
    pictures,
    processes,
    report,
    restart,
    scale,
    sweep,
)
from benchmarks.figures import Comparison
from benchmarks.site import ROOT, Site

MEASUREMENTS: dict[str, Callable[[Site], Iterable[Comparison]]] = {
    "idle": processes.idle,
    "start": processes.start,
    "write": processes.big_write,
    "huge": huge.measure,
    "scale": scale.measure,
    "events": events.measure,
    "delays": delays.measure,
    "notifications": notifications.latency,
    "drain": notifications.drain,
    "hosts": hosts.measure,
    "restart": restart.measure,
    **{f"absent-{kind}": functools.partial(absent.measure, kind) for kind in absent.KINDS},
    **{f"sweep-{kind}": functools.partial(sweep.measure, kind) for kind in sweep.KINDS},
}


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller runs")
    parser.add_argument("--only", action="append", choices=list(MEASUREMENTS), default=[])
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    # Quick figures are for the one who waits for them; they don't replace the real ones.
    results = ROOT / (
        "build/benchmark-quick.json" if arguments.quick else "benchmarks/results.json"
    )
    results.parent.mkdir(exist_ok=True)
    known: dict[str, Comparison] = {}
    if results.exists() and (arguments.only or arguments.redraw):
        entries = json.loads(results.read_text())["comparisons"]
        known = {entry["name"]: Comparison.from_json(entry) for entry in entries}
    wanted = [] if arguments.redraw else arguments.only or list(MEASUREMENTS)
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as directory:
        site = Site(Path(directory), quick=arguments.quick)
        try:
            for name in wanted:
                started = time.monotonic()
                for found in MEASUREMENTS[name](site):
                    known[found.name] = found
                    print(report.table([found]), flush=True)
                report.write(list(known.values()), results)
                print(f"({name}: {time.monotonic() - started:.0f} s)\n", flush=True)
        finally:
            site.close()
    comparisons = list(known.values())
    pictures.draw(comparisons, ROOT / ("build" if arguments.quick else "docs"))
    if not arguments.quick:
        of_many = [found for found in comparisons if found.name.startswith(("hosts-", "restart-"))]
        of_one = [found for found in comparisons if found not in of_many]
        counts = [found for found in of_many if found.name not in pictures.RESTART]
        report.embed(report.markdown(of_one), ROOT / "docs/performance.md")
        report.embed(report.by_subject(counts), ROOT / "docs/scale.md")
    print(report.targets_met(comparisons))


if __name__ == "__main__":
    main()
