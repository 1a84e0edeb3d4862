# SPDX-License-Identifier: Apache-2.0
"""``sweep`` and ``sweep --dry-run`` as an operator runs them."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.functional.host import Host, new_id
from tests.functional.program import PROGRAM
from tests.functional.terminal import COLOUR, Terminal

ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_one_sweep(host: Host) -> None:
    residue = [host.stage_deleted(), host.stage_deleted(".uc")]
    host.stage_live()
    foreign = host.stage("foo")
    code, said = host.sweep()
    assert code == 0
    assert said.splitlines()[-1] == "Cleaned 2 stale staging files, 2 ignored (0 errors)"
    assert not any(path.exists() for path in residue)
    assert foreign.exists()
    host.check_live()


def test_some_files_cannot_be_removed(host: Host) -> None:
    residue = host.stage_deleted()
    image = new_id()
    host.images.insert(image, deleted=True)
    (host.staging / image).mkdir()
    code, said = host.sweep()
    assert code == 1
    assert not residue.exists() and (host.staging / image).exists()
    assert said.splitlines()[-1] == "Cleaned 1 stale staging files, 0 ignored (1 errors)"
    path = host.staging / image
    assert f"Failed to delete stale staging path '{path}': [Errno 21] Is a directory" in said


def test_the_log_goes_to_stderr_and_the_result_to_stdout(host: Host) -> None:
    host.stage_deleted()
    run = subprocess.run(
        [PROGRAM, "sweep", "--config-file", host.config_file],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert run.stdout == "Cleaned 1 stale staging files, 0 ignored (0 errors)\n"
    assert "Stale staging residue found" in run.stderr


def test_an_absent_directory_is_all_well(host: Host) -> None:
    host.staging.rmdir()
    code, said = host.sweep()
    assert (code, said.splitlines()[-1]) == (
        0,
        f"Staging directory {host.staging} does not exist: nothing to do",
    )
    host.staging.mkdir()


def test_a_dry_run_removes_nothing_and_says_why(host: Host) -> None:
    live = host.stage_live()
    deleted = host.stage_deleted(".uc")
    deleted.write_bytes(b"x" * (3 << 20))
    young = host.stage(new_id(), b"")
    host.stage("foo", b"")
    image = new_id()
    host.images.insert(image, deleted=True)
    (host.staging / image).mkdir()
    before = sorted(os.listdir(host.staging))
    code, said = host.sweep("--dry-run")
    assert code == 1
    assert sorted(os.listdir(host.staging)) == before
    table, _, totals = said.partition("\n\n")
    head, *rows = [line.split(maxsplit=5) for line in table.splitlines()]
    assert head == ["VERDICT", "SIZE", "AGE", "FILE", "IMAGE", "WHY"]
    young_reason = "image is not in the database, changed less than 60 s ago"
    no_file = "image is deleted, but this is not a regular file"
    assert {(verdict, name, id_, why) for verdict, _, _, name, id_, why in rows} == {
        ("keep", live, live, "image is live"),
        ("remove", deleted.name, deleted.stem, "image is deleted"),
        ("recheck", young.name, young.name, young_reason),
        ("keep", "foo", "-", "not an image's file"),
        ("error", image, image, no_file),
    }
    sizes = {name: size for _, size, _, name, _, _ in rows}
    assert (sizes[deleted.name], sizes["foo"]) == ("3.0MiB", "0B")
    assert all(re.fullmatch(r"\d+[sm]", age) for _, _, age, _, _, _ in rows)
    _, *sums, last = totals.splitlines()
    assert [(line.split()[0], line.split()[1]) for line in sums] == [
        ("error", "1"),
        ("remove", "1"),
        ("recheck", "1"),
        ("keep", "2"),
    ]
    assert sums[1].split()[2] == "3.0MiB"
    assert last == "Would clean 1 stale staging files, 3 ignored (1 errors); 3.0 MiB to gain"


HOSTILE = {
    b"\x1b[41mred": "'\\x1b[41mred'",
    b"[red]x[blink]": "[red]x[blink]",
    b"a remove b": "'a\\x20remove\\x20b'",
    b"line\nkeep": "'line\\nkeep'",
    b"no\xff\xfetext": "'no\\udcff\\udcfetext'",
    "right\u202eleft".encode(): "'right\\u202eleft'",
    "画像".encode(): "画像",
    b"'quoted'": "\"'quoted'\"",
    b"x" * 255: "x" * 255,
}


def test_hostile_names_are_harmless_and_whole(host: Host) -> None:
    for name in HOSTILE:
        host.stage(os.fsdecode(name))
    for said in (dry_run_at_terminal(host).raw, host.sweep("--dry-run")[1]):
        assert "\x1b[41m" not in said
        lines = said.replace("\r\n", "\n").splitlines()
        lines = [line for line in lines if re.match(r"keep .* \d+[sm]  ", line)]
        shown = {line.split()[3] for line in lines}
        assert shown == set(HOSTILE.values())


def test_any_name_can_be_said_in_any_encoding(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.stage("画像")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii:strict")
    assert "\\u753b\\u50cf" in host.sweep("--dry-run")[1]


def test_many_files_are_all_listed_each_batch_in_order(host: Host) -> None:
    for number in reversed(range(1500)):
        host.stage(f"x{number:04}", b"")
    code, said = host.sweep("--dry-run")
    names = re.findall(r"^keep .* (x\d+) ", said, re.MULTILINE)
    assert code == 0 and sorted(names) == [f"x{number:04}" for number in range(1500)]
    assert names[:1000] == sorted(names[:1000]) and names[1000:] == sorted(names[1000:])


def dry_run_at_terminal(
    host: Host, columns: int = 80, environment: dict[str, str] | None = None
) -> Terminal:
    """A dry run that has ended."""
    terminal = Terminal(
        "sweep",
        "--dry-run",
        "--config-file",
        host.config_file,
        "--nodebug",
        columns=columns,
        environment=environment,
    )
    terminal.end()
    return terminal


@ONE_DATABASE
def test_a_narrow_terminal_loses_nothing(host: Host) -> None:
    names = [host.stage_deleted(suffix).name for suffix in ("", ".uc", ".qcow2")]
    young = host.stage(new_id(), b"").name
    task = host.stage(f"running-task-{new_id()}").name
    lines = dry_run_at_terminal(host).lines
    assert max(len(line) for line in lines) <= 80
    said = " ".join(" ".join(lines).split())
    for name, reason in (
        *((name, "image is deleted") for name in names),
        (young, "image is not in the database, changed less than 60 s ago"),
        (task, "not an image's file"),
    ):
        assert f"{name} {reason}" in said
    assert "IMAGE" not in lines[0]


@ONE_DATABASE
def test_a_wide_terminal_has_the_image_too(host: Host) -> None:
    residue = host.stage_deleted(".uc")
    lines = dry_run_at_terminal(host, columns=160).lines
    assert f"{residue.name}  {residue.stem}  image is deleted" in "\n".join(lines)


@ONE_DATABASE
def test_colour_only_at_a_terminal_and_if_wanted(host: Host) -> None:
    host.stage_deleted()
    assert COLOUR.search(dry_run_at_terminal(host).raw)
    assert not COLOUR.search(dry_run_at_terminal(host, environment={"NO_COLOR": "1"}).raw)
    assert not COLOUR.search(dry_run_at_terminal(host, environment={"TERM": "dumb"}).raw)
    assert "\x1b" not in host.sweep("--dry-run")[1]


@ONE_DATABASE
def test_what_is_removed_is_in_the_audit_too(host: Host, database_url: str) -> None:
    residue = host.stage_deleted()
    audit = host.directory / "audit.log"
    host.configure(database_url=database_url, watcher=f"audit_log = {audit}")
    code, said = host.sweep("--format", "json")
    assert code == 0 and f'"kind": "removed", "name": "{residue.name}"' in said
    assert str(residue) in audit.read_text()


@ONE_DATABASE
def test_stdout_that_is_full(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    residue = host.stage_deleted()
    for arguments in (["--dry-run"], ["--dry-run", "--format", "json"], []):
        with open("/dev/full", "w") as full:
            run = subprocess.run(
                [PROGRAM, "sweep", "--config-file", host.config_file, "--nodebug", *arguments],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=30,
                check=False,
            )
        said = "glance-staging-watcher: Cannot write to stdout: No space left on device\n"
        assert (run.returncode, run.stderr) == (2, said)
    assert not residue.exists()


def test_absent_images_wait_for_their_grace(host: Host, database_url: str) -> None:
    host.stage_live()
    path = host.stage(new_id())
    assert host.sweep()[0] == 0
    assert path.exists()
    host.configure(database_url=database_url, watcher="absent_grace = 0")
    assert host.sweep()[0] == 0
    assert not path.exists()


def test_the_brake(host: Host, database_url: str) -> None:
    host.stage_live()
    for _ in range(5):
        host.stage(new_id())
    host.configure(database_url=database_url, watcher="absent_grace = 0\nmax_absent_removals = 3")
    code, said = host.sweep()
    assert code == 0
    assert "Cleaned 3 stale staging files, 3 ignored (0 errors)" in said
    assert said.count("raise [staging_watcher] max_absent_removals") == 1
    assert len(os.listdir(host.staging)) == 3


def sweep_at_terminal(host: Host, *arguments: str, **options: Any) -> Terminal:
    """A sweep with the log that an operator has."""
    return Terminal("sweep", "--config-file", host.config_file, "--nodebug", *arguments, **options)


def test_a_human_sees_progress(host: Host) -> None:
    for path in [host.stage_deleted() for _ in range(3)]:
        path.write_bytes(b"x" * (1 << 20))
    host.stage("foo")
    terminal = sweep_at_terminal(host)
    assert terminal.end() == 0
    bar, last, _ = terminal.lines
    assert bar.endswith(" 3 cleaned, 3.0 MiB gained") and "4 of 4 files" in bar
    assert len(bar) <= 80
    assert last == "Cleaned 3 stale staging files, 1 ignored (0 errors)"
    assert COLOUR.search(terminal.raw)


@ONE_DATABASE
def test_progress_without_colour(host: Host) -> None:
    host.stage_deleted()
    terminal = sweep_at_terminal(host, environment={"NO_COLOR": "1"})
    terminal.end()
    assert "1 of 1 files" in COLOUR.sub("", terminal.raw)
    assert not COLOUR.search(terminal.raw)


@ONE_DATABASE
def test_progress_and_the_log_keep_apart(host: Host) -> None:
    image = new_id()
    host.images.insert(image, deleted=True)
    (host.staging / image).mkdir()
    terminal = sweep_at_terminal(host, columns=500)
    assert terminal.end() == 1
    log, bar, last, _ = terminal.lines
    assert re.match(r"\d{4}-.* ERROR watcher.cleaner .*Failed to delete stale staging path", log)
    assert "1 of 1 files" in bar
    assert last == "Cleaned 0 stale staging files, 0 ignored (1 errors)"


@ONE_DATABASE
@pytest.mark.parametrize("arguments", [["--dry-run"], ["--format", "json"]])
def test_no_progress_where_another_may_have_the_terminal(host: Host, arguments: list[str]) -> None:
    """A pager, say, that reads the list."""
    host.stage_deleted()
    reader, writer = os.pipe()
    terminal = sweep_at_terminal(host, *arguments, stdout=writer)
    os.close(writer)
    assert terminal.end() == 0
    os.close(reader)
    assert terminal.raw == ""


@ONE_DATABASE
def test_a_list_in_a_file_shows_progress(host: Host, tmp_path: Path) -> None:
    host.stage_deleted()
    with (tmp_path / "list").open("w") as file:
        terminal = sweep_at_terminal(host, "--dry-run", stdout=file.fileno())
        assert terminal.end() == 0
    assert "1 of 1 files" in COLOUR.sub("", terminal.raw)
    assert "".join(terminal.lines) == ""  # it is gone at the end
    assert "\x1b" not in (tmp_path / "list").read_text()


# A file system that doesn't answer.
HANGING = """
import os, signal, sys
os.unlink = lambda *args, **options: signal.pause()
from watcher.cli import main
sys.exit(main())
"""


@ONE_DATABASE
def test_an_interrupt_gives_the_terminal_back(host: Host) -> None:
    residue = host.stage_deleted()
    terminal = sweep_at_terminal(host, command=[sys.executable, "-c", HANGING])
    terminal.read_until(" of ")
    assert terminal.raw.rindex("\x1b[?25l") >= 0  # the cursor is hidden
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == -signal.SIGINT
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l")
    assert "Traceback" not in terminal.raw
    assert residue.exists()
