# SPDX-License-Identifier: Apache-2.0
"""The audit, as the service and a sweep by hand write it."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sqlite_url
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.program import run_program
from tests.functional.test_configuration import refused
from tests.services import RabbitMQ
from tests.services.waiting import wait_for

database_url = sqlite_url


def audit_of(host: Host) -> Path:
    return host.directory / "audit.json"


def audited(host: Host, database_url: str, transport_url: str = "") -> Host:
    host.configure(
        database_url=database_url,
        transport_url=transport_url,
        watcher=f"absent_grace = 1\naudit_log = {audit_of(host)}",
    )
    return host


def records(host: Host) -> list[dict[str, Any]]:
    return [json.loads(line) for line in audit_of(host).read_text(encoding="ascii").splitlines()]


def test_every_removal_by_its_trigger(
    host: Host, database_url: str, rabbitmq: RabbitMQ, notifier: GlanceNotifier
) -> None:
    audited(host, database_url, rabbitmq.url())
    swept = host.stage_deleted()
    host.stage_live()
    image = host.stage_live(".uc")  # before the start, so that no file event reports it
    program = host.start()
    program.wait_for_line("Listening for notifications")
    program.wait_for_line("ignored (0 errors)", count=2)
    host.forget(image)
    host.images.delete(image)
    notifier.deleted(image)
    host.wait_gone(host.staging / f"{image}.uc")
    seen = host.stage_deleted()
    unknown = host.stage(new_id(), b"x" * 10000)
    host.wait_gone(seen, unknown)
    wait_for(lambda: len(records(host)) == 4, 10, "the last record")
    found = {record["file"]: record for record in records(host)}
    expected = {
        str(swept): ("sweep", "deleted"),
        str(host.staging / f"{image}.uc"): ("notification", "deleted"),
        str(seen): ("file_event", "deleted"),
        str(unknown): ("recheck", "absent"),
    }
    assert {
        file: (record["trigger"], record["state"]) for file, record in found.items()
    } == expected
    for file, record in found.items():
        assert record["image"] == Path(file).name[:36]
        assert (record["latency"] is None) == (record["trigger"] == "sweep")
        assert (record["latency"] or 0) >= 0
    assert found[str(unknown)]["size"] >= 10000


def test_a_sweep_by_hand_is_in_it_a_dry_run_is_not(host: Host, database_url: str) -> None:
    audited(host, database_url)
    residue = host.stage_deleted()
    assert host.sweep("--dry-run")[0] == 0
    assert not audit_of(host).exists()
    assert host.sweep()[0] == 0
    assert [record["file"] for record in records(host)] == [str(residue)]


def test_a_file_that_can_no_longer_be_written(host: Host, database_url: str) -> None:
    audited(host, database_url)
    place = host.directory / "place"
    place.mkdir()
    text = host.config_file.read_text().replace("/audit.json", "/place/audit.json")
    host.config_file.write_text(text)
    program = host.start()
    (place / "audit.json").unlink()
    place.rmdir()
    for _ in range(3):
        host.wait_gone(host.stage_deleted())
    assert "removals continue without it: No such file" in program.wait_for_line("ERROR")
    place.mkdir()
    host.wait_gone(host.stage_deleted())
    program.wait_for_line("audit.json writable again")
    assert len((place / "audit.json").read_text().splitlines()) == 4, "they waited for it"
    assert len(program.lines("ERROR")) == 1


def test_a_fifo_in_its_place_holds_up_neither_removals_nor_the_end(
    host: Host, database_url: str
) -> None:
    audited(host, database_url)
    program = host.start()
    audit_of(host).unlink()
    os.mkfifo(audit_of(host))
    host.wait_gone(host.stage_deleted(), host.stage_deleted())
    program.wait_for_line("removals continue without it")
    assert program.stop() == 0


@pytest.mark.parametrize("command", [[], ["sweep"]])
@pytest.mark.parametrize(
    ("make", "cause"), [(os.mkdir, "Is a directory"), (os.mkfifo, "Not a regular file")]
)
def test_a_file_that_cannot_be_written_from_the_start(
    host: Host, database_url: str, command: list[str], make: Callable[[Path], None], cause: str
) -> None:
    audited(host, database_url)
    make(audit_of(host))
    residue = host.stage_deleted()
    said = refused(*command, "--config-file", str(host.config_file))
    assert "audit_log" in said and cause in said
    assert residue.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_sweep_by_root_leaves_it_to_the_service(host: Host, database_url: str) -> None:
    place = host.directory / "place"
    place.mkdir()
    os.chown(place, 64321, 64321)
    host.configure(database_url=database_url, watcher=f"audit_log = {place / 'audit.json'}")
    host.stage_deleted()
    assert host.sweep()[0] == 0
    made = (place / "audit.json").stat()
    assert (made.st_uid, made.st_gid, made.st_size > 0) == (64321, 64321, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("linked", ["file", "directory"])
def test_the_services_user_cannot_direct_a_sweep_by_root(
    host: Host, database_url: str, linked: str
) -> None:
    victim = host.directory / "victim"
    victim.mkdir()
    owned = host.directory / "owned"
    owned.mkdir()
    if linked == "file":
        (owned / "log").mkdir()
        (owned / "log" / "audit.json").symlink_to(victim / "audit.json")
    else:
        (owned / "log").symlink_to(victim)
    for path in (owned, *owned.rglob("*")):
        os.chown(path, 64321, 64321, follow_symlinks=False)
    host.configure(database_url=database_url, watcher=f"audit_log = {owned}/log/audit.json")
    residue = host.stage_deleted()
    code, said = host.sweep()
    assert code == 2 and "symbolic link" in said
    assert residue.exists() and not list(victim.iterdir())


def history(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_program("history", "--config-file", host.config_file, *arguments)


def test_history(host: Host, database_url: str) -> None:
    assert (shown := history(host)).returncode == 2
    assert "audit_log is not set" in shown.stderr and len(shown.stderr.splitlines()) == 1
    audited(host, database_url)
    first, second = host.stage_deleted(), host.stage_deleted(".raw")
    assert host.sweep()[0] == 0
    audit_of(host).rename(f"{audit_of(host)}.1")
    third = host.stage_deleted()
    assert host.sweep()[0] == 0
    shown = history(host, "--since", "1h", "--format", "json")
    *removals, summary = map(json.loads, shown.stdout.splitlines())
    assert {each["name"] for each in removals[:2]} == {first.name, second.name}
    assert [each["name"] for each in removals[2:]] == [third.name]
    assert (summary["removals"], summary["files"], summary["skipped"]) == (3, 2, 0)
    assert (shown.returncode, shown.stderr) == (0, "")
    shown = history(host, "--image", second.name[:36])
    assert second.name in shown.stdout and first.name not in shown.stdout
    assert "1 file removed" in shown.stdout
    assert history(host, "--since", "never").returncode == 2
