# SPDX-License-Identifier: Apache-2.0
"""Lists entries on stdout while they are made, so that a million files need no memory."""

import heapq
from contextlib import nullcontext
from itertools import islice

from watcher.cli.inventory import ACTIONS, ERROR, Entry, Totals, entries
from watcher.cli.jsonlines import entry_fields, say_json
from watcher.cli.progress import Bar, bar
from watcher.cli.signals import Interruption
from watcher.cli.table import Table
from watcher.cli.terminal import say
from watcher.reconcile.cleaner import FILES_PER_STEP, Cleaner
from watcher.staging.directory import Staging


def list_entries(
    staging: Staging,
    cleaner: Cleaner,
    *,
    as_json: bool,
    actions: tuple[str, ...] = ACTIONS,
    most: int | None = None,
) -> Totals:
    """Look at every file of an open staging directory, and list those with these actions;
    the totals of all.

    :param most: lines of a table: what can't be removed comes first, then the largest
    :raises Interrupted: by a signal
    :raises ConfigError: the directory can't be read, or stdout not written to
    :raises DatabaseError: the database can't answer
    """
    totals, plan = Totals(), cleaner.sweep(count=0)
    table = Table()
    kept: list[Entry] = []
    with Interruption(at_once=True), nullcontext(Bar()) if as_json else bar(listing=True) as shown:
        count = staging.count()
        found = entries(staging, cleaner.planner, plan.decisions())
        while step := list(islice(found, FILES_PER_STEP)):
            for entry in step:
                totals.add(entry)
            shown.step(totals.files, count)
            listed = [entry for entry in step if entry.action in actions]
            if as_json:
                for entry in listed:
                    say_json("file", entry_fields(entry))
            elif most is not None:
                kept = heapq.nlargest(most, [*kept, *listed], key=_weight)
            elif listed:
                with shown.hidden():
                    table.add(listed)
    if not as_json:
        table.add(kept)
        more = sum(totals[action].files for action in actions) - len(kept)
        if most is not None and more:
            say(f"... and {more:,} more: status --all lists them")
        table.end()
    return totals


def _weight(entry: Entry) -> tuple[bool, int]:
    return entry.action == ERROR, entry.size
