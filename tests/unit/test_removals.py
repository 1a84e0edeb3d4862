# SPDX-License-Identifier: Apache-2.0
"""Each removal is one INFO line, and one record of the audit."""

import json
import logging
from pathlib import Path

import pytest

from watcher.database.images import ImageState
from watcher.reconcile.cleaner import Removal
from watcher.stats import Trigger
from watcher.telemetry import removals as removals_module
from watcher.telemetry.audit import AuditLog
from watcher.telemetry.removals import KEPT, Removals

IMAGE = "8aa29f1a-df65-415d-993e-a9e25853feb8"


def removal(name: str, state: ImageState, trigger: Trigger, waited: float | None) -> Removal:
    return Removal(f"/staging/{name}", IMAGE, state, 3 << 30, trigger, waited)


@pytest.mark.parametrize(
    ("removed", "line"),
    [
        (
            removal(IMAGE, ImageState.DELETED, Trigger.NOTIFICATION, 0.00187),
            f"Removed '/staging/{IMAGE}', 3.0 GiB, image {IMAGE}, by notification after 0.002 s: "
            "image is deleted",
        ),
        (
            removal(f"{IMAGE}.uc", ImageState.ABSENT, Trigger.SWEEP, None),
            f"Removed '/staging/{IMAGE}.uc', 3.0 GiB, image {IMAGE}, by sweep: image has no row in "
            "the database",
        ),
        (
            removal(f"{IMAGE}.\n\udcff", ImageState.DELETED, Trigger.FILE_EVENT, 12.0),
            rf"Removed '/staging/{IMAGE}.\n\udcff', 3.0 GiB, image {IMAGE}, by file_event after "
            "12.000 s: image is deleted",
        ),
    ],
)
def test_the_line_of_a_removal(
    removed: Removal, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "watcher")
    Removals(None).report(removed)
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [("INFO", line)]


def test_the_audit_has_it_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "audit.json"
    removals = Removals(AuditLog(str(path)))
    for number in range(KEPT + 2):
        removals.report(removal(str(number), ImageState.DELETED, Trigger.SWEEP, None))
    records = [json.loads(line)["file"] for line in path.read_text().splitlines()]
    assert records == [f"/staging/{number}" for number in range(KEPT + 2)]
    newest = [each.path for _, each in removals.last]
    assert newest == records[2:], "the newest ones are kept, for status"


def test_no_line_is_made_where_none_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(removals_module, "human_size")
    caplog.set_level(logging.WARNING, "watcher.telemetry.removals")
    Removals(None).report(removal(IMAGE, ImageState.DELETED, Trigger.SWEEP, None))
    assert not caplog.records
