# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from watcher.cli.listing import list_entries
from watcher.reconcile.cleaner import Cleaner
from watcher.reconcile.planner import Action, Decision, Reason
from watcher.staging.directory import Staging

FILES = 2500


@pytest.mark.parametrize("as_json", [False, True])
def test_lines_are_written_while_files_are_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    written = []

    class ManyFiles:
        planner = None

        def sweep(self, *, count: int) -> "ManyFiles":
            return self

        def decisions(self) -> Iterator[Decision]:
            for number in range(FILES):
                if number % 1000 == 0:
                    written.append(len(capsys.readouterr().out.splitlines()))
                yield Decision(f"x{number}", None, None, Action.KEEP, Reason.NOT_AN_IMAGE)

    with Staging(str(tmp_path)) as staging:
        totals = list_entries(staging, cast(Cleaner, ManyFiles()), as_json=as_json)
    assert totals["keep"].files == FILES
    head = 0 if as_json else 1
    assert written == [0, 1000 + head, 1000]
