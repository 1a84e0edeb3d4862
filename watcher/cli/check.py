# SPDX-License-Identifier: Apache-2.0
"""Whether all is set up well: checks that change nothing, each with what to do about it.

As the upgrade checks of OpenStack's services do it, the worst check is the exit code: 0 all is
well, 1 the watcher works but something deserves a look, 2 it can't do what it is configured to.
"""

import math
from collections.abc import Callable, Iterator

from watcher.checks import broker, database, directory, glance, outputs
from watcher.checks.result import Check, Result
from watcher.cli.jsonlines import say_json
from watcher.cli.terminal import columns, flush, painted, printable, say, wrapped
from watcher.conf import Config

CHECK_WIDTH = 14  # columns
TEXT = 25  # columns before what was found
ARROW = "-> "
_WORDS = {result: f"{result.name.lower():<7}" for result in Result}
_COLOURS = {Result.OK: "green", Result.WARNING: "yellow", Result.FAILURE: "red"}

#: what is checked, by its title
SECTIONS: dict[str, Callable[[Config], Iterator[Check]]] = {
    "Configuration": glance.configuration,
    "Staging directory": directory.checks,
    "Database": database.checks,
    "Message broker": broker.checks,
    "Glance's notifications": glance.notifications,
    "Log, audit and metrics": outputs.checks,
}


def run(conf: Config, *, as_json: bool) -> int:
    """Check all, and print each check as it ends; 0, 1 for warnings, or 2 for failures.

    :raises ConfigError: stdout can't be written to
    """
    counts = dict.fromkeys(Result, 0)
    words = _WORDS if as_json else painted(_WORDS, _COLOURS)
    width = columns()
    for section in SECTIONS.values():
        for check in section(conf):
            counts[check.result] += 1
            if as_json:
                say_json("check", fields(check))
            else:
                say(text(check, words[check.result], width))
            flush()
    worst = max(result for result, count in counts.items() if count)
    if as_json:
        totals = {result.name.lower(): count for result, count in counts.items()}
        say_json("summary", {"result": worst.name.lower(), **totals})
    else:
        good, doubtful, bad = counts.values()
        say(f"{good} ok, {doubtful} with a warning, {bad} failed")
    return int(worst)


def text(check: Check, word: str, width: float = math.inf) -> str:
    """A check for people: a line that begins with the word for its result, and the remedy.

    :param width: columns of the terminal; each text is wrapped between words where it is longer
    """
    found = _wrapped(check.found, TEXT, width)
    lines = f"{word}  {check.name:<{CHECK_WIDTH}}  {found}"
    if check.remedy is None:
        return lines
    remedy = _wrapped(check.remedy, TEXT + len(ARROW), width)
    return f"{lines}\n{'':{TEXT}}{ARROW}{remedy}"


def _wrapped(text: str, indent: int, width: float) -> str:
    return wrapped(printable(text), indent, width)


def fields(check: Check) -> dict[str, object]:
    """A check for programs."""
    return {
        "name": check.name,
        "result": check.result.name.lower(),
        "found": printable(check.found),
        "remedy": check.remedy and printable(check.remedy),
    }
