# SPDX-License-Identifier: Apache-2.0
"""What a daemon does for its host: systemd's protocol, signals, logs, a report."""

import json
import os
import re
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import sqlite_url
from tests.functional.host import Host, new_id
from tests.functional.program import SECRET, Program
from tests.functional.test_configuration import refused
from tests.functional.test_process_faults import blocks
from tests.services import RabbitMQ
from tests.services.ports import free_port
from tests.services.waiting import wait_for

database_url = sqlite_url


def send(program: Program, number: signal.Signals) -> None:
    program.process.send_signal(number)


def change(host: Host, *changes: tuple[str, str]) -> None:
    text = host.config_file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    host.config_file.write_text(text)


def reload(program: Program, line: str = "Configuration reloaded") -> str:
    count = len(program.lines(line))
    send(program, signal.SIGHUP)
    return program.wait_for_line(line, count=count + 1)


# systemd


def test_the_status_follows_sweeps_and_faults(
    new_host: Callable[..., Host], database_url: str
) -> None:
    host = new_host(watcher="sweep_interval = 1")
    host.stage_deleted()
    host.stage_live()
    program = host.start()
    status = program.wait_notified("STATUS=Last sweep: ")
    assert "1 cleaned, 1 ignored, 0 errors in " in status
    assert status.endswith("; healthy; notifications disabled")
    database = sqlite3.connect(database_url.removeprefix("sqlite:///"))
    database.execute("ALTER TABLE images RENAME TO away")
    program.wait_notified("; failing: database: no such table: images")
    database.execute("ALTER TABLE away RENAME TO images")
    database.close()
    program.wait_notified("; healthy")
    program.stop()
    assert "STOPPING=1" in program.notified()


def test_the_watchdog_is_pinged_by_the_cleaner_alone(
    host: Host, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits three seconds for a lock, nobody may say that all is well."""
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    host.configure(database_url=f"{database_url}?timeout=3")
    host.stage_live()
    program = host.start()
    for _ in range(5):
        program.wait_notified("WATCHDOG=1")
    other = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    program.notified()
    host.stage(new_id())
    program.wait_for_line("database is locked")
    pings = program.notified().count("WATCHDOG=1")
    other.execute("ROLLBACK")
    other.close()
    assert pings <= 3, "three seconds without progress are thirty intervals of the ping"
    program.wait_notified("WATCHDOG=1")


def test_an_abort_by_the_watchdog_shows_where_it_hung(host: Host) -> None:
    program = host.start()
    send(program, signal.SIGABRT)
    assert program.wait() == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in program.log
    assert re.search(r"service\.py.* _run\b", program.log)


# SIGHUP


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_a_signal_before_the_service_runs_is_heeded_later(
    host: Host, number: signal.Signals
) -> None:
    program = host.start(ready=False)
    wait_for(lambda: blocks(program, signal.SIGTERM), 30, "the program's first line")
    send(program, number)
    program.wait_for_line(
        "Configuration reloaded" if number == signal.SIGHUP else "Guru Meditation"
    )
    program.wait_ready()


def test_a_reload_says_what_changed_and_what_cannot(new_host: Callable[..., Host]) -> None:
    port = free_port()
    host = new_host(
        transport_url=f"rabbit://glance:{SECRET}-old@127.0.0.1:{port}/",
        watcher="sweep_interval = 86400",
    )
    program = host.start()
    assert reload(program).endswith("Configuration reloaded, changed: nothing")
    program.notified()
    change(
        host,
        ("sweep_interval = 86400", "sweep_interval = 1"),
        (f"{SECRET}-old", f"{SECRET}-new"),
        ("glance.sqlite", f"{SECRET}.sqlite"),
        ("pool = ", "pool = another-"),
        ("node_staging_uri = file:///", "node_staging_uri = file:///another/"),
        ("debug = true", "debug = false"),
    )
    line = reload(program)
    assert line.endswith("changed: [DEFAULT] debug, [staging_watcher] sweep_interval")
    warnings = {each.rpartition(" ")[2] for each in program.lines("WARNING")}
    assert warnings >= {
        "DEFAULT.transport_url",
        "DEFAULT.node_staging_uri",
        "database.connection",
        "staging_watcher.pool",
    }
    program.wait_notified("RELOADING=1\nMONOTONIC_USEC=")
    program.wait_notified("READY=1")
    image = host.stage_live()
    host.forget(image)
    host.images.delete(image)
    host.wait_gone(host.staging / image)
    change(host, ("sweep_interval = 1", "sweep_interval = 86400"))
    reload(program)
    assert not program.lines("ERROR oslo"), program.log


def test_raised_limits_take_effect_at_once(new_host: Callable[..., Host]) -> None:
    host = new_host(watcher="sweep_interval = 86400\nabsent_grace = 86400\nmax_absent_removals = 1")
    residue = [host.stage(new_id()) for _ in range(3)]
    host.stage_live()
    program = host.start()
    change(host, ("absent_grace = 86400", "absent_grace = 0"))
    reload(program)
    program.wait_for_line("Limit of max_absent_removals reached")
    assert sum(path.exists() for path in residue) == 2
    change(host, ("max_absent_removals = 1", "max_absent_removals = 3"))
    reload(program)
    host.wait_gone(*residue)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("sweep_interval = 1", "sweep_interval = soon", "'soon'; keeping the old values"),
        ("sweep_interval = 1", "sweep_interval = -1", "sweep_interval"),
        ("debug = true", "debug = perhaps", "keeping the old values"),
        ("[database]", f" {SECRET}\n[database]", "Failed to parse"),
        ("[database]", f"[{SECRET}\n[database]", "Failed to parse"),
        ("[DEFAULT]", f"{SECRET}", "Failed to parse"),
    ],
)
def test_a_file_that_cannot_be_used_changes_nothing(
    new_host: Callable[..., Host], old: str, new: str, reason: str
) -> None:
    host = new_host(watcher="sweep_interval = 1")
    program = host.start()
    change(host, (old, new))
    assert reason in reload(program, "Cannot use the changed configuration")
    image = host.stage_live()
    host.forget(image)
    host.images.delete(image)
    host.wait_gone(host.staging / image)
    assert len(program.lines("ERROR")) == 1
    change(host, (new, old))
    reload(program)


def test_of_a_file_with_a_mistake_nothing_is_taken_over(new_host: Callable[..., Host]) -> None:
    host = new_host(watcher="sweep_interval = 86400\nabsent_grace = 20")
    change(host, ("debug = true", "debug = false"))
    program = host.start()
    host.wait_gone(host.stage_deleted())
    change(
        host,
        ("debug = false", "debug = true"),
        ("sweep_interval = 86400", "sweep_interval = bad"),
        ("absent_grace = 20", "absent_grace = 33"),
    )
    reload(program, "Cannot use the changed configuration")
    host.wait_gone(host.stage_deleted())
    assert not program.lines(" DEBUG "), program.log
    assert not program.lines("changed from"), program.log
    send(program, signal.SIGUSR2)  # a report has the options as they are in force
    report = program.wait_for_line("absent_grace = ")
    assert report.endswith("= 20")
    change(host, ("sweep_interval = bad", "sweep_interval = 86400"))
    line = reload(program)
    assert line.endswith("changed: [DEFAULT] debug, [staging_watcher] absent_grace")


def test_a_file_that_is_gone_changes_nothing(host: Host) -> None:
    program = host.start()
    text = host.config_file.read_text()
    host.config_file.unlink()
    assert "glance-api.conf" in reload(program, "Cannot use the changed configuration")
    host.wait_gone(host.stage_deleted())
    host.config_file.write_text(text)
    reload(program)


LOG_CONFIG = """[loggers]
keys = root
[handlers]
keys = stderr
[formatters]
keys = plain
[logger_root]
level = DEBUG
handlers = stderr
[handler_stderr]
class = StreamHandler
args = (sys.stderr,)
formatter = plain
[formatter_plain]
format = %(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s [-] %(message)s
datefmt = %Y-%m-%d %H:%M:%S
"""


@pytest.mark.parametrize(
    ("old", "new"), [("StreamHandler", "NoSuchHandler"), ("sys.stderr,", "sys.nothing,")]
)
def test_a_log_config_that_cannot_be_used(
    new_host: Callable[..., Host], tmp_path: Path, old: str, new: str
) -> None:
    """All of its text is evaluated, and may raise anything."""
    log_config = tmp_path / "logging.conf"
    log_config.write_text(LOG_CONFIG)
    host = new_host(default=f"log_config_append = {log_config}")
    program = host.start()
    log_config.write_text(LOG_CONFIG.replace(old, new))
    assert "keeping the old values" in reload(program, "Cannot use the changed")
    assert program.process.poll() is None
    refused("--config-file", str(host.config_file))
    log_config.write_text(LOG_CONFIG)
    reload(program)
    host.wait_gone(host.stage_deleted())


def test_the_broker_is_heard_of_after_the_log_was_set_up_again(
    new_host: Callable[..., Host], tmp_path: Path, own_rabbitmq: RabbitMQ
) -> None:
    log_config = tmp_path / "logging.conf"
    log_config.write_text(LOG_CONFIG)
    host = new_host(
        transport_url=own_rabbitmq.url(),
        default=f"log_config_append = {log_config}",
        watcher="sweep_interval = 86400",
    )
    program = host.start()
    program.wait_for_line("Listening for notifications")
    log_config.write_text(LOG_CONFIG + "# changed\n")
    reload(program)
    own_rabbitmq.sync()
    own_rabbitmq.kill()
    program.wait_for_line("ERROR watcher.triggers.listener [-] Notification listener disconnected")
    own_rabbitmq.start()
    program.wait_for_line("Notification listener connected again")
    assert not program.lines("ERROR oslo"), program.log


def test_a_line_with_a_password_is_not_quoted_at_start(host: Host) -> None:
    change(host, ("[database]", f" {SECRET}\n[database]"))
    assert f"{host.config_file}:" in refused("--config-file", str(host.config_file))


# SIGUSR2


def test_a_report_while_it_works_and_while_it_waits(new_host: Callable[..., Host]) -> None:
    host = new_host(transport_url=f"rabbit://glance:{SECRET}@127.0.0.1:{free_port()}/")
    change(host, ("[database]", f"[database]\nsql_connection = sqlite://{SECRET}@/x"))
    host.stage_many(3000, deleted=True)
    host.stage_live()
    program = host.start(ready=False)
    program.wait_for_line("Stale staging residue")
    send(program, signal.SIGUSR2)
    program.wait_for_line("Configuration")
    program.wait_ready()
    send(program, signal.SIGUSR2)
    program.wait_for_line("max_absent_removals = 1000", count=2)
    text = program.log.rpartition("Guru Meditation")[2]
    for section in ("Package", "Watcher", "Threads", "Processes", "Configuration"):
        assert f"====  {section:^56}  ====".split() in [x.split() for x in text.splitlines()]
    assert "sweep = 3000 cleaned (" in text
    assert "notifications = broker 127.0.0.1:" in text
    assert "database = healthy" in text
    assert re.search(r"service\.py.* _run\b", text), "the cleaner's thread"
    assert text.count("connection = ***") == 1 and "transport_url = ***" in text
    assert host.staging.as_uri() in text, "our configuration, not an empty one"
    assert program.stop() == 0


def test_a_report_into_a_directory(host: Host) -> None:
    place = host.directory / "reports"
    change(host, ("[database]", f"[oslo_reports]\nlog_dir = {place}\n[database]"))
    program = host.start()
    send(program, signal.SIGUSR2)
    assert "No such file or directory" in program.wait_for_line(
        "ERROR watcher.telemetry.report [-] Cannot write the Guru Meditation Report"
    )
    place.mkdir()
    send(program, signal.SIGUSR2)
    line = program.wait_for_line("Guru Meditation Report written to")
    (path,) = place.iterdir()
    assert str(path) in line
    assert "notifications = False" in path.read_text()
    host.wait_gone(host.stage_deleted())


# Logs


def test_json_is_one_object_a_line_with_the_same_texts(host: Host) -> None:
    residue, live = host.stage_deleted(), host.stage_live()
    strange = host.stage("no\nimage\udcff")
    change(host, ("debug = true", "debug = true\nuse_json = true"))
    program = host.start()
    reload(program)
    program.stop()
    reported = [json.loads(line) for line in program.log.splitlines()]
    texts = [each["message"] for each in reported]
    assert f"Stale staging residue found for image {residue.name}: '{residue}'; deleting now." in (
        texts
    )
    assert "Cleaned 1 stale staging files, 2 ignored (0 errors)" in texts
    assert f"Staging directory contains unexpected non-image file {strange.name!r}; ignoring" in (
        texts
    )
    assert "Stopping on SIGTERM" in texts
    assert {"INFO", "DEBUG"} == {each["levelname"] for each in reported}
    assert live in os.listdir(host.staging)


def test_the_log_file_is_opened_again_after_a_rotation(host: Host) -> None:
    log, rotated = host.directory / "glance-api.log", host.directory / "glance-api.log.1"
    program = host.start("--log-file", str(log))
    log.rename(rotated)
    residue = host.stage_deleted()
    host.wait_gone(residue)
    wait_for(lambda: log.exists() and residue.name in log.read_text(), 10, "the new file")
    assert residue.name not in rotated.read_text()
    assert "Watching staging directory" in rotated.read_text()
    os.truncate(log, 0)  # logrotate's copytruncate
    send(program, signal.SIGHUP)
    wait_for(lambda: "Configuration reloaded" in log.read_text(), 10, "a line after it")
    assert not log.read_bytes().startswith(b"\0")
    assert program.log == ""


def test_a_syslog_facility_that_does_not_exist(host: Host) -> None:
    change(host, ("debug = true", "use_syslog = true\nsyslog_log_facility = nosuch"))
    assert "facility" in refused("--config-file", str(host.config_file))
