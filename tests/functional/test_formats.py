# SPDX-License-Identifier: Apache-2.0
"""The JSON that commands write is what docs/formats.md promises to programs."""

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sqlite_url
from tests.functional.host import Host, new_id
from tests.functional.program import SECRET, run_program

PAGE = Path(__file__).parents[2] / "docs/formats.md"
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "null": (type(None),),
    "array": (list,),
}
ROW = re.compile(r"^\| `([\w.*]+)` \| ([\w ]+) \|", re.MULTILINE)
CONDITIONS = "service.report.conditions"  # its fields are components
ACTIONS = {"remove", "error", "recheck", "keep"}

database_url = sqlite_url

Fields = dict[str, str]  # path of a field: its types


def documented() -> dict[tuple[str, str], Fields]:
    """Fields by command and kind of object, as the page has them."""
    found = {}
    text = PAGE.read_text().partition("## JSON\n")[2].partition("## Exit codes\n")[0]
    common, *sections = text.split("\n### ")
    for section in sections:
        title = section.partition("\n")[0]
        *commands, kind = re.findall("`([^`]+)`", title)
        for command in commands:
            found[command, kind] = dict(ROW.findall(common) + ROW.findall(section))
    return found


DOCUMENTED = documented()


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields of an object and of those in it, by their paths."""
    fields = {}
    for name, field in value.items():
        path = prefix + ("*" if prefix in ("actions.", "kinds.") else name)
        fields[path] = field
        if isinstance(field, dict) and path not in ("oldest", CONDITIONS):
            fields.update(flat(field, f"{path}."))
    return fields


def check(value: dict[str, Any], promised: Fields) -> None:
    """An object has the promised fields, with values of the promised types, and no others."""
    fields = flat(value)
    for several in ("actions.*", "kinds.*"):
        fields.pop(several, None)
    empty = [path for path, field in fields.items() if field is None or field == {}]
    within_null = tuple(f"{path}." for path in empty)
    expected = {path for path in promised if not path.startswith(within_null or ("\0",))}
    assert set(fields) == expected, f"{value['kind']}: undocumented, or missing"
    for path, field in fields.items():
        types = [each for name in promised[path].split(" or ") for each in TYPES[name]]
        assert type(field) in types, (path, field, promised[path])


@pytest.fixture
def host(host: Host) -> Host:
    """A host with a file for each action, and names that are no text; its service runs."""
    with host.config_file.open("a") as config:
        config.write(f"[staging_watcher]\naudit_log = {host.directory / 'audit.json'}\n")
        config.write(f"status_file = {host.directory / 'status.json'}\n")
    host.stage_live()
    host.stage_deleted(".uc")
    host.stage(new_id())
    image = new_id()
    host.images.insert(image, deleted=True)
    (host.staging / image).mkdir()
    host.stage(os.fsdecode(b"caf\xe9"))
    residue = host.stage_deleted()
    residue.rename(host.staging / (residue.name + os.fsdecode(b".\xff\n")))
    return host


def run(host: Host, command: str) -> tuple[int, list[dict[str, Any]]]:
    """Run a command; its exit code, and the objects that it wrote."""
    done = run_program(*command.split(), "--format", "json", "--config-file", host.config_file)
    assert SECRET not in done.stdout
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("command", sorted({command for command, _ in DOCUMENTED}))
def test_each_command_writes_what_is_documented(host: Host, command: str) -> None:
    if command == "history":
        run(host, "sweep")
    _, objects = run(host, command)
    kinds = {kind for documented_command, kind in DOCUMENTED if documented_command == command}
    assert {value["kind"] for value in objects} == kinds
    for value in objects:
        check(value, DOCUMENTED[command, value["kind"]])
        assert value["version"] == 1
    assert [value["kind"] in ("summary", "status") for value in objects].index(True) == (
        len(objects) - 1
    )


def test_status_of_all_files(host: Host) -> None:
    _, objects = run(host, "status --all")
    *files, status = objects
    assert {value["action"] for value in files} == ACTIONS
    for value in files:
        check(value, DOCUMENTED["status", "file"])
    check(status["oldest"] | {"version": 1, "kind": "file"}, DOCUMENTED["status", "file"])
    assert status["oldest"]["action"] in ("remove", "error")


def test_a_dry_run_and_the_sweep_agree(host: Host) -> None:
    code, (*planned, plan) = run(host, "sweep --dry-run")
    assert code == 1
    states = {value["action"]: value["image_state"] for value in planned if value["image_id"]}
    assert states == {"keep": "live", "remove": "deleted", "recheck": "absent", "error": "deleted"}
    to_remove = {value["name"] for value in planned if value["action"] == "remove"}
    code, (*done, outcome) = run(host, "sweep")
    assert code == 1
    assert {value["name"] for value in done if value["kind"] == "removed"} == to_remove
    assert [value["error"] for value in done if value["kind"] == "failed"] == ["Is a directory"]
    for field in ("cleaned", "ignored", "error", "size", "directory", "limited", "unwitnessed"):
        assert outcome[field] == plan[field], field
    assert (outcome["cleaned"], outcome["ignored"], outcome["error"]) == (2, 3, 1)
    assert outcome["size"] == sum(value["size"] for value in done if value["kind"] == "removed")
    assert plan["actions"]["remove"] == {"files": 2, "size": outcome["size"]}
    host.check_live()


def test_the_limit_is_in_the_summary(host: Host, database_url: str) -> None:
    for _ in range(2):
        host.stage(new_id())
    limits = "absent_grace = 0\nmax_absent_removals = "
    for limit, limited in (("10", 0), ("1", 2)):
        host.configure(database_url=database_url, watcher=limits + limit)
        assert run(host, "sweep --dry-run")[1][-1]["limited"] == limited
    assert run(host, "sweep")[1][-1]["limited"] == 2


def test_names_that_are_no_text_come_as_bytes(host: Host) -> None:
    _, objects = run(host, "sweep --dry-run")
    names = {value["name"]: value["name_b64"] for value in objects if value["kind"] == "file"}
    assert base64.b64decode(names.pop("caf\ufffd")) == b"caf\xe9"
    [(name, raw)] = [(name, raw) for name, raw in names.items() if raw is not None]
    assert name.endswith(".\ufffd\n") and base64.b64decode(raw).endswith(b".\xff\n")


def test_without_a_directory(new_host: Any) -> None:
    host = new_host()
    host.staging.rmdir()
    for command, kind in (
        ("sweep", "summary"),
        ("sweep --dry-run", "summary"),
        ("status", "status"),
    ):
        code, [value] = run(host, command)
        assert code == 0
        check(value, DOCUMENTED[command, kind])
    host.staging.mkdir()


def test_status_without_a_database(host: Host) -> None:
    host.configure(database_url=f"mysql+pymysql://glance:{SECRET}@127.0.0.1:9/glance")
    code, [value] = run(host, "status")
    assert code == 2
    check(value, DOCUMENTED["status", "status"])
    assert value["database"]["host"] == "127.0.0.1"
    assert value["database"]["error"] and value["actions"] is None


def test_each_check_is_listed() -> None:
    checks = Path(__file__).parents[2] / "watcher/checks"
    source = "".join(path.read_text() for path in checks.glob("*.py"))
    made = set(re.findall(r'Check\(\s*"(\w+)"', source))
    listed = PAGE.read_text().partition("### `check`: `check`")[2].partition("### ")[0]
    assert len(made) > 15
    assert not {name for name in made if f"`{name}`" not in listed}
