# SPDX-License-Identifier: Apache-2.0
"""Commands of the pages, for the tests that run them as they stand there."""

import re
import shlex
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))}

#: begin of each command line that no test runs, and why. In place of podman, whose ``run`` needs
#: control groups of its own, tests/packaging/test_container.py has buildah run the same containers.
NOT_RUN = {
    "make test ": "it runs these tests",
}

_PART = re.compile(
    r"^(?:#+ (?P<heading>[^\n]*)|```(?P<language>[^\n]*)\n(?P<text>.*?)^```)$",
    re.MULTILINE | re.DOTALL,
)


class Commands(NamedTuple):
    """A block of commands.

    :param script: for a shell
    :param prints: what the page says that it prints; empty if it says nothing
    """

    script: str
    prints: str

    def lines(self) -> list[list[str]]:
        """Each command, in words."""
        return [shlex.split(line) for line in self.script.replace("\\\n", "").splitlines()]


@cache
def blocks(page: str) -> dict[tuple[str, int], Commands]:
    """Blocks of a page, by the heading above and their number below it, from 0."""
    found: dict[tuple[str, int], Commands] = {}
    heading, number = "", -1
    for part in _PART.finditer(PAGES[page].read_text()):
        language, text = part["language"], part["text"]
        if part["heading"] is not None:
            heading, number = part["heading"], -1
        elif language == "sh":
            number += 1
            found[heading, number] = Commands(text, "")
        elif language == "console":
            number += 1
            script = "".join(re.findall(r"^\$ (.*\n)", text, re.MULTILINE))
            found[heading, number] = Commands(script, re.sub(r"(?m)^\$ .*\n", "", text))
        elif language == "text" and number >= 0:
            found[heading, number] = found[heading, number]._replace(prints=text)
    return found


def commands(page: str, heading: str, number: int = 0, /, **placeholders: str) -> Commands:
    """A block of commands, less the lines in `NOT_RUN`, for a test to run.

    The first three arguments are literals: `test_each_command_is_run_by_a_test` reads these calls.

    :param placeholders: what stands for each word that the page has in capitals
    """
    block = blocks(page)[heading, number]
    for name, value in placeholders.items():
        word = re.compile(rf"(?<![A-Za-z]){name}(?![A-Za-z])")
        assert word.search("".join(block)), f"{page} doesn't have {name} there"
        block = Commands(*(word.sub(value, text) for text in block))
    lines = block.script.splitlines(keepends=True)
    run = [line for line in lines if not line.startswith((*NOT_RUN,))]
    return Commands("".join(run), block.prints)


def same_everywhere(output: str) -> list[str]:
    """The lines of an output in words, less what differs from one run to the next.

    Sizes on disk are the file system's, ages the machine's; widths of columns follow them.
    """
    output = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME", output)
    output = re.sub(r"[\d.]+ ?(?:[KMG]i)?B\b|\b\d+s\b|^\d+ ", "N ", output, flags=re.MULTILINE)
    return [" ".join(line.split()) for line in output.splitlines() if line]
