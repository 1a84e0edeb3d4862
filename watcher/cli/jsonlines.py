# SPDX-License-Identifier: Apache-2.0
"""JSON lines that commands write to stdout, for programs.

They are an interface: docs/formats.md has the fields.
"""

import base64
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict

from watcher.cli.inventory import Entry, Totals
from watcher.cli.terminal import say
from watcher.reconcile.cleaner import Removal
from watcher.reconcile.kinds import Kinds, merged
from watcher.reconcile.planner import Decision

VERSION = 1  # of the JSON; it is raised when a field is renamed, goes, or means something else


def say_json(kind: str, fields: dict[str, object]) -> None:
    """Write an object as one line of JSON.

    :raises ConfigError: stdout can't be written to
    """
    say(json.dumps({"version": VERSION, "kind": kind, **fields}))


def name_fields(name: str) -> dict[str, object]:
    """A file's name, which is text and, if it isn't UTF-8, bytes too: not all readers
    of JSON accept half a character."""
    raw = os.fsencode(name)
    text = raw.decode("utf-8", "replace")
    exact = text.encode() == raw
    return {"name": text, "name_b64": None if exact else base64.b64encode(raw).decode()}


def entry_fields(entry: Entry) -> dict[str, object]:
    """Fields of a file."""
    return {
        **name_fields(entry.name),
        "image_id": entry.image_id,
        "image_state": entry.state.value if entry.state else None,
        "image_status": entry.image_status,
        "file_kind": str(entry.kind) if entry.kind else None,
        "action": entry.action,
        "reason": entry.reason,
        "size": entry.size,
        "age": None if entry.age is None else round(entry.age, 3),
    }


def removed_fields(removal: Removal) -> dict[str, object]:
    """Fields of a file that was removed."""
    return {
        **name_fields(os.path.basename(removal.path)),
        "image_id": removal.image_id,
        "image_state": removal.state.value,
        "size": removal.size,
    }


def failed_fields(decision: Decision, error: OSError) -> dict[str, object]:
    """Fields of a file that could not be removed."""
    return {
        **name_fields(decision.name),
        "image_id": decision.image_id,
        "image_state": decision.state.value if decision.state else None,
        "error": error.strerror or str(error),
    }


def totals_fields(totals: Totals) -> dict[str, object]:
    """Fields of sums by action."""
    return {action: asdict(count) for action, count in totals.by_action.items()}


def kinds_fields(kinds: Iterable[Kinds]) -> dict[str, object]:
    """Fields of sums by kind."""
    now, found = time.time(), merged(kinds)
    return {
        str(kind): {
            "files": share.files,
            "size": share.size,
            "oldest": round(share.age(now), 3),
        }
        for kind, share in found.in_order()
    }
