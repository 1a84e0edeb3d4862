# SPDX-License-Identifier: Apache-2.0
"""Results as tables for docs/scale.md."""

from typing import Any

from benchmarks.figures import number
from benchmarks.simulation import costs
from benchmarks.simulation.studies import BROKER, Curves

BEGIN = "<!-- figures: written by make simulation -->"
AT_ONCE = 0.1  # seconds; a wait that is longer is a backlog's

Row = list[str]


def markdown(results: dict[str, Any]) -> str:
    """The tables."""
    return f"{_table(_knees(results['fan_out']))}\n\n{_table(_full(results['full']))}"


def _knees(fan_out: Curves) -> list[Row]:
    rows = [["hosts", "queues get", "broker's most", "listener's most", "simulated: still at once"]]
    for name, points in fan_out.items():
        hosts, others = map(int, name.split())
        most = BROKER / hosts / (1 + others), 1 / costs.LISTEN / (1 + others)
        last = max((rate for rate, wait in points if wait < AT_ONCE), default=0.0)
        what = "all that Glance sends" if others else "`image.delete`"
        rows.append([f"{hosts:,}", what, *map(number, (*most, last))])
    return rows


def _full(full: dict[str, dict[str, float]]) -> list[Row]:
    measures = next(iter(full.values()))
    rows = [[each, *(number(found[each]) for found in full.values())] for each in measures]
    return [["1,000 hosts, 1,000 deletions/s", *full], *rows]


def _table(rows: list[Row]) -> str:
    lines = [rows[0], ["---", *["--:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
