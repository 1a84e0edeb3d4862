# SPDX-License-Identifier: Apache-2.0
"""How little the program may be allowed: in the database, and by systemd's unit."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import name_of, on
from tests.docs.pages import commands
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.program import PROGRAM, SECRET
from tests.services import Database, MariaDB, RabbitMQ

UNIT = Path(__file__).parents[2] / "etc" / "glance-staging-watcher.service"
MAX_EXPOSURE = 2.0  # of 10, as systemd-analyze counts

PAGE = (Path(__file__).parents[2] / "docs/security.md").read_text()
DOCUMENTED = "SELECT (id, deleted, status)"
GRANTS = {"mariadb": "-- MySQL, MariaDB\n", "postgresql": "-- PostgreSQL"}


def grants(kind: str, name: str, password: str, select: str) -> list[str]:
    """The statements of docs/security.md, for another user and database."""
    text = PAGE.partition(GRANTS[kind])[2].partition("```")[0].partition("\n--")[0]
    statements = re.findall(r"^((?:CREATE|GRANT) .*);$", text, re.MULTILINE)
    assert len(statements) == 2 and DOCUMENTED in statements[1]
    return [
        statement.replace(DOCUMENTED, select)
        .replace("'staging_watcher'@", f"'{name}'@")
        .replace("staging_watcher", name)
        .replace("SECRET", password)
        .replace("glance.images", f"{name}.images")
        .replace("%", "%%")  # as the driver wants it
        for statement in statements
    ]


@on(*GRANTS)
@pytest.mark.parametrize("select", ["SELECT", DOCUMENTED, "SELECT (id, deleted)"])
def test_select_on_images_is_enough(
    new_host: Callable[..., Host],
    database_server: Database,
    database_url: str,
    select: str,
    rabbitmq: RabbitMQ,
    notifier: GlanceNotifier,
) -> None:
    name, server = name_of(database_url), database_server
    kind = "mariadb" if isinstance(server, MariaDB) else "postgresql"
    password = f"{SECRET}-reader"
    create, grant = grants(kind, name, password, select)
    server.execute(create)
    server.execute(grant, name)
    url = server.url(name, name, password)
    host = new_host(transport_url=rabbitmq.url(), watcher="absent_grace = 1")
    host.configure(database_url=url, transport_url=rabbitmq.url(), watcher="absent_grace = 1")
    server.execute("CREATE TABLE image_properties (id INTEGER)", name)
    for forbidden in (
        "DELETE FROM images",
        "UPDATE images SET deleted = (1 = 1)",
        "SELECT * FROM image_properties",
        "CREATE TABLE another (id INTEGER)" if isinstance(server, MariaDB) else "DROP TABLE images",
    ):
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with pytest.raises(sa.exc.DBAPIError), engine.begin() as connection:
            connection.exec_driver_sql(forbidden)

    swept, live = host.stage_deleted(), host.stage_live()
    unknown = host.stage(new_id())
    program = host.start()
    assert not swept.exists() and (host.staging / live).exists()
    program.wait_for_line("Listening for notifications")
    image = host.stage_live(".uc")
    host.forget(image)
    host.images.delete(image)
    notifier.deleted(image)
    host.wait_gone(host.staging / f"{image}.uc", host.stage_deleted(), unknown)
    assert host.sweep()[0] == 0
    assert not program.lines("ERROR"), program.log


@on("sqlite")
def test_its_own_queue_is_enough_on_the_broker(
    new_host: Callable[..., Host], database_url: str, rabbitmq: RabbitMQ, notifier: GlanceNotifier
) -> None:
    """With the permissions of docs/security.md, where Glance may do all."""
    for tool, *arguments in commands("security.md", "Broker", SECRET=SECRET).lines():
        assert tool == "rabbitmqctl"
        rabbitmq.ctl(*arguments)
    host = new_host()
    queue = "glance-staging-watcher-least"
    host.configure(
        database_url=database_url,
        transport_url=rabbitmq.url("staging_watcher", SECRET),
        watcher=f"pool = {queue}",
    )
    program = host.start()
    program.wait_for_line(f"Listening for notifications in queue {queue}")
    image = host.stage_live(".uc")
    host.forget(image)
    host.images.delete(image)
    notifier.deleted(image)
    host.wait_gone(host.staging / f"{image}.uc")
    assert not program.lines("ERROR"), program.log
    program.stop()
    rabbitmq.ctl("delete_queue", queue)
    rabbitmq.ctl("delete_user", "staging_watcher")


@on("sqlite")
def test_no_capabilities_are_needed(host: Host) -> None:
    """As in the unit: CapabilityBoundingSet= and NoNewPrivileges=yes."""
    residue, live = host.stage_deleted(), host.stage_live()
    drop = ["setpriv", "--inh-caps=-all", "--no-new-privs"]
    if os.geteuid() == 0:
        drop.append("--bounding-set=-all")
    run = subprocess.run(
        [*drop, PROGRAM, "sweep", "--config-file", host.config_file],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Cleaned 1 stale staging file, 1 ignored (0 errors)" in run.stdout
    assert not residue.exists() and (host.staging / live).exists()


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    command = "/opt/glance-staging-watcher/bin/glance-staging-watcher"
    assert command in UNIT.read_text()
    unit.write_text(UNIT.read_text().replace(command, str(PROGRAM)))
    done = analyze("verify", "--man=no", unit)
    assert done.returncode == 0, done.stderr
    assert UNIT.name not in done.stderr


def test_the_unit_exposes_little() -> None:
    if "offline" not in analyze("--help").stdout:
        pytest.skip("this systemd-analyze can't look at a file")
    done = analyze(
        "security", "--no-pager", "--offline=true", f"--threshold={MAX_EXPOSURE * 10:g}", UNIT
    )
    assert done.returncode == 0, done.stdout
