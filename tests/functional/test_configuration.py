# SPDX-License-Identifier: Apache-2.0
"""Mistakes in the configuration: one clear line, exit code 2, nothing removed, no secret."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.conftest import sqlite_url
from tests.functional.host import Host, new_id
from tests.functional.program import PROGRAM, SECRET, run_program

database_url = sqlite_url


def refused(*arguments: str) -> str:
    """The one line with which the program ends."""
    run = run_program(*arguments)
    said = (run.stdout + run.stderr).splitlines()
    assert (run.returncode, len(said)) == (2, 1), run
    assert SECRET not in said[0] and "Traceback" not in said[0]
    assert said[0].startswith("glance-staging-watcher: ")
    return said[0]


COMMANDS = pytest.mark.parametrize("command", [[], ["sweep"], ["sweep", "--dry-run"]])


@COMMANDS
def test_a_file_that_does_not_exist(command: list[str], tmp_path: Path) -> None:
    assert "none.conf" in refused(*command, "--config-file", str(tmp_path / "none.conf"))


@COMMANDS
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"database_url": f"mysql://glance:{SECRET}@host:port/x"}, "can't be parsed"),
        ({"database_url": f"oracle://glance:{SECRET}@host/x"}, "unknown scheme"),
        ({"database_url": ""}, "connection is not set"),
        ({"staging": "http://somewhere/staging"}, "Unexpected scheme in staging store"),
        ({"watcher": "sweep_interval = -5"}, "sweep_interval"),
        ({"more": "[broken"}, "glance-api.conf"),
        ({"default": "use_stderr = perhaps"}, "use_stderr"),
    ],
)
def test_a_value_that_cannot_be_used(
    host: Host, database_url: str, command: list[str], options: dict[str, str], reason: str
) -> None:
    residue = host.stage_deleted()
    host.configure(**{"database_url": database_url, **options})
    assert reason in refused(*command, "--config-file", str(host.config_file))
    assert residue.exists()


@pytest.mark.parametrize("command", [["sweep"], ["status"], ["check"]])
def test_a_command_writes_to_no_log_file_but_one_of_its_own(
    host: Host, database_url: str, command: list[str], tmp_path: Path
) -> None:
    glances, own = tmp_path / "api.log", tmp_path / "own.log"
    host.configure(database_url=database_url, default=f"log_file = {glances}\ndebug = true")
    host.stage_deleted()
    arguments = [str(PROGRAM), *command, "--config-file", str(host.config_file)]
    own_log = ["--log-file", str(own)]
    for count in (0, 2):
        subprocess.run([*arguments, *own_log[:count]], capture_output=True, timeout=60, check=False)
        assert not glances.exists()
        assert own.exists() == bool(count)


def test_a_log_file_that_cannot_be_written(host: Host, database_url: str) -> None:
    host.configure(database_url=database_url, default="log_file = /nonexistent/watcher.log")
    assert "--log-file" in refused("--config-file", str(host.config_file))
    host.configure(database_url=database_url)
    named = ["--log-file", "/nonexistent/watcher.log", "--config-file", str(host.config_file)]
    commands: list[list[str]] = [[], ["sweep"], ["sweep", "--dry-run"]]
    for command in commands:
        assert "name another file with --log-file" in refused(*command, *named)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"nosuch://glance:{SECRET}@host/", "unknown scheme"),
        (f"rabbit://glance:{SECRET}@host:port/", "transport_url can't be used"),
    ],
)
def test_a_transport_url_that_cannot_be_used(
    host: Host, database_url: str, url: str, reason: str
) -> None:
    residue = host.stage_deleted()
    host.configure(database_url=database_url, transport_url=url)
    assert reason in refused("--config-file", str(host.config_file))
    assert residue.exists()


def test_an_option_of_the_bus_that_cannot_be_used(host: Host, database_url: str) -> None:
    host.configure(
        database_url=database_url,
        transport_url=f"rabbit://glance:{SECRET}@127.0.0.1:1/",
        more="[oslo_messaging_rabbit]\nheartbeat_rate = often",
    )
    said = refused("--config-file", str(host.config_file))
    assert f"[oslo_messaging_rabbit] heartbeat_rate in {host.config_file} is not valid: " in said


@COMMANDS
def test_a_staging_path_that_is_a_file(host: Host, command: list[str]) -> None:
    host.staging.rmdir()
    host.staging.touch()
    assert "Not a directory" in refused(*command, "--config-file", str(host.config_file))
    host.staging.unlink()
    host.staging.mkdir()


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda path: path.unlink(), "unable to open database"),
        (lambda path: path.write_bytes(b"no database" * 999), "not a database"),
        (lambda path: path.write_bytes(b""), "no such table: images"),
    ],
)
@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_sweep_without_a_database(
    host: Host,
    database_url: str,
    prepare: Callable[[Path], None],
    reason: str,
    dry_run: list[str],
) -> None:
    residue = host.stage_deleted()
    host.images.close()
    prepare(Path(database_url.removeprefix("sqlite:///")))
    assert reason in refused("sweep", "--config-file", str(host.config_file), *dry_run)
    assert residue.exists()


@pytest.mark.parametrize("scheme", ["mysql+pymysql", "postgresql+psycopg"])
def test_a_sweep_with_a_database_that_cannot_be_reached(host: Host, scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        host.configure(database_url=f"{scheme}://glance:{SECRET}@127.0.0.1:{port}/glance")
        residue = host.stage_deleted()
        assert "127.0.0.1" in refused("sweep", "--config-file", str(host.config_file))
        assert residue.exists()


def test_unknown_options_and_commands() -> None:
    assert "Unknown command 'sweeep'" in refused("sweeep")
    wrong_value = ["sweep", "--format", "xml"]
    for arguments in (["--nonsense"], ["--dry-run"], ["sweep", "now"], wrong_value):
        run = run_program(*arguments)
        assert run.returncode == 2
        assert ("--format" if "xml" in arguments else "usage: glance-") in run.stderr
        assert run.stderr.endswith("\n")
        assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("default", "more"),
    [
        ("disabled_notifications = image.delete", ""),
        ("", "[oslo_messaging_notifications]\ndriver = noop"),
    ],
)
def test_a_warning_when_glance_sends_no_notifications(
    host: Host, database_url: str, default: str, more: str
) -> None:
    host.configure(database_url=database_url, transport_url="fake://", default=default, more=more)
    if more:
        text = host.config_file.read_text().replace("driver = messagingv2\n", "")
        host.config_file.write_text(text)
    program = host.start()
    line = program.wait_for_line("Glance sends no ")
    assert "WARNING" in line
    program.stop()


def test_version_and_help() -> None:
    version = run_program("--version")
    assert version.returncode == 0
    assert version.stdout.strip().split(".")[0].isdigit()
    for arguments in (["--help"], ["sweep", "--help"], ["status", "--help"], ["check", "--help"]):
        run = run_program(*arguments)
        assert run.returncode == 0
        text, command = run.stdout, arguments[0]
        for part in (command, "--config-file", "--config-dir", "--debug", "Exit codes", "; 2"):
            assert part in text
        assert ("--format table|json" in text) == (command != "--help")
        if command == "--help":
            for name in ("sweep", "status", "check", "history"):
                assert f"\n  {name}  " in text
        assert ("--dry-run  " in text) == (command == "sweep")


def test_options_stand_before_or_after_the_command(host: Host) -> None:
    file = ["--config-file", str(host.config_file)]
    for arguments in ([*file, "sweep", "--dry-run"], ["sweep", "--dry-run", *file]):
        residue = host.stage_deleted()
        run = run_program(*arguments)
        assert run.returncode == 0 and residue.name in run.stdout
        assert residue.exists()
    for typo in ([*file, "swep"], [*file, "--dry-rum"]):
        assert run_program(*typo).returncode == 2
        assert len(list(host.staging.iterdir())) == 2


def test_what_the_service_runs_with_is_its_first_line(host: Host) -> None:
    host.configure(
        database_url=f"mysql://glance:{SECRET}%40{SECRET}@127.0.0.1:1/glance",
        transport_url=f"rabbit://glance:{SECRET}@127.0.0.1:1,glance:{SECRET}@[::1]:2/",
        watcher="sweep_interval = 33\nsweep_intervall = 1",
        more="[stagingwatcher]\npool = x",
    )
    program = host.start(ready=False)
    program.wait_for_line("[stagingwatcher]")
    program.stop()
    first, second, third = program.log.splitlines()[:3]
    assert first.partition(" [-] ")[2].split(" start")[0] == (
        f"Starting glance-staging-watcher {version('glance-staging-watcher')}; "
        f"configuration: {host.config_file}; staging directory: {host.staging}; "
        "database: mysql at 127.0.0.1:1; broker: rabbit at 127.0.0.1:1, ::1:2; "
        "sweep_interval: 33 s; absent_grace: 86400 s; max_absent_removals: 1000"
    )
    assert "INFO" in first and "WARNING" in second and "WARNING" in third
    assert (
        f"Unknown: [staging_watcher] sweep_intervall in {host.config_file} has no effect; "
        "sweep_interval may be meant"
    ) in second
    assert "[stagingwatcher] in " in third and "; [staging_watcher] may be meant" in third


@COMMANDS
def test_a_directory_of_images_is_no_staging_directory(
    host: Host, database_url: str, command: list[str]
) -> None:
    image = host.stage_deleted()
    link = host.directory / "link"
    link.symlink_to(host.staging)
    host.configure(
        database_url=database_url,
        default="enabled_backends = one:file",
        more=f"[one]\nfilesystem_store_datadir = {link}\n"
        f"[os_glance_staging_store]\nfilesystem_store_datadir = {host.staging}",
    )
    said = refused(*command, "--config-file", str(host.config_file))
    for option in ("[one] filesystem_store_datadir", "[os_glance_staging_store] filesystem_store"):
        assert option in said
    run = run_program("check", "--config-file", str(host.config_file))
    assert run.returncode == 2
    assert re.search(r"^failure  directory .* is .*link", run.stdout, re.MULTILINE)
    assert image.exists()


def test_a_bind_mount_of_a_directory_of_images(host: Host, database_url: str) -> None:
    images = host.directory / "images"
    (images / "below").mkdir(parents=True)
    host.configure(
        database_url=database_url, more=f"[glance_store]\nfilesystem_store_datadir = {images}"
    )
    bind = f"mount --bind {images}/below {host.staging} && exec {PROGRAM} status --config-file "
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{bind}{host.config_file}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if run.stderr.startswith(("unshare: ", "mount: ")):
        pytest.skip("no mounts here")
    assert run.returncode == 2 and f"lies in {images}" in run.stderr


@COMMANDS
def test_a_dollar_in_a_password(host: Host, command: list[str]) -> None:
    host.configure(database_url=f"mysql+pymysql://glance:top${SECRET}@127.0.0.1/glance")
    said = refused(*command, "--config-file", str(host.config_file))
    assert f"[database] connection in {host.config_file} refers with $ to an option" in said


def test_files_of_its_own_are_read_by_service_and_commands_alike(
    host: Host, tmp_path: Path
) -> None:
    own = tmp_path / "own/glance-staging-watcher.conf.d"
    own.mkdir(parents=True)
    (own / "a.conf").write_text("[staging_watcher]\nabsent_grace = 0\n")
    script = (
        "import watcher.config_files as files; from watcher.cli import main; "
        f"files.OWN_DIRECTORY = '{own.parent}'; raise SystemExit(main())"
    )
    environment = os.environ | {"OS_GLANCE_CONFIG_DIR": str(host.directory)}
    orphan = host.stage(new_id())
    host.images.insert(new_id())

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    found = json.loads(run("check", "--format", "json").stdout.splitlines()[0])
    assert found["found"] == f"{host.config_file}, {own}/a.conf"
    planned = run("sweep", "--dry-run", "--format", "json").stdout
    (line,) = (line for line in planned.splitlines() if orphan.name in line)
    assert "absent_grace" not in line
