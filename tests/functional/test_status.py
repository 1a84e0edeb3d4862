# SPDX-License-Identifier: Apache-2.0
"""``status``: what a person sees who logs in on the host."""

import os
import re
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import on
from tests.functional.host import Host, new_id
from tests.functional.program import SECRET, run_program
from tests.functional.terminal import COLOUR, Terminal
from tests.services import wait_for

ONE_DATABASE = on("sqlite")


def status(host: Host, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    run = run_program("status", "--config-file", host.config_file, "--nodebug", *arguments)
    assert SECRET not in run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    return run.returncode, run.stdout, run.stderr


def snapshot(directory: Path) -> dict[str, os.stat_result]:
    """All that is in a directory, and when it changed."""
    return {name: (directory / name).lstat() for name in [*os.listdir(directory), "."]}


def test_at_a_glance(host: Host, database_url: str) -> None:
    oldest = host.stage_deleted(".uc")
    oldest.write_bytes(b"x" * (3 << 20))
    host.age(oldest, 1)
    residue = host.stage_deleted()
    image = new_id()
    host.images.insert(image, deleted=True)
    (host.staging / image).mkdir()
    live = host.stage_live()
    young = host.stage(new_id(), b"")
    before = snapshot(host.staging)
    code, said, errors = status(host)
    assert (code, errors) == (1, "")
    assert snapshot(host.staging) == before
    head, table, totals = said.split("\n\n")
    url = sa.make_url(database_url)
    place = {"mysql": "mysql at 127.0.0.1", "postgresql": "postgresql at 127.0.0.1"}.get(
        url.get_backend_name(), f"sqlite at {url.database}"
    )
    kind = subprocess.run(
        ["findmnt", "-no", "FSTYPE", "-T", host.staging],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    service, place_line, system, database = head.splitlines()
    assert service.startswith("Service            unknown: no status_file /run/")
    assert place_line == f"Staging directory  {host.staging}"
    assert re.fullmatch(rf"File system        {kind}, [\d.]+ \w+ free of [\d.]+ \w+", system)
    assert database == f"Database           {place}, reachable"
    listed = [(line.split()[0], line.split()[4]) for line in table.splitlines()[1:]]
    assert listed == [
        ("error", image),
        *sorted([("remove", oldest.name), ("remove", residue.name)]),
    ]
    assert live not in said and young.name not in said
    _, *sums, last = totals.splitlines()
    assert [tuple(line.split()[:3]) for line in sums] == [
        ("error", "directory", "1"),
        ("remove", "residue", "2"),
        ("recheck", "unknown", "1"),
        ("keep", "live:queued", "1"),
    ]
    assert re.fullmatch(rf"Oldest residue     \d+[sm], {re.escape(oldest.name)}", last)


def test_all_files(host: Host) -> None:
    names = {host.stage_live(), host.stage_deleted().name, host.stage("foo").name}
    _, said, _ = status(host, "--all")
    lines = said.split("\n\n")[1].splitlines()[1:]
    assert {line.split()[4] for line in lines} == names
    assert any(line.endswith("  image is live: queued") for line in lines)


@ONE_DATABASE
def test_much_residue_is_not_all_listed(host: Host) -> None:
    images = [new_id() for _ in range(2000)]
    host.images.insert(*images, deleted=True)
    for image in images:
        host.stage(image)
    stuck, largest = host.staging / f"{images[1]}.x", host.staging / images[0]
    stuck.mkdir()
    largest.write_bytes(b"x" * (1 << 20))
    _, said, _ = status(host)
    _, *rows, more = said.split("\n\n")[1].splitlines()
    assert len(rows) == 20 and rows[0].split()[4] == stuck.name
    assert any(largest.name in row for row in rows)
    assert more == "... and 1,981 more: status --all lists them"
    assert re.search(r"^remove   residue +2000 ", said, re.MULTILINE)
    _, said, _ = status(host, "--all")
    assert len(said.split("\n\n")[1].splitlines()) == 1 + 2001
    _, said, _ = status(host, "--format", "json")
    assert len(said.splitlines()) == 2001 + 1


def test_nothing_to_remove(host: Host) -> None:
    host.stage_live()
    host.stage(new_id())
    code, said, errors = status(host)
    assert (code, errors) == (0, "")
    assert said.splitlines()[-1] == "Nothing to remove"
    assert "FILE " not in said and "Oldest" not in said


@ONE_DATABASE
def test_residue_that_cannot_be_removed_is_no_small_thing(host: Host) -> None:
    image = new_id()
    host.images.insert(image, deleted=True)
    (host.staging / image).mkdir()
    assert status(host)[0] == 1


@ONE_DATABASE
def test_an_absent_directory(host: Host) -> None:
    host.staging.rmdir()
    code, said, errors = status(host)
    assert (code, errors) == (0, "")
    assert "Glance has not made the directory yet" in said
    assert said.splitlines()[-1] == "Nothing to remove"
    assert not host.staging.exists()
    host.staging.mkdir()


@ONE_DATABASE
@pytest.mark.parametrize("scheme", ["mysql+pymysql", "postgresql+psycopg"])
def test_a_database_that_cannot_be_reached(host: Host, scheme: str) -> None:
    host.stage_deleted()
    host.configure(database_url=f"{scheme}://glance:{SECRET}@127.0.0.1:9/glance")
    code, said, errors = status(host)
    assert code == 2
    assert f"{scheme.partition('+')[0]} at 127.0.0.1, cannot be asked" in said
    assert "ACTION" not in said
    assert len(errors.splitlines()) == 1 and "Cannot ask the database" in errors


@ONE_DATABASE
def test_a_directory_that_cannot_be_read(host: Host) -> None:
    host.staging.rmdir()
    host.staging.touch()
    code, said, errors = status(host)
    assert (code, said) == (2, "")
    assert len(errors.splitlines()) == 1 and "Not a directory" in errors
    host.staging.unlink()
    host.staging.mkdir()


@ONE_DATABASE
def test_at_a_terminal(host: Host) -> None:
    residue = host.stage_deleted()
    cases: list[tuple[dict[str, str], bool]] = [({}, True), ({"NO_COLOR": "1"}, False)]
    for environment, coloured in cases:
        terminal = Terminal(
            "status", "--config-file", host.config_file, "--nodebug", environment=environment
        )
        assert terminal.end() == 1
        assert bool(COLOUR.search(terminal.raw)) == coloured
        assert "1 of 1 files" in COLOUR.sub("", terminal.raw)
        assert not any("1 of 1 files" in line for line in terminal.lines)  # gone at the end
        assert any(residue.name in line for line in terminal.lines)


@ONE_DATABASE
@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_is_wider_than_the_terminal(host: Host, columns: int) -> None:
    """And none holds anything twice."""
    host.stage_deleted(".uc")
    host.stage_live(".qcow2")
    host.stage(new_id())
    stuck = host.stage_deleted()
    stuck.unlink()
    stuck.mkdir()
    terminal = Terminal(
        *("status", "--all", "--config-file", host.config_file, "--nodebug"), columns=columns
    )
    assert terminal.end() == 1
    lines = [COLOUR.sub("", line) for line in terminal.lines]
    paths = (str(host.staging), "glance.sqlite", "status_file")  # as long as they are
    assert not [line for line in lines if len(line) > columns and not any(p in line for p in paths)]
    header = next(line.split() for line in lines if "FILE " in line)
    assert header == ["ACTION", "SIZE", "AGE", "FILE", "WHY"]
    start = next(line.index("FILE") for line in lines if "FILE " in line)
    for name in os.listdir(host.staging):
        [row] = [line for line in lines if name in line and "Oldest" not in line]
        assert row.index(name) == start and row.count(name[:36]) == 1


@pytest.fixture
def watched(new_host: Callable[..., Host], tmp_path: Path) -> Host:
    """A host whose service has a status file."""
    return new_host(watcher=f"sweep_interval = 1\nstatus_file = {tmp_path / 'status.json'}")


def head(host: Host) -> dict[str, str]:
    """What ``status`` says above the table, by label."""
    return dict(re.findall(r"^(\w+(?: \w+)?) {2,}(.*)$", status(host)[1].split("\n\n")[0], re.M))


@ONE_DATABASE
def test_what_the_service_does(watched: Host, tmp_path: Path) -> None:
    assert head(watched)["Service"] == (
        f"unknown: no status_file {tmp_path / 'status.json'}: the service does not run, or could "
        "not write it"
    )
    residue = watched.stage_deleted(".uc")
    watched.stage_live()
    program = watched.start()
    watched.wait_gone(residue)
    wait_for(lambda: residue.name in head(watched)["Last removals"], 30, "the removal in status")
    wait_for(lambda: "1 file kept" in head(watched)["Last sweep"], 30, "the sweep in status")
    found = head(watched)
    since = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \(\d+[sm]\)"
    assert re.fullmatch(rf"running since {since}, process {program.process.pid}", found["Service"])
    assert re.fullmatch(r"\d+ due, \d+ delayed", found["Queue"])
    assert "notifications: " in found["Failing"] or found["Failing"] == "nothing"
    assert re.match(rf" *\d+[sm] ago +4.0 KiB  {residue.name}", found["Last removals"])
    program.stop()
    assert head(watched)["Service"] == "not running"
    assert "Queue" not in head(watched)


@ONE_DATABASE
def test_a_service_that_was_killed_is_not_running(watched: Host) -> None:
    program = watched.start()
    wait_for(lambda: "running since" in head(watched)["Service"], 30, "the service in status")
    program.kill()
    found = head(watched)
    pid = program.process.pid
    assert found["Service"] == f"not running: process {pid} ended without a stop"
    assert "Last sweep" in found and "Queue" not in found
    watched.start()
    wait_for(lambda: "running since" in head(watched)["Service"], 30, "the service in status")


@ONE_DATABASE
def test_the_status_file_of_another_service(watched: Host, tmp_path: Path) -> None:
    watched.start()
    file = tmp_path / "status.json"
    wait_for(file.exists, 30, "the status file")
    text = watched.config_file.read_text()
    other = tmp_path / "other"
    other.mkdir()
    watched.config_file.write_text(text.replace(str(watched.staging), str(other)))
    said = head(watched)["Service"]
    assert said == f"unknown: {file} is of a service for another directory"
    watched.config_file.write_text(text)


@ONE_DATABASE
def test_what_fails_is_said(watched: Host, tmp_path: Path) -> None:
    watched.stage_live()
    watched.start()
    file = tmp_path / "status.json"
    wait_for(file.exists, 30, "the status file")
    with sqlite3.connect(tmp_path / "glance.sqlite") as database:
        database.execute("ALTER TABLE images RENAME TO away")
    wait_for(lambda: b"no such table" in file.read_bytes(), 60, "the fault in the file")
    assert "database: no such table: images" in status(watched)[1]
    with sqlite3.connect(tmp_path / "glance.sqlite") as database:
        database.execute("ALTER TABLE away RENAME TO images")
    wait_for(lambda: head(watched)["Failing"] == "nothing", 60, "the end of the fault")
