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
        ({"default": "log_file = /nonexistent/watcher.log"}, "--log-file"),
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
    for arguments in (["--nonsense"], ["sweeep"], ["--dry-run"], ["sweep", "now"]):
        run = subprocess.run(
            [PROGRAM, *arguments], capture_output=True, text=True, timeout=30, check=False
        )
        assert run.returncode == 2
        assert "usage: glance-staging-watcher" in run.stderr
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
    for arguments in (["--help"], ["sweep", "--help"]):
        text = subprocess.run(
            [PROGRAM, *arguments], capture_output=True, text=True, check=True
        ).stdout
        for part in ("sweep", "--config-file", "--config-dir", "--debug", "Exit codes", "2 "):
            assert part in text
        assert ("--dry-run remove" in text.lower() or "--dry-run  " in text) == (
            arguments[0] == "sweep"
        )
