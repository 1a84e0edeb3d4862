# SPDX-License-Identifier: Apache-2.0
"""Mistakes in the configuration: one clear line, exit code 2, nothing removed, no secret."""

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.functional.host import Host
from tests.functional.program import PROGRAM, SECRET


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """SQLite only: the kind of database makes no difference here."""
    return f"sqlite:///{tmp_path / 'glance.sqlite'}"


def refused(*arguments: str) -> str:
    """The one line with which the program ends."""
    run = subprocess.run(
        [PROGRAM, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
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
        run = subprocess.run(
            [PROGRAM, *arguments], capture_output=True, text=True, timeout=30, check=False
        )
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
    version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout.strip().split(".")[0].isdigit()
    for arguments in (["--help"], ["sweep", "--help"], ["status", "--help"], ["check", "--help"]):
        text = subprocess.run(
            [PROGRAM, *arguments], capture_output=True, text=True, check=True
        ).stdout
        command = arguments[0]
        for part in (command, "--config-file", "--config-dir", "--debug", "Exit codes", "2 "):
            assert part in text
        assert ("--format FORMAT" in text) == (command != "--help")
        if command == "--help":
            for name in ("sweep [--dry-run]", "status [--all]", "check"):
                assert f"glance-staging-watcher {name} " in text
        assert ("--dry-run remove" in text.lower() or "--dry-run  " in text) == (command == "sweep")
