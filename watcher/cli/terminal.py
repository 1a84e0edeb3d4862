# SPDX-License-Identifier: Apache-2.0
"""Lines that commands write to stdout, for people."""

import math
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import TypeVar

from watcher.errors import ConfigError

K = TypeVar("K")

NARROW = 20  # columns that a text needs at least


def say(text: str) -> None:
    """Write a line, or several.

    :raises ConfigError: stdout can't be written to
    """
    try:
        sys.stdout.write(text + "\n")
    except OSError as error:
        raise _unwritable(error) from None


def flush() -> None:
    """Write what waits in the buffer.

    :raises ConfigError: stdout can't be written to
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        raise _unwritable(error) from None


def _unwritable(error: OSError) -> ConfigError:
    # The interpreter would try it once more at its end, and say so at length.
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    return ConfigError(f"Cannot write to stdout: {error.strerror}")


def painted(words: Mapping[K, str], colours: Mapping[K, str]) -> dict[K, str]:
    """The words, in colours where there are some: at a terminal, unless NO_COLOR is set."""
    if not sys.stdout.isatty():
        return dict(words)
    from rich.console import Console  # noqa: PLC0415 - only at a terminal
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    made = {}
    for key, word in words.items():
        with console.capture() as captured:
            console.print(Text(word, colours.get(key, "")), end="")
        made[key] = captured.get()
    return made


def printable(line: str) -> str:
    """Make text from elsewhere harmless to a terminal: what isn't printable is escaped."""
    return "".join(
        letter
        if letter.isprintable()
        else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in line
    )


def columns() -> float:
    """Columns of the terminal on stdout; endless when it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf


def wrapped(text: str, indent: int, width: float | None = None) -> str:
    """Text that follows ``indent`` columns, wrapped between words where a line is longer.

    :param width: columns of all; those of stdout by default
    """
    width = columns() if width is None else width
    if indent + len(text) <= width:
        return text
    lines = textwrap.wrap(
        text, int(max(width - indent, NARROW)), break_long_words=False, break_on_hyphens=False
    )
    return f"\n{'':{indent}}".join(lines)
