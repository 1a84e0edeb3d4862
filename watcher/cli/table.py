# SPDX-License-Identifier: Apache-2.0
"""Entries as a table for people, one line at a time: a million files need no memory.

In a pipe each file is one line of six columns without a blank in the first five, so that grep and
awk work. At a terminal it is coloured and fitted to the width; nothing is cut off.
"""

import math
import shutil
import sys
import textwrap
from collections.abc import Sequence

from watcher.cli.inventory import ACTIONS, ERROR, RECHECK, REMOVE, Entry, Totals
from watcher.cli.terminal import painted, say

LEFT = 22  # columns before the name
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
        self._with_image = False

    def add(self, entries: Sequence[Entry]) -> None:
        """Write some, the most urgent action first, and the files of an image together."""
        if not entries:
            return
        rows = sorted((ACTIONS.index(each.action), each.name, each) for each in entries)
        if not self._name_width:
            widths = (_width(one_word(each.name)) for each in entries)
            room = self._columns - LEFT - 2 - REASON
            self._name_width = int(max(ID, min(max(widths), LONGEST, room)))
            self._with_image = room - self._name_width >= 2 + ID
            say(self._line("ACTION", "SIZE", "AGE", "FILE", "IMAGE", "WHY"))
        say("\n".join(self._row(entry) for _, _, entry in rows))

    def end(self) -> None:
        """Write a blank line, if anything was written above it."""
        if self._name_width:
            say("")

    def _row(self, entry: Entry) -> str:
        return self._line(
            entry.action,
            _compact(entry.size),
            "-" if entry.age is None else human_age(entry.age),
            one_word(entry.name),
            entry.image_id or "-",
            entry.reason,
        )

    def _line(self, *cells: str) -> str:
        action, size, age, name, image, reason = cells
        first = f"{self._words.get(action, action)} {size:>7} {age:>4}  {name}"
        padding = " " * (self._name_width - _width(name))
        if self._with_image:
            padding += f"  {image:<{ID}}"
        last = f"{padding}  {reason}"
        if LEFT + _width(name) + len(last) <= self._columns:
            return first + last
        lines = textwrap.wrap(reason, int(self._columns) - LEFT)
        return "\n".join([first, *(" " * LEFT + line for line in lines)])


def say_totals(totals: Totals) -> None:
    """Write the sums by action."""
    words = _words()
    say("ACTION       FILES       SIZE")
    for action, count in totals.by_action.items():
        say(f"{words[action]} {count.files:>10} {_compact(count.size):>10}")


def _columns() -> float:
    """Columns of the terminal on stdout; endless when it is none."""
    if not sys.stdout.isatty():
        return math.inf
    return max(shutil.get_terminal_size().columns, LEFT + ID)


def _words() -> dict[str, str]:
    return painted({action: f"{action:<7}" for action in ACTIONS}, _COLOURS)


def human_size(size: float) -> str:
    """Bytes in binary units."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    power = min(max(0, (int(size).bit_length() - 1) // 10), len(units) - 1)
    return f"{size / 1024**power:.{1 if power else 0}f} {units[power]}"


def _compact(size: float) -> str:
    number, unit = human_size(size).split()
    return (number if len(number) < 5 else number.partition(".")[0]) + unit


def human_age(seconds: float) -> str:
    """An age in its largest unit of seconds, minutes, hours and days; below zero for a future."""
    size = abs(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if size >= length:
            return f"{'-' * (seconds < 0)}{size // length:.0f}{unit}"
    return f"{'-' * (seconds <= -1)}{size // 1:.0f}s"


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
