# SPDX-License-Identifier: Apache-2.0
"""Tables for people, JSON for machines."""

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.figures import OURS, Comparison, median, number, percentile

LIBRARIES = ("glance", "oslo.messaging", "SQLAlchemy", "watchdog", "PyMySQL", "psycopg")
BEGIN, END = "<!-- figures: written by make benchmark -->", "<!-- end of figures -->"
MANY = 50  # values from which on percentiles say more than extremes


def table(comparisons: Sequence[Comparison]) -> str:
    """A table for a terminal."""
    lines = []
    for comparison in comparisons:
        heads = f"{'min':>9} {'median':>9} {'max':>9}  {'p99':>8}  {'ratio':>8}"
        lines.append(f"\n{comparison.title}  [{comparison.unit}]\n{'':<36} {heads}")
        for subject, values in comparison.series.items():
            low, middle, high, ninety_nine, ratio = _cells(comparison, subject, values)
            lines.append(
                f"  {subject:<34} {low:>9} {middle:>9} {high:>9}  {ninety_nine:>8}  {ratio:>8}"
            )
        lines += [f"    {target}" for target in comparison.targets]
    return "\n".join(lines)


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The same for a document: what was to be reached, the sweeps, all else."""
    sweeps = [found for found in comparisons if found.name.startswith("sweep-")]
    others = [found for found in comparisons if found not in sweeps]
    lines = ["| | measured | to reach | |", "|---|--:|--:|---|"]
    for found in comparisons:
        for target in found.targets:
            bound = f"{'at most' if target.at_most else 'at least'} {number(target.bound)}"
            met = "met" if target.met else "**missed**"
            lines.append(
                f"| {found.title}: {target.text} | {number(target.value)} | {bound} | {met} |"
            )
    subjects = list(dict.fromkeys(subject for found in sweeps for subject in found.series))
    peers = [subject for subject in subjects if subject != OURS]
    lines += [
        "",
        "Sweeps: seconds, median (min to max, n runs), and as a multiple of the watcher's",
        "",
    ]
    lines.append(f"| | {' | '.join([OURS, *peers])} |")
    lines.append("|---" + "|--:" * (1 + len(peers)) + "|")
    for found in sweeps:
        cells = [_spread(found, subject) for subject in (OURS, *peers)]
        lines.append(f"| {found.title.removeprefix('sweep, ')} | {' | '.join(cells)} |")
    lines += ["", "All else, each subject in turn in one run", ""]
    lines.append("| | | runs | min | median | max | p99 | multiple of the watcher's |")
    lines.append("|---|---|--:|--:|--:|--:|--:|--:|")
    for found in others:
        title = f"{found.title} ({found.unit})"
        for subject, values in found.series.items():
            cells = [str(len(values)), *_cells(found, subject, values)]
            lines.append(f"| {title} | {subject} | {' | '.join(cells)} |")
            title = ""
    return "\n".join(lines)


def by_subject(comparisons: Sequence[Comparison]) -> str:
    """For a document, medians only: a row for each comparison, a column for each subject."""
    lines: list[str] = []
    heads: list[str] = []
    for found in comparisons:
        if heads != list(found.series):
            heads = list(found.series)
            lines += ["", f"| | {' | '.join(heads)} |", "|---" + "|--:" * len(heads) + "|"]
        cells = [number(median(values)) for values in found.series.values()]
        lines.append(f"| {found.title} ({found.unit}) | {' | '.join(cells)} |")
    return "\n".join(lines[1:])


def targets_met(comparisons: Sequence[Comparison]) -> str:
    """How many targets are met, and which are not."""
    targets = [(found, target) for found in comparisons for target in found.targets]
    missed = [f"  {found.title}: {target}" for found, target in targets if not target.met]
    return "\n".join([f"{len(targets) - len(missed)} of {len(targets)} targets met", *missed])


def write(comparisons: Sequence[Comparison], path: Path) -> None:
    """All values, with what they were measured on."""
    machine = {
        "processors": os.cpu_count(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    } | {name: version(name) for name in LIBRARIES}
    lines = ",\n".join(json.dumps(found.as_json(), separators=(",", ":")) for found in comparisons)
    path.write_text(f'{{"machine": {json.dumps(machine)}, "comparisons": [\n{lines}\n]}}\n')


def embed(tables: str, document: Path, begin: str = BEGIN) -> None:
    """Put the tables between their marks in a document."""
    if not document.exists():
        return
    before, _, rest = document.read_text().partition(begin)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{begin}\n{tables}\n\n{END}{after}")


def _spread(comparison: Comparison, subject: str) -> str:
    if not (values := comparison.series.get(subject)):
        return ""
    extremes = f"{number(min(values))} to {number(max(values))}, " if len(values) > 1 else ""
    ratio = comparison.ratio(subject, OURS)
    multiple = f"; {number(ratio)} x" if ratio and subject != OURS else ""
    return f"{number(median(values))} ({extremes}n={len(values)}){multiple}"


def _cells(comparison: Comparison, subject: str, values: list[float]) -> list[str]:
    ratio = comparison.ratio(subject, OURS)
    return [
        number(min(values)),
        number(median(values)),
        number(max(values)),
        number(percentile(values, 99)) if len(values) >= MANY else "",
        f"{ratio:.2f}" if ratio is not None else "",
    ]
