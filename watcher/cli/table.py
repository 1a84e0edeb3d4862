# SPDX-License-Identifier: Apache-2.0
"""Entries as a table for people, one line at a time: a million files need no memory.

In a pipe each file is one line, so that grep and awk work: its first five words are action, size,
unit, age and name. At a terminal it is coloured and fitted to the width; nothing is cut off.
"""

import textwrap
import time
from collections.abc import Sequence

from watcher.cli.inventory import ACTIONS, ERROR, RECHECK, REMOVE, Entry, Totals
from watcher.cli.terminal import columns, painted, say
from watcher.units import human_age, human_size

LEFT = 24  # columns before the name
ID = 36
LONGEST = 49  # name that Glance gives, running-task-ID; longer ones push what follows
REASON = len("image is deleted")  # longer ones go below the name where there is no room
_COLOURS = {ERROR: "red", REMOVE: "yellow", RECHECK: "cyan"}


class Table:
    """A table on stdout; its columns are as wide as the first entries need."""

    def __init__(self) -> None:
        self._columns = _columns()
        self._words = _words()
        self._name_width = 0

    def add(self, entries: Sequence[Entry]) -> None:
        """Write some, the most urgent action first, and the files of an image together."""
        if not entries:
            return
        rows = sorted((ACTIONS.index(each.action), each.name, each) for each in entries)
        if not self._name_width:
            widths = (_width(one_word(each.name)) for each in entries)
            room = self._columns - LEFT - 2 - REASON
            self._name_width = int(max(ID, min(max(widths), LONGEST, room)))
            say(self._line("ACTION ", "SIZE", "AGE", "FILE", "WHY"))
        say("\n".join(self._row(entry) for _, _, entry in rows))

    def end(self) -> None:
        """Write a blank line, if anything was written above it."""
        if self._name_width:
            say("")

    def _row(self, entry: Entry) -> str:
        return self._line(
            entry.action,
            human_size(entry.size),
            "-" if entry.age is None else human_age(entry.age),
            one_word(entry.name),
            entry.reason,
        )

    def _line(self, *cells: str) -> str:
        action, size, age, name, reason = cells
        first = f"{self._words.get(action, action)} {size:>9} {age:>4}  {name}"
        last = f"{' ' * (self._name_width - _width(name))}  {reason}"
        if LEFT + _width(name) + len(last) <= self._columns:
            return first + last
        lines = textwrap.wrap(reason, int(self._columns) - LEFT)
        return "\n".join([first, *(" " * LEFT + line for line in lines)])


def say_totals(totals: Totals) -> None:
    """Write the sums by action and kind; of the actions that a file has."""
    words, now = _words(), time.time()
    say(f"ACTION   {'KIND':<18}  {'FILES':>8}  {'SIZE':>9}  OLDEST")
    for action, kinds in totals.kinds.items():
        for kind, share in kinds.in_order():
            size, age = human_size(share.size), human_age(share.age(now))
            say(f"{words[action]}  {kind!s:<18}  {share.files:>8}  {size:>9}  {age:>6}")


def _columns() -> float:
    return max(columns(), LEFT + ID)


def _words() -> dict[str, str]:
    return painted({action: f"{action:<7}" for action in ACTIONS}, _COLOURS)


def one_word(name: str) -> str:
    """A file's name, harmless to a terminal and without blanks; quoted where it isn't plain."""
    if name.isprintable() and " " not in name and name[0] not in "'\"":
        return name
    return ascii(name).replace(" ", "\\x20")


def _width(name: str) -> int:
    if name.isascii():
        return len(name)
    from rich.cells import cell_len  # noqa: PLC0415 - for the few

    return cell_len(name)
