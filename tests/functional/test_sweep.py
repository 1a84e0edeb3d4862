# SPDX-License-Identifier: Apache-2.0
"""``sweep`` and ``sweep --dry-run`` as an operator runs them."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import on
from tests.functional.host import Host, new_id
from tests.functional.program import AS_NOBODY, PROGRAM, problems, run_program
from tests.functional.terminal import COLOUR, Terminal
from tests.services import namespaces, wait_for

ONE_DATABASE = on("sqlite")


def test_one_sweep(host: Host) -> None:
    residue = [host.stage_deleted(), host.stage_deleted(".uc")]
    for path in residue:
        path.write_bytes(b"x" * (1 << 20))
    host.stage_live()
    foreign = host.stage("foo")
    code, said = host.sweep()
    assert code == 0
    last = "Cleaned 2 stale staging files, 2 ignored (0 errors); 2.0 MiB gained"
    assert said.splitlines()[-1] == last
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
    assert "\nCleaned 1 stale staging file, 0 ignored (1 error); " in said
    path = host.staging / image
    assert f"Failed to delete stale staging path '{path}': [Errno 21] Is a directory" in said


def test_the_log_goes_to_stderr_and_the_result_to_stdout(host: Host) -> None:
    host.stage_deleted().write_bytes(b"")
    run = run_program("sweep", "--config-file", host.config_file)
    assert run.returncode == 0
    assert run.stdout == "Cleaned 1 stale staging file, 0 ignored (0 errors); 0 B gained\n"
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
    head, *lines = table.splitlines()
    rows = [line.split(maxsplit=5) for line in lines]
    assert head.split() == ["ACTION", "SIZE", "AGE", "FILE", "WHY"]
    young_reason = "image has no row in the database, file is younger than absent_grace"
    no_file = "image is deleted, but this is a directory"
    assert {(action, name, why) for action, _, _, _, name, why in rows} == {
        ("keep", live, "image is live: queued"),
        ("remove", deleted.name, "image is deleted"),
        ("recheck", young.name, young_reason),
        ("keep", "foo", "not an image file"),
        ("error", image, no_file),
    }
    sizes = {name: f"{size} {unit}" for _, size, unit, _, name, _ in rows}
    assert (sizes[deleted.name], sizes["foo"]) == ("3.0 MiB", "0 B")
    assert all(re.fullmatch(r"\d+[sm]", age) for _, _, _, age, _, _ in rows)
    _, *sums, last = totals.splitlines()
    assert [tuple(line.split()[:3]) for line in sums] == [
        ("error", "directory", "1"),
        ("remove", "residue", "1"),
        ("recheck", "unknown", "1"),
        ("keep", "live:queued", "1"),
        ("keep", "foreign", "1"),
    ]
    assert sums[1].split()[3:5] == ["3.0", "MiB"]
    assert last == "Would clean 1 stale staging file, 3 ignored (1 error); 3.0 MiB to gain"


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
        shown = {line.split()[4] for line in lines}
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
        (young, "image has no row in the database, file is younger than absent_grace"),
        (task, "not an image file"),
    ):
        assert f"{name} {reason}" in said
    assert "IMAGE" not in lines[0]


@ONE_DATABASE
def test_a_wide_terminal_has_no_column_twice(host: Host) -> None:
    residue = host.stage_deleted(".uc")
    lines = dry_run_at_terminal(host, columns=160).lines
    assert f"{residue.name}  image is deleted" in "\n".join(lines)


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
        assert (run.returncode, problems(run.stderr)) == (2, said)
    assert not residue.exists()


def test_absent_images_wait_for_their_grace(host: Host, database_url: str) -> None:
    host.stage_live()
    path = host.stage(new_id())
    assert host.sweep()[0] == 0
    assert path.exists()
    host.configure(database_url=database_url, watcher="absent_grace = 0")
    assert host.sweep()[0] == 0
    assert not path.exists()


def test_without_a_known_image_nothing_is_removed_unless_the_operator_trusts_the_database(
    host: Host, database_url: str
) -> None:
    """As with the database of another Glance."""
    host.images.insert(new_id())
    files = [host.stage(new_id()) for _ in range(5)]
    host.configure(database_url=database_url, watcher="absent_grace = 0")
    for arguments, counts in ((["--dry-run"], "Would clean 0"), ([], "Cleaned 0")):
        code, said = host.sweep(*arguments)
        assert code == 1 and counts in said
        assert "None of the image files here has a row in the database; kept: 5 files; is " in said
    assert all(path.exists() for path in files)
    code, said = host.sweep("--trust-database")
    assert code == 0 and "None of" not in said
    assert not any(path.exists() for path in files)


def test_the_limit_on_absent_removals(host: Host, database_url: str) -> None:
    host.stage_live()
    for _ in range(5):
        host.stage(new_id())
    host.configure(database_url=database_url, watcher="absent_grace = 0\nmax_absent_removals = 3")
    hit = "Reached max_absent_removals; kept: 2 more files without a database row\n"
    for arguments, counts in ((["--dry-run"], "Would clean 3"), ([], "Cleaned 3")):
        code, said = host.sweep(*arguments)
        assert code == 1
        assert f"{hit}{counts} stale staging files, 3 ignored (0 errors); " in said
        assert said.count("Reached max_absent_removals") == 1
    assert len(os.listdir(host.staging)) == 3
    code, said = host.sweep()
    assert code == 0 and "max_absent_removals" not in said


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
    assert last == "Cleaned 3 stale staging files, 1 ignored (0 errors); 3.0 MiB gained"
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
    assert re.match(r"\d{4}-.* ERROR watcher.+cleaner .*Failed to delete stale staging path", log)
    assert "1 of 1 files" in bar
    assert last == "Cleaned 0 stale staging files, 0 ignored (1 error); 0 B gained"


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
    logged = " INFO watcher.telemetry.removals "
    assert not [line for line in terminal.raw.splitlines() if logged not in line]


@ONE_DATABASE
def test_a_list_in_a_file_shows_progress(host: Host, tmp_path: Path) -> None:
    host.stage_deleted()
    with (tmp_path / "list").open("w") as file:
        terminal = sweep_at_terminal(host, "--dry-run", stdout=file.fileno())
        assert terminal.end() == 0
    assert "1 of 1 files" in COLOUR.sub("", terminal.raw)
    assert "".join(terminal.lines) == ""  # it is gone at the end
    assert "\x1b" not in (tmp_path / "list").read_text()


# A file system, or a database, that doesn't answer.
HANGING = """
import os, signal, sys
def hang(*args, **options):
    os.write(2, b"hanging")
    while True:
        signal.pause()
from watcher.cli import main
from watcher.database.images import Images
"""
HANGING_REMOVAL = f"{HANGING}os.unlink = hang\nsys.exit(main())"
HANGING_QUERY = f"{HANGING}Images.find = hang\nsys.exit(main())"

# Each of the given number of removals succeeds; then a signal comes, and once more.
SIGNALLED = """
import os, signal, sys
signals, removals = [int(each) for each in sys.argv.pop(1).split(",")], int(sys.argv.pop(1))
unlink = os.unlink
def count(*args, **options):
    global removals
    unlink(*args, **options)
    removals -= 1
    if removals == 0:
        for number in signals:
            os.kill(os.getpid(), number)
os.unlink = count
from watcher.cli import main
sys.exit(main())
"""


def stop_sweep(
    host: Host, signals: list[int], *arguments: str, through: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """A sweep of 2000 files that gets signals during its 1500th removal."""
    host.stage_many(2000, deleted=True)
    numbers = ",".join(str(int(number)) for number in signals)
    command = [*through, sys.executable, "-c", SIGNALLED, numbers, "1500"]
    return subprocess.run(
        [*command, "sweep", "--config-file", host.config_file, "--nodebug", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@ONE_DATABASE
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_between_two_removals(host: Host, number: int) -> None:
    run = stop_sweep(host, [number])
    assert (run.returncode, run.stdout) == (-number, "")
    counts = "cleaned 1500 stale staging files, 0 ignored (0 errors); 0 B gained"
    assert problems(run.stderr) == f"glance-staging-watcher: Stopped: {counts}\n"
    assert len(os.listdir(host.staging)) == 500


@ONE_DATABASE
def test_a_signal_stops_the_first_process_of_a_container(host: Host) -> None:
    """Which the kernel doesn't end by a signal of its own."""
    namespace = [*namespaces.USER, "--pid", "--fork"]
    if not namespaces.can_run(*namespace, "true"):
        namespaces.impossible("private name spaces can't be made here")
    run = stop_sweep(host, [signal.SIGTERM], through=namespace)
    assert run.returncode == 128 + signal.SIGTERM
    assert "Stopped: cleaned 1500 stale" in run.stderr


@ONE_DATABASE
def test_what_was_removed_until_a_signal_is_in_the_json(host: Host) -> None:
    run = stop_sweep(host, [signal.SIGTERM], "--format", "json")
    assert run.returncode == -signal.SIGTERM
    kinds = [json.loads(line)["kind"] for line in run.stdout.splitlines()]
    assert kinds == ["removed"] * 1500
    assert "Stopped: cleaned 1500 stale" in run.stderr


@ONE_DATABASE
def test_a_second_signal_does_not_wait(host: Host) -> None:
    run = stop_sweep(host, [signal.SIGINT, signal.SIGTERM])
    assert (run.returncode, run.stdout, problems(run.stderr)) == (-signal.SIGTERM, "", "")


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(re.findall(r"^SigCgt:\s*(\w+)", status, re.M)[0], 16) >> (number - 1) & 1)


@ONE_DATABASE
def test_a_removal_that_hangs_takes_two_signals(host: Host) -> None:
    residue = host.stage_deleted()
    terminal = sweep_at_terminal(host, command=[sys.executable, "-c", HANGING_REMOVAL])
    terminal.read_until("hanging")
    process = terminal.process
    process.send_signal(signal.SIGINT)
    wait_for(lambda: not catches(process.pid, signal.SIGINT), 30.0, "the handler")
    process.send_signal(signal.SIGINT)
    assert terminal.end() == -signal.SIGINT
    assert cursor_is_back(terminal)
    assert residue.exists()


@ONE_DATABASE
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        ([], "Stopped: cleaned 0 stale staging files, 0 ignored (0 errors); 0 B gained"),
        (["--dry-run"], ""),
    ],
)
def test_a_query_that_hangs_takes_one_signal(
    host: Host, number: int, arguments: list[str], last: str
) -> None:
    host.stage_deleted()
    terminal = sweep_at_terminal(
        host, *arguments, columns=200, command=[sys.executable, "-c", HANGING_QUERY]
    )
    terminal.read_until("hanging")
    terminal.process.send_signal(number)
    assert terminal.end() == -number
    assert cursor_is_back(terminal)
    assert "Traceback" not in terminal.raw
    assert ("Stopped" in terminal.raw) == bool(last) and last in "\n".join(terminal.lines)


def cursor_is_back(terminal: Terminal) -> bool:
    """Whether the cursor that a bar hides is seen at last."""
    return terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l")


# The kinds of directory in which a user may not remove what he sees there.
READ_ONLY = [
    *namespaces.MOUNTS,
    "sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"',
]  # fmt: skip


def through(host: Host, command: list[str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the program through another one; its exit code and JSON."""
    run = subprocess.run(
        [*command, PROGRAM, *arguments, "--format", "json", "--config-file", host.config_file],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return run.returncode, [json.loads(line) for line in run.stdout.splitlines()]


@ONE_DATABASE
@pytest.mark.parametrize(
    ("mode", "command", "stuck", "reason"),
    [
        (0o755, AS_NOBODY, 2, "nobody may not remove files: the directory belongs to root"),
        (0o1777, AS_NOBODY, 1, "the sticky bit lets nobody remove its own files only"),
        (0o755, READ_ONLY, 2, "the file system is mounted read-only"),
    ],
    ids=["permission", "sticky", "read-only"],
)
def test_a_dry_run_knows_what_may_not_be_removed(
    host: Host, mode: int, command: list[str], stuck: int, reason: str
) -> None:
    if command is READ_ONLY:
        command = [*command, str(host.staging)]
    if os.geteuid() or not namespaces.can_run(*command, "true"):
        namespaces.impossible("needs root, who can be another")
    own, other = host.stage_deleted(), host.stage_deleted()
    os.chown(own, 65534, -1)
    host.stage_live()
    host.staging.chmod(mode)
    code, [*_, status] = through(host, command, "status")
    assert code == 1 and status["actions"]["error"]["files"] == stuck
    code, [*files, plan] = through(host, command, "sweep", "--dry-run")
    assert code == 1
    reasons = {file["name"]: file["reason"] for file in files if file["action"] == "error"}
    assert len(reasons) == stuck and reasons[other.name] == f"image is deleted, but {reason}"
    code, [*_, outcome] = through(host, command, "sweep")
    assert code == 1 and outcome["error"] == stuck
    for field in ("cleaned", "ignored", "error", "size"):
        assert outcome[field] == plan[field], field
    assert own.exists() == (stuck == 2) and other.exists()
