# SPDX-License-Identifier: Apache-2.0
"""``status``: what a person sees who logs in on the host."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.functional.host import Host, new_id
from tests.functional.program import PROGRAM, SECRET
from tests.functional.terminal import COLOUR, Terminal

ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def status(host: Host, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    run = subprocess.run(
        [PROGRAM, "status", "--config-file", host.config_file, "--nodebug", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
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
    place_line, system, database = head.splitlines()
    assert place_line == f"Staging directory  {host.staging}"
    assert re.fullmatch(rf"File system        {kind}, [\d.]+ \w+ free of [\d.]+ \w+", system)
    assert database == f"Database           {place}, reachable"
    listed = [(line.split()[0], line.split()[3]) for line in table.splitlines()[1:]]
    assert listed == [
        ("error", image),
        *sorted([("remove", oldest.name), ("remove", residue.name)]),
    ]
    assert live not in said and young.name not in said
    _, *sums, last = totals.splitlines()
    assert [tuple(line.split()[:2]) for line in sums] == [
        ("error", "1"),
        ("remove", "2"),
        ("recheck", "1"),
        ("keep", "1"),
    ]
    assert re.fullmatch(rf"Oldest residue     \d+[sm], {re.escape(oldest.name)}", last)


def test_all_files(host: Host) -> None:
    names = {host.stage_live(), host.stage_deleted().name, host.stage("foo").name}
    _, said, _ = status(host, "--all")
    assert {line.split()[3] for line in said.split("\n\n")[1].splitlines()[1:]} == names


@ONE_DATABASE
def test_much_residue_is_not_all_listed(host: Host) -> None:
    images = [new_id() for _ in range(2000)]
    for image in images:
        host.images.insert(image, deleted=True)
        host.stage(image)
    stuck, largest = host.staging / f"{images[1]}.x", host.staging / images[0]
    stuck.mkdir()
    largest.write_bytes(b"x" * (1 << 20))
    _, said, _ = status(host)
    _, *rows, more = said.split("\n\n")[1].splitlines()
    assert len(rows) == 20 and rows[0].split()[3] == stuck.name
    assert any(largest.name in row for row in rows)
    assert more == "... and 1,981 more: status --all lists them"
    assert "remove        2000" in said
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
