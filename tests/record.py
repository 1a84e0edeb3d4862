# SPDX-License-Identifier: Apache-2.0
"""A plugin that records with which versions tests ran, in docs/versions.md: -p tests.record.

A row is the largest run of the last day with one version of one part.
"""

import platform
from collections import defaultdict
from collections.abc import Generator
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.acceptance.environment import Environment
from tests.services import Server

PAGE = Path(__file__).parents[1] / "docs/versions.md"
HEAD = (
    "| part | version | tests | passed | failed | skipped | date |\n|---|---|---|--:|--:|--:|---|\n"
)
LIBRARIES = ("oslo.messaging", "watchdog", "SQLAlchemy", "PyMySQL", "psycopg")

_used = pytest.StashKey[dict[str, set[str]]]()


class Row(NamedTuple):
    """What one run proved of one version; as text."""

    part: str
    version: str
    tests: str
    passed: str
    failed: str
    skipped: str
    date: str

    def __str__(self) -> str:
        return f"| {' | '.join(self)} |"

    @property
    def rank(self) -> tuple[str, int]:
        """By which it is kept in place of another one."""
        return self.date, int(self.passed)


def pytest_configure(config: pytest.Config) -> None:
    used: dict[str, set[str]] = defaultdict(set)
    config.stash[_used] = used


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(request: pytest.FixtureRequest) -> Generator[None, Any, Any]:
    made = yield
    used = request.config.stash[_used]
    if isinstance(made, Server) and (found := made.version) is not None:
        used[type(made).__name__].add(found)
    if isinstance(environment := getattr(made, "environment", None), Environment):
        used["Glance"].add(environment.version)
    return made


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # one of several processes
        output["versions"] = {
            part: list(each) for part, each in session.config.stash[_used].items()
        }


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for part, found in getattr(node, "workeroutput", {}).get("versions", {}).items():
        node.config.stash[_used][part].update(found)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    reports = {
        outcome: [each for each in terminalreporter.stats.get(outcome, []) if each.nodeid]
        for outcome in ("passed", "failed", "skipped")
    }
    if not any(reports.values()):
        return
    kinds = {each.nodeid.split("/")[1] for found in reports.values() for each in found}
    run = (
        ", ".join(sorted(kind.partition(".")[0] for kind in kinds)),
        *(str(len(found)) for found in reports.values()),
        datetime.now(timezone.utc).date().isoformat(),
    )
    update(PAGE, [Row(*pair, *run) for pair in _pairs(config.stash[_used])])


def _pairs(used: dict[str, set[str]]) -> list[tuple[str, str]]:
    system = platform.freedesktop_os_release()
    here = {
        system["NAME"].partition(" ")[0]: {system["VERSION_ID"]},
        "Python": {platform.python_version()},
        **{name: {version(name)} for name in LIBRARIES},
    }
    return [(part, each) for part, found in {**here, **used}.items() for each in sorted(found)]


def update(page: Path, new: list[Row]) -> None:
    """Put rows into the page's table, each in place of an older or a smaller one."""
    before, _, table = page.read_text().partition(HEAD)
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    known = [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines]
    kept = {row[:2]: row for row in known}
    for row in new:
        if row[:2] not in kept or kept[row[:2]].rank <= row.rank:
            kept[row[:2]] = row
    rows = sorted(kept.values(), key=_order)
    page.write_text(f"{before}{HEAD}" + "".join(f"{row}\n" for row in rows))


def _order(row: Row) -> tuple[str, list[int]]:
    return row.part.lower(), [int(each) for each in row.version.split(".") if each.isdigit()]
