# SPDX-License-Identifier: Apache-2.0
"""The service with a /tmp of its own, where what Glance stages in /tmp can never appear."""

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import sqlite_url
from tests.functional.host import Host
from tests.functional.program import PROGRAM, Program
from tests.functional.test_check import possible
from tests.services import namespaces
from tests.services.ports import free_port
from watcher.staging.mounts import unit_of

MISSING = "/var/tmp/nobody-stages-here"

database_url = sqlite_url


def readiness(port: int) -> tuple[int, str]:
    """Status and text of /readyz."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_it_is_an_error_and_the_service_is_not_ready(
    host: Host, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = unit_of(Path("/proc/self/cgroup").read_text()) or "watcher.service"
    private = host.directory / f"systemd-private-0123456789abcdef-{unit}-a1B2c3/tmp"
    private.mkdir(parents=True)
    port = free_port()
    host.configure(
        database_url=database_url, staging=f"file://{MISSING}", watcher=f"metrics_port = {port}"
    )
    mount = ["sh", "-c", f'mount --bind {private} /var/tmp && exec "$@"', "sh"]
    command = [*possible(namespaces.MOUNTS), *mount, str(PROGRAM)]
    monkeypatch.setattr(Program, "command", tuple(command))
    program = host.start()
    (line,) = program.lines("ERROR")
    for text in (line, readiness(port)[1]):
        assert f"{MISSING} can't appear: /var/tmp is private to {unit} (PrivateTmp=yes)" in text
        assert "add JoinsNamespaceOf= with the unit of glance-api" in text
    assert readiness(port)[0] == 503
    (private / Path(MISSING).name).mkdir()  # as a glance-api in the same name space would
    program.wait_for_line(f"Watching staging directory {MISSING}")
    assert readiness(port)[0] == 200
    assert program.stop() == 0
