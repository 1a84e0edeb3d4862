# SPDX-License-Identifier: Apache-2.0
"""Lists findings on stdout while they are made, so that a million files need no memory."""

import heapq
from contextlib import nullcontext
from itertools import islice

from watcher.cli.inventory import ERROR, VERDICTS, Finding, Totals, findings
from watcher.cli.jsonlines import finding_fields, say_json
from watcher.cli.progress import Bar, bar
from watcher.cli.signals import Interruption
from watcher.cli.table import Table
from watcher.cli.terminal import say
from watcher.reconcile.cleaner import FILES_PER_STEP, Cleaner
from watcher.staging.directory import Staging


def list_findings(
    staging: Staging,
    cleaner: Cleaner,
    *,
    as_json: bool,
    verdicts: tuple[str, ...] = VERDICTS,
    most: int | None = None,
) -> Totals:
    """Look at every file of an open staging directory, and list those with certain verdicts;
    the totals of all.

    :param most: lines of a table: what can't be removed comes first, then the largest
    :raises Interrupted: by a signal
    :raises ConfigError: the directory can't be read, or stdout not written to
    :raises DatabaseError: the database can't tell
    """
    totals, plan = Totals(), cleaner.sweep(count=0)
    table = Table()
    kept: list[Finding] = []
    with Interruption(at_once=True), nullcontext(Bar()) if as_json else bar(listing=True) as shown:
        count = staging.count()
        found = findings(staging, cleaner.planner, plan.decisions())
        while step := list(islice(found, FILES_PER_STEP)):
            for finding in step:
                totals.add(finding)
            shown.step(totals.files, count)
            listed = [finding for finding in step if finding.verdict in verdicts]
            if as_json:
                for finding in listed:
                    say_json("file", finding_fields(finding))
            elif most is not None:
                kept = heapq.nlargest(most, [*kept, *listed], key=_weight)
            elif listed:
                with shown.hidden():
                    table.add(listed)
    if not as_json:
        table.add(kept)
        more = sum(totals[verdict].files for verdict in verdicts) - len(kept)
        if most is not None and more:
            say(f"... and {more:,} more: status --all lists them")
        table.end()
    return totals


def _weight(finding: Finding) -> tuple[bool, int]:
    return finding.verdict == ERROR, finding.size
