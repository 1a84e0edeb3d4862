# SPDX-License-Identifier: Apache-2.0
"""Tests of the table of versions that runs of tests write."""

from pathlib import Path

import pytest

from tests.record import HEAD, Row, update

KNOWN = Row("Python", "3.11.7", "unit", "100", "0", "1", "2026-11-25")


@pytest.mark.parametrize(
    ("new", "kept"),
    [
        (KNOWN._replace(date="2026-11-26", passed="5"), "new"),
        (KNOWN._replace(date="2026-11-24", passed="500"), "known"),
        (KNOWN._replace(passed="101"), "new"),
        (KNOWN._replace(passed="99"), "known"),
    ],
    ids=["a later day", "an earlier day", "a larger run", "a smaller run"],
)
def test_a_row_is_the_largest_run_of_the_last_day(tmp_path: Path, new: Row, kept: str) -> None:
    page = tmp_path / "versions.md"
    page.write_text(f"# Versions\n\n{HEAD}{KNOWN}\n")
    update(page, [new])
    assert page.read_text() == f"# Versions\n\n{HEAD}{new if kept == 'new' else KNOWN}\n"


def test_rows_are_in_the_order_of_parts_and_numbers(tmp_path: Path) -> None:
    page = tmp_path / "versions.md"
    page.write_text(HEAD)
    found = [KNOWN._replace(version=each) for each in ("3.9.2", "3.13.0", "3.10.13")]
    update(page, [*found, KNOWN._replace(part="Debian", version="12")])
    lines = page.read_text().removeprefix(HEAD).splitlines()
    assert [line.split(" | ")[1] for line in lines] == ["12", "3.9.2", "3.10.13", "3.13.0"]
