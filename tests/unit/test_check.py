# SPDX-License-Identifier: Apache-2.0
"""What each result means: tables of cases, without I/O."""

import errno
import os
import ssl
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from watcher import conf
from watcher.checks import broker as check_broker
from watcher.checks import database as check_database
from watcher.checks import directory as check_directory
from watcher.checks import glance as check_glance
from watcher.checks import outputs as check_outputs
from watcher.checks import queue as check_queue
from watcher.checks.broker import Attempt
from watcher.checks.database import MAX_COUNTED, Privileges, ServerFacts, may_write
from watcher.checks.directory import Access
from watcher.checks.queue import Declared, Difference
from watcher.checks.result import Check, Result
from watcher.cli import check
from watcher.cli.upgrade import summary
from watcher.config_files import Unknown
from watcher.errors import ConfigError
from watcher.telemetry.audit import AuditLog
from watcher.triggers.broker import why_not_connected

OK, WARNING, FAILURE = Result.OK, Result.WARNING, Result.FAILURE

MINE = Access(writable=True, read_only=False, frozen=False, sticky=False, owner=7, user=7)


@pytest.mark.parametrize(
    ("access", "result", "found"),
    [
        (MINE, OK, "can be removed"),
        (MINE._replace(owner=0), OK, "can be removed"),
        (MINE._replace(writable=False, owner=0), FAILURE, "belongs to root"),
        (MINE._replace(read_only=True, writable=False), FAILURE, "read-only"),
        (MINE._replace(frozen=True), FAILURE, "immutable"),
        (MINE._replace(frozen=True, writable=False), FAILURE, "immutable"),
        (MINE._replace(sticky=True), OK, "can be removed"),
        (MINE._replace(sticky=True, owner=0), WARNING, "sticky"),
        (MINE._replace(sticky=True, owner=7, user=0), OK, "can be removed"),
    ],
)
def test_removal(access: Access, result: Result, found: str) -> None:
    made = check_directory.removal(access)
    assert made.result is result and found in made.found
    assert (made.remedy is None) == (result is OK)
    if "belongs to" in found:
        assert made.remedy == "run as the user that runs glance-api"


@pytest.mark.parametrize(
    ("number", "owner", "result", "found"),
    [
        (0, 0, OK, "runs as root"),
        (0, 999999, WARNING, "may be others for 999999"),
        (0, None, WARNING, "may be others for the service's user"),
        (999999, 0, OK, "runs as 999999"),
    ],
)
def test_user(number: int, owner: int | None, result: Result, found: str) -> None:
    made = check_directory.user(number, owner)
    assert made.result is result and found in made.found


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("ext4", OK),
        ("nfs4", WARNING),
        ("unknown", WARNING),  # the service treats it as a network file system
    ],
)
def test_file_system(kind: str, result: Result) -> None:
    made = check_directory.file_system(kind)
    assert made.result is result and kind in made.found


@pytest.mark.parametrize(
    ("error", "result", "remedy"),
    [
        (None, OK, None),
        (OSError(errno.EMFILE, "limit"), WARNING, "max_user_instances"),
        (OSError(errno.ENOSPC, "limit"), WARNING, "max_user_watches"),
        (OSError(errno.EACCES, "denied"), WARNING, "permission"),
    ],
)
def test_file_events(error: OSError | None, result: Result, remedy: str | None) -> None:
    made = check_directory.file_events(error, "limits")
    assert made.result is result
    assert remedy is None if made.remedy is None else remedy and remedy in made.remedy


@pytest.mark.parametrize(
    ("server", "result", "found", "remedy"),
    [
        (ServerFacts("sqlite"), OK, "sqlite answers what", None),
        (ServerFacts("mysql", galera=True, causal=True), OK, "mysql, a Galera node, answers", None),
        (ServerFacts("mysql", galera=True), WARNING, "can't let one SELECT wait", "absent_grace"),
        (
            ServerFacts("postgresql", replica=True),
            WARNING,
            "a read-only replica",
            "that Glance writes",
        ),
        (
            ServerFacts("mysql", replica=True, galera=True, causal=True),
            WARNING,
            "replica",
            "writes",
        ),
    ],
)
def test_server(server: ServerFacts, result: Result, found: str, remedy: str | None) -> None:
    made = check_database.server(server)
    assert made.result is result and found in made.found
    assert made.remedy is None if remedy is None else remedy in str(made.remedy)


@pytest.mark.parametrize(
    ("count", "result", "found"),
    [
        (0, WARNING, "no row at all"),
        (1, OK, "1 row in"),
        (2, OK, "2 rows in"),
        (MAX_COUNTED, OK, "10,000 rows"),
        (MAX_COUNTED + 1, OK, "more than 10,000 rows"),
    ],
)
def test_rows(count: int, result: Result, found: str) -> None:
    made = check_database.rows(count)
    assert made.result is result and found in made.found


@pytest.mark.parametrize(
    ("held", "remedy"),
    [
        (Privileges("mysql", "glance", False), None),
        (Privileges("sqlite", "/x", True), None),
        (
            Privileges("mysql", "gl`ance", True),
            "GRANT SELECT (id, deleted, status) ON `gl``ance`.`images` TO",
        ),
        (
            Privileges("mariadb", "glance", True),
            "GRANT SELECT (id, deleted, status) ON `glance`.`images` TO",
        ),
        (
            Privileges("postgresql", "glance", True),
            "GRANT SELECT (id, deleted, status) ON images TO staging_watcher",
        ),
    ],
)
def test_privileges_are_never_a_warning(held: Privileges, remedy: str | None) -> None:
    made = check_database.privileges(held)
    assert made.result is OK
    assert made.remedy is None if remedy is None else remedy in str(made.remedy)
    # with --config-file alone the default files would no longer be read
    assert "--config-file" not in str(made.remedy)


@pytest.mark.parametrize(
    ("grant", "expected"),
    [
        ("GRANT ALL PRIVILEGES ON *.* TO `glance`@`%` IDENTIFIED BY PASSWORD '*X'", True),
        ("GRANT ALL ON `glance`.* TO `u`@`%`", True),
        ("GRANT ALL ON `other`.* TO `u`@`%`", False),
        ("GRANT ALL PRIVILEGES ON `gl%`.* TO `u`@`%`", True),
        ("GRANT ALL PRIVILEGES ON `glanc_`.* TO `u`@`%`", True),
        ("GRANT ALL PRIVILEGES ON `glanc\\_`.* TO `u`@`%`", False),
        ("GRANT ALL PRIVILEGES ON `gl%`.`images` TO `u`@`%`", False),
        ("GRANT SELECT, INSERT ON `glance`.`images` TO `u`@`%`", True),
        ("GRANT SELECT, UPDATE (`name`, `id`) ON `glance`.`images` TO `u`@`%`", True),
        ("GRANT SELECT (`update`, `id`) ON `glance`.`images` TO `u`@`%`", False),
        ("GRANT SELECT (`id`, `INSERT`), REFERENCES ON `glance`.`images` TO `u`@`%`", False),
        ("GRANT SELECT ON `glance`.`images` TO `u`@`%` WITH GRANT OPTION", False),
        ("GRANT INSERT ON `glance`.`tasks` TO `u`@`%`", False),
        ("GRANT USAGE ON *.* TO `u`@`%` IDENTIFIED BY PASSWORD '*X'", False),
        ('GRANT DELETE ON "glance"."images" TO "u"@"%"', True),
        ("GRANT EXECUTE ON PROCEDURE `glance`.`images` TO `u`@`%`", False),
        ("GRANT `role`@`%` TO `u`@`%`", False),
        ("GRANT PROXY ON ''@'%' TO 'root'@'localhost'", False),
    ],
)
def test_grants_of_mysql(grant: str, expected: bool) -> None:
    assert may_write(["GRANT USAGE ON *.* TO `u`@`%`", grant], "glance") is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Exchange.declare: (406) PRECONDITION_FAILED - inequivalent arg 'durable' for exchange "
            "'glance' in vhost '/': received 'true' but current is 'false'",
            Difference("durable", "true", "false"),
        ),
        (
            "Queue.declare: (406) PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue "
            "'q' in vhost '/': received none but current is the value 'quorum' of type 'longstr'",
            Difference("x-queue-type", "none", "quorum"),
        ),
        ("(406) PRECONDITION_FAILED - invalid arg 'x-max-age' for queue 'q'", None),
    ],
)
def test_what_the_broker_says_is_different(text: str, expected: Difference | None) -> None:
    assert check_queue.difference(text) == expected


FALSE_THERE = Difference("durable", "true", "false")
TRUE_THERE = Difference("durable", "false", "true")
THERE = Declared("glance", there=True)


@pytest.mark.parametrize(
    ("declared", "exchange", "queue"),
    [
        (Declared("glance", there=False), WARNING, WARNING),
        (THERE, OK, OK),
        (THERE._replace(difference=TRUE_THERE), FAILURE, FAILURE),
        (THERE._replace(difference=FALSE_THERE), WARNING, WARNING),
        (THERE._replace(difference=FALSE_THERE, quorum=True), FAILURE, FAILURE),
        (THERE._replace(difference=Difference("x-expires", "none", "1")), FAILURE, FAILURE),
        (THERE._replace(refused="(403) no"), FAILURE, FAILURE),
    ],
)
def test_exchange_and_queue(declared: Declared, exchange: Result, queue: Result) -> None:
    assert check_queue.exchange(declared).result is exchange
    assert check_queue.queue(declared, "/").result is queue


@pytest.mark.parametrize(
    ("difference", "exchange", "quorum", "result", "remedy"),
    [
        (FALSE_THERE, FALSE_THERE, False, OK, "None"),
        (FALSE_THERE, FALSE_THERE, True, FAILURE, "exchange first"),
        (TRUE_THERE, TRUE_THERE, False, FAILURE, "exchange first"),
        (FALSE_THERE, None, False, WARNING, "delete_queue"),
        (FALSE_THERE, None, True, FAILURE, "delete_queue"),
        (None, FALSE_THERE, False, OK, "None"),
    ],
)
def test_a_queue_is_not_to_be_deleted_for_what_its_exchange_brings_about(
    difference: Difference | None,
    exchange: Difference | None,
    quorum: bool,
    result: Result,
    remedy: str,
) -> None:
    declared = THERE._replace(difference=difference, quorum=quorum)
    made = check_queue.queue(declared, "/", exchange)
    assert made.result is result and remedy in str(made.remedy)


@pytest.mark.parametrize(
    ("messages", "consumers", "topics", "result", "found"),
    [
        (0, 1, 1, OK, "0 messages wait, 1 consumer"),
        (1, 1, 1, OK, "1 message waits, 1 consumer"),
        (999, 1, 1, OK, "999 messages"),
        (1000, 1, 1, WARNING, "keep up"),
        (0, 0, 1, WARNING, "no service runs"),
        (1, 0, 1, WARNING, "no service runs"),
        (0, 2, 1, WARNING, "misses a part"),
        (0, 2, 2, OK, "2 consumers"),
    ],
)
def test_waiting(messages: int, consumers: int, topics: int, result: Result, found: str) -> None:
    made = check_queue.waiting("q", messages, consumers, topics)
    assert made.result is result and found in made.found


@pytest.mark.parametrize(
    ("there", "version", "result", "found"),
    [
        (True, "3.10.8", None, ""),
        (False, "3.13.7", None, ""),
        (True, "4.0.5", WARNING, "from 4.3 on; this is 4.0.5"),
        (False, "4.2.0", WARNING, "from 4.3 on"),
        (False, "4.3.0", FAILURE, "RabbitMQ 4.3.0 refuses"),
        (False, "10.0", FAILURE, "RabbitMQ 10.0 refuses"),
        (True, "4.3.0", None, ""),  # its configuration permits them
        (False, "", None, ""),
        (False, "unknown", None, ""),
    ],
)
def test_queues_that_a_later_broker_refuses(
    there: bool, version: str, result: Result | None, found: str
) -> None:
    made = check_queue.transient(there, version)
    assert (made and made.result) is result
    assert made is None or (found in made.found and "rabbit_quorum_queue" in str(made.remedy))


@pytest.mark.parametrize(
    ("messages", "consumers", "result"), [(999, 0, None), (1000, 0, WARNING), (10**6, 1, None)]
)
def test_a_queue_of_glance_that_fills_up(
    messages: int, consumers: int, result: Result | None
) -> None:
    made = check_queue.unread("notifications.info", messages, consumers)
    assert (made and made.result) is result


@pytest.mark.parametrize(
    ("attempts", "results"),
    [
        ([Attempt("a:1", None)], [OK]),
        ([Attempt("a:1", "refused")], [FAILURE]),
        ([Attempt("a:1", "refused"), Attempt("b:1", None)], [WARNING, OK]),
        ([Attempt("a:1", "refused"), Attempt("b:1", "refused")], [FAILURE, FAILURE]),
    ],
)
def test_one_broker_is_enough(attempts: list[Attempt], results: list[Result]) -> None:
    made = list(check_broker.brokers(attempts, "/"))
    assert [each.result for each in made] == results
    assert all(attempt.host in each.found for attempt, each in zip(attempts, made, strict=True))


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [
        ("[Errno 111] Connection refused", "see that it runs"),
        ("[Errno -2] Name or service not known", "correct the host"),
        ("(403) ACCESS_REFUSED - Login was refused using authentication mechanism", "password"),
        ("(530) NOT_ALLOWED - vhost x not found", "correct the virtual host"),
        ("(530) NOT_ALLOWED - access to vhost 'x' refused for user 'y'", "set_permissions"),
        ("transport_url can't be used; no user may have a /", "correct transport_url"),
        ("[oslo_messaging_rabbit] ssl_ca_file = /no: No such file or directory", "the option"),
    ],
)
def test_the_remedy_is_for_what_the_broker_said(cause: str, remedy: str) -> None:
    assert remedy in check_broker.remedy(cause)


def test_no_part_of_a_password_is_shown() -> None:
    error = ValueError("Port could not be cast to integer value as 's3cr3t'")
    assert "s3cr3t" not in why_not_connected(error)
    assert why_not_connected(OSError("[Errno 111] no")) == "[Errno 111] no"
    assert "verify failed" in why_not_connected(ssl.SSLCertVerificationError("verify failed"))


@pytest.mark.parametrize(
    ("why_not", "exchanges", "topics", "result", "found"),
    [
        (None, ("glance", "glance"), (["a"], ["a"]), OK, "sends image.delete"),
        (("not sent", "do"), ("glance", "glance"), (["a"], ["a"]), WARNING, "not sent"),
        (None, ("openstack", "glance"), (["a"], ["a"]), WARNING, "to exchange openstack"),
        (None, ("glance", "glance"), (["a", "b"], ["b", "c"]), OK, "sends"),
        (None, ("glance", "glance"), (["a"], ["b"]), WARNING, "on topics a, "),
        (None, ("glance", "glance"), ([], ["b"]), WARNING, "on topics none"),
    ],
)
def test_what_glance_sends(
    why_not: tuple[str, str] | None,
    exchanges: tuple[str, str],
    topics: tuple[list[str], list[str]],
    result: Result,
    found: str,
) -> None:
    made = check_glance.sent(why_not, exchanges, topics)
    assert made.result is result and found in made.found


def test_a_configuration_without_a_file() -> None:
    assert check_glance.files([]).result is FAILURE
    assert check_glance.files(["/a", "/b"]) == Check("configuration", OK, "/a, /b")


@pytest.mark.parametrize(
    ("unknown", "found", "remedy"),
    [
        ([], "are known", "None"),
        ([Unknown("/f", "[staging_watcher] x", None)], "[staging_watcher] x in /f", "remove it"),
        ([Unknown("/f", "[staging-watcher]", "[staging_watcher]")], "in /f is", "may be meant"),
    ],
)
def test_names_that_oslo_config_passes_over(
    unknown: list[Unknown], found: str, remedy: str
) -> None:
    (made,) = check_glance.options(unknown)
    assert made.result is (WARNING if unknown else OK)
    assert found in made.found and remedy in str(made.remedy)


@pytest.mark.parametrize(
    ("never", "result", "found", "remedy"),
    [
        (None, WARNING, "/x does not exist", "nothing, if"),
        ("/x can't appear: private; move it", FAILURE, "/x can't appear: private", "move it"),
    ],
)
def test_a_missing_directory(never: str | None, result: Result, found: str, remedy: str) -> None:
    made = check_directory.missing("/x", never)
    assert made.result is result and made.found == found
    assert str(made.remedy).startswith(remedy)


@pytest.mark.parametrize(
    ("made", "path", "remedy"),
    [
        ("", "log", None),
        ("", "none/log", "make it for the user"),
        ("log/", "log", "name a file by OPTION"),
    ],
)
def test_a_file_that_the_service_writes(
    tmp_path: Path, made: str, path: str, remedy: str | None
) -> None:
    if made:
        (tmp_path / made).mkdir()
    found = check_outputs.file("log", "OPTION", str(tmp_path / path))
    assert found.result is (OK if remedy is None else FAILURE)
    assert remedy is None or str(found.remedy).startswith(remedy)


@pytest.mark.parametrize(
    ("make", "path", "cause"),
    [
        (None, "log", ""),
        (Path.touch, "log", ""),
        (lambda path: path.symlink_to("target"), "log", "The file is a symbolic link"),
        (lambda path: path.symlink_to("."), "log/audit", "Its directory is a symbolic link"),
        (os.mkfifo, "log", "Not a regular file"),
    ],
)
def test_what_the_service_refuses_to_write_its_audit_to(
    tmp_path: Path, make: Callable[[Path], None] | None, path: str, cause: str
) -> None:
    if make is not None:
        make(tmp_path / "log")
    file = tmp_path / "glance-api.conf"
    file.write_text(f"[staging_watcher]\naudit_log = {tmp_path / path}\n")
    [found] = check_outputs.checks(conf.load(["--config-file", str(file)]))
    assert found.result is (FAILURE if cause else OK) and cause in found.found
    with nullcontext() if not cause else pytest.raises(ConfigError, match=cause):
        AuditLog(str(tmp_path / path))


def test_the_metrics_without_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    made = check_outputs.metrics("127.0.0.1", 1)
    assert made.result is FAILURE and "pip install" in str(made.remedy)


def test_lines_are_wrapped_between_words_at_a_terminal() -> None:
    made = Check("queue", WARNING, "found " * 20, "remedy " * 20 + "/" + "path" * 20)
    lines = check.text(made, "warning", 80).splitlines()
    assert lines[0].startswith("warning  queue           found found")
    assert all(line.startswith(f"{'':25}") for line in lines[1:])
    assert [line.strip() for line in lines if len(line) > 80] == ["/" + "path" * 20]
    assert " ".join(" ".join(lines).split()[2:]) == f"{made.found}-> {made.remedy}"
    assert len(check.text(made, "warning").splitlines()) == 2


HOSTILE = "a\x1b[31m\nok  forged \u202e" + os.fsdecode(b"\xff") + " é"


def test_hostile_text_is_harmless() -> None:
    made = Check("directory", FAILURE, HOSTILE, HOSTILE)
    harmless = r"a\x1b[31m\nok  forged \u202e\udcff é"
    first, second = check.text(made, "failure").splitlines()
    assert first == f"failure  directory       {harmless}"
    assert second == f"{'':24} -> {harmless}"
    assert check.fields(made) == {
        "name": "directory",
        "result": "failure",
        "found": harmless,
        "remedy": harmless,
    }
    assert (summary([made]).details or "").isprintable()


def test_the_worst_is_the_result_of_an_upgrade_check() -> None:
    good, doubtful = Check("a", OK, "fine", "or else"), Check("b", WARNING, "odd", "look")
    bad = Check("c", FAILURE, "broken")
    assert (summary([good]).code, summary([good]).details) == (0, None)
    assert (summary([]).code, summary([]).details) == (0, None)
    assert summary([good, bad, doubtful]).code == 2
    assert summary([good, bad, doubtful]).details == "broken | odd -> look"
    assert summary([doubtful, good]).code == 1
