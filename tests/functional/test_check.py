# SPDX-License-Identifier: Apache-2.0
"""``check`` on the real servers: what an operator sees, and that nothing is changed there."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from threading import Thread

import amqp
import pytest

from tests.conftest import on
from tests.functional.host import Host, new_id
from tests.functional.program import AS_NOBODY, PROGRAM, SECRET, run
from tests.functional.terminal import COLOUR, Terminal
from tests.functional.test_formats import DOCUMENTED, PAGE
from tests.functional.test_formats import check as check_fields
from tests.services import Database, Images, RabbitMQ, TcpProxy, namespaces, unique_name, wait_for
from tests.services.ports import free_port
from watcher import conf
from watcher.checks import broker as check_broker
from watcher.staging.mounts import unit_of
from watcher.triggers.transport import new_transport, parse_url

STATUS_PROGRAM = PROGRAM.with_name("glance-staging-watcher-status")
RESULTS = ("ok", "warning", "failure")
DIRECTORY = ["directory", "removal", "file_system", "file_events"]
WITHOUT_OVERRIDE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]


class Report:
    """What one run of ``check`` printed."""

    def __init__(self, host: Host, *, through: list[str] | None = None) -> None:
        run = execute([*(through or []), str(PROGRAM), "check"], host, "--format", "json")
        assert not run.stderr
        lines = [json.loads(line) for line in run.stdout.splitlines()]
        for line in lines:
            check_fields(line, DOCUMENTED["check", line["kind"]])
        self.checks, summary = lines[:-1], lines[-1]
        assert {line["kind"] for line in self.checks} == {"check"}
        results = [line["result"] for line in self.checks]
        assert summary["kind"] == "summary"
        assert [summary[result] for result in RESULTS] == [results.count(each) for each in RESULTS]
        assert (
            run.returncode == max(map(RESULTS.index, results)) == RESULTS.index(summary["result"])
        )
        for line in self.checks:
            assert line["remedy"] or line["result"] == "ok"

    def __getitem__(self, name: str) -> tuple[str, str]:
        (line,) = (line for line in self.checks if line["name"] == name)
        return line["result"], line["found"]

    def remedy(self, name: str) -> str:
        (line,) = (line for line in self.checks if line["name"] == name)
        return str(line["remedy"])

    @property
    def names(self) -> list[str]:
        return [line["name"] for line in self.checks]

    @property
    def bad(self) -> list[str]:
        """Names of what isn't OK."""
        return [line["name"] for line in self.checks if line["result"] != "ok"]


def execute(
    command: list[str], host: Host, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    done = run(
        [*command, "--config-file", str(host.config_file), *arguments],
        environment=environment,
        timeout=120,
    )
    for output in (done.stdout, done.stderr):
        assert SECRET not in output and "Traceback" not in output, output
    return done


def possible(command: list[str]) -> list[str]:
    """The command, which tests need; skipped without it, but in CI root must be able to."""
    if not namespaces.can_run(*command, str(PROGRAM), "--version"):
        namespaces.impossible(f"{command[0]} can't do that here")
    return command


class TlsServer:
    """Speaks TLS on a port of its own, and plainly with the broker behind it."""

    def __init__(self, target_port: int, directory: Path) -> None:
        directory.mkdir()
        self.certificate, key = directory / "certificate", directory / "key"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "1"),
                *("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", key, "-out", self.certificate),
            ],
            capture_output=True,
            check=True,
        )
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(self.certificate, key)
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Serve no more."""
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection("127.0.0.1", self._target_port)
        await asyncio.gather(_pump(reader, here), _pump(there, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class Vhost:
    """A virtual host of the broker, with what there is in it."""

    def __init__(self, broker: RabbitMQ) -> None:
        self.broker, self.name = broker, broker.new_vhost()

    @property
    def url(self) -> str:
        return self.broker.url(vhost=self.name)

    @cached_property
    def version(self) -> str:
        """The broker's."""
        return self.broker.version

    @property
    def warnings(self) -> list[str]:
        """Checks that warn of the broker's version, with the defaults."""
        return [] if self.version.startswith("3.") else ["transient"]

    @property
    def default_type(self) -> str:
        """What the broker says of a queue that was declared without a type."""
        return "none" if self.version.startswith("3.") else "classic"

    def content(self) -> str:
        """All that is declared, with all that can differ; in one call, for each takes a while."""
        vhost, common = f'<<"{self.name}">>', "name, durable, auto_delete, arguments, policy"
        return self.broker.ctl(
            "eval",
            f"{{rabbit_exchange:info_all({vhost}, [{common}, type, internal]),"
            f" rabbit_amqqueue:info_all({vhost}, [{common}, type, messages, consumers]),"
            f" rabbit_binding:list({vhost})}}.",
        )

    def check(self, host: Host) -> Report:
        """Check, which changes nothing."""
        before = self.content()
        report = Report(host)
        assert self.content() == before
        return report


@pytest.fixture
def vhost(rabbitmq: RabbitMQ) -> Vhost:
    return Vhost(rabbitmq)


def insert(host: Host) -> None:
    host.images.insert("0a9c6f5e-8c8e-4d9c-9d6d-0d3c7f0f0001")


def test_the_database_of_another_glance(host: Host) -> None:
    host.images.insert(new_id())
    assert Report(host)["witness"] == ("ok", "no image file here to compare with the database")
    for name in (new_id(), f"{new_id()}.uc", "foo"):
        host.stage(name)
    report = Report(host)
    assert report["witness"] == (
        "warning",
        "none of 2 image files has a row: files without a row are kept",
    )
    assert "is it this Glance's database?" in report.remedy("witness")
    host.stage_deleted()
    assert Report(host)["witness"] == ("ok", "1 of 3 image files with a row")


def test_all_is_well(new_host: Callable[..., Host], vhost: Vhost, tmp_path: Path) -> None:
    port = free_port()
    more = f"metrics_port = {port}\naudit_log = {tmp_path / 'audit'}"
    host = new_host(transport_url=vhost.url, watcher=more)
    insert(host)
    queue = f"watcher-{host.directory.name}"
    host.start().wait_for_line("Listening for notifications")
    with host.config_file.open("a") as file:
        file.write(f"[DEFAULT]\nlog_file = {tmp_path / 'log'}\n")
    report = vhost.check(host)
    assert report.names == [
        *("configuration", "options", "user"),
        *DIRECTORY,
        *("database", "images", "witness", "privileges"),
        *("broker", "exchange", "queue", *vhost.warnings, "messages"),
        "notifications",
        *("log", "audit", "metrics"),
    ]
    documented = re.findall("`([a-z_]+)`", "".join(re.findall(r"\n\* .*?:", PAGE.read_text())))
    assert [name for name in report.names if name not in vhost.warnings] == documented
    assert report.bad == vhost.warnings
    assert report["configuration"] == ("ok", str(host.config_file))
    assert report["images"] == ("ok", "1 row in the images table")
    assert report["exchange"] == ("ok", "exchange glance is there, as configured")
    assert report["queue"] == ("ok", f"queue {queue} is there, not durable as configured")
    assert report["messages"] == ("ok", "0 messages wait, 1 consumer")
    assert report["metrics"] == ("ok", f"the service serves them on 127.0.0.1 port {port}")
    assert not (tmp_path / "log").exists()


def test_what_is_missing_is_not_made(new_host: Callable[..., Host], vhost: Vhost) -> None:
    host = new_host(transport_url=vhost.url)
    report = vhost.check(host)
    assert report.bad == ["images", "exchange", "queue", *vhost.warnings]
    assert "no Glance has sent anything" in report["exchange"][1]
    assert "has not run with this pool" in report["queue"][1]
    assert report["images"][0] == "warning" and "no row at all" in report["images"][1]
    assert "messages" not in report.names


@on("sqlite")
def test_no_declaration_can_make_anything(new_host: Callable[..., Host], vhost: Vhost) -> None:
    host = new_host(transport_url=vhost.url)
    loaded = conf.load(["--config-file", str(host.config_file)])
    before = vhost.content()
    for options in ({}, {"amqp_durable_queues": True}, {"rabbit_quorum_queue": True}):
        transport = new_transport(loaded)
        for name, value in options.items():
            loaded.set_override(name, value, group="oslo_messaging_rabbit")
        _, connection = check_broker._connect(transport, parse_url(loaded))
        assert connection is not None
        wanted = check_broker._Wanted(loaded, transport.conf.oslo_messaging_rabbit)
        wanted.queue = "missing"
        for declare in (wanted.declare_exchange, wanted.declare_queue):
            with pytest.raises(amqp.PreconditionFailed, match="invalid"):
                declare(connection.channel(), passive=False)
        connection.release()
    assert vhost.content() == before


@on("sqlite")
@pytest.mark.parametrize(
    ("options", "durable", "arguments", "exchange", "queue"),
    [
        ("", True, {}, ("failure", "durable is true, "), ("failure", "durable is true, ")),
        (
            "amqp_durable_queues = true",
            False,
            {},
            ("warning", "durable is false, "),
            ("ok", "not durable as its exchange"),
        ),
        (
            "amqp_durable_queues = true",
            True,
            {"x-queue-type": "quorum"},
            ("ok", "as configured"),
            ("failure", "x-queue-type is quorum, by the configuration {default}"),
        ),
        (
            "rabbit_quorum_queue = true",
            True,
            {},
            ("ok", "as configured"),
            ("failure", "x-queue-type is {default}, by the configuration quorum"),
        ),
        (
            "rabbit_quorum_queue = true",
            True,
            {"x-queue-type": "quorum"},
            ("ok", "as configured"),
            ("ok", "quorum as configured"),
        ),
        (
            "rabbit_quorum_queue = true",
            False,
            {},
            ("failure", "durable is false, "),
            ("failure", "durable is false, "),
        ),
        (
            "",
            False,
            {"x-max-length": 7},
            ("ok", "as configured"),
            ("failure", "x-max-length is 7, by the configuration none"),
        ),
    ],
)
def test_declared_otherwise(
    new_host: Callable[..., Host],
    vhost: Vhost,
    options: str,
    durable: bool,
    arguments: dict[str, object],
    exchange: tuple[str, str],
    queue: tuple[str, str],
) -> None:
    host = new_host(transport_url=vhost.url, more=f"[oslo_messaging_rabbit]\n{options}")
    with vhost.broker.channel(vhost.name) as channel:
        channel.exchange_declare("glance", "topic", durable=durable, auto_delete=False)
        channel.queue_declare(
            f"watcher-{host.directory.name}",
            durable=durable,
            auto_delete=False,
            arguments=arguments,
        )
    report = vhost.check(host)
    for name, expected in (("exchange", exchange), ("queue", queue)):
        result, found = report[name]
        assert result == expected[0] and expected[1].format(default=vhost.default_type) in found


@on("sqlite")
def test_the_service_yields_to_an_exchange_that_is_not_durable(
    new_host: Callable[..., Host], vhost: Vhost
) -> None:
    options = "[oslo_messaging_rabbit]\namqp_durable_queues = true"
    host = new_host(transport_url=vhost.url, more=options)
    insert(host)
    with vhost.broker.channel(vhost.name) as channel:
        channel.exchange_declare("glance", "topic", durable=False, auto_delete=False)
        host.start().wait_for_line("Listening for notifications")
        report = vhost.check(host)
        assert report.bad == ["exchange"]
        assert "amqp_durable_queues" in report.remedy("exchange")

        # the remedy helps
        host.programs[-1].stop()
        channel.queue_delete(f"watcher-{host.directory.name}")
        channel.exchange_delete("glance")
        host.start().wait_for_line("Listening for notifications")
        assert vhost.check(host).bad == []


@on("sqlite")
def test_a_queue_that_nothing_reads_and_one_that_two_read(
    new_host: Callable[..., Host], vhost: Vhost
) -> None:
    pool = unique_name("pool")
    hosts = [new_host(transport_url=vhost.url, watcher=f"pool = {pool}") for _ in range(2)]
    first = hosts[0].start()
    first.wait_for_line("Listening for notifications")
    first.stop()
    with vhost.broker.channel(vhost.name) as channel:
        for _ in range(3):
            channel.basic_publish(amqp.Message("{}"), "glance", "notifications.info")
    wait_for(lambda: vhost.broker.queues(vhost.name).get(pool) == 3, 20, "3 messages")
    report = vhost.check(hosts[0])
    assert report["messages"][0] == "warning"
    assert report["messages"][1].startswith("3 messages wait, 0 consumers: no service runs")

    for host in hosts:
        host.start().wait_for_line("Listening for notifications")
    wait_for(lambda: vhost.broker.queues(vhost.name).get(pool) == 0, 20, "no message")
    report = vhost.check(hosts[1])
    assert report["messages"][0] == "warning"
    assert "2 consumers where one watcher has 1" in report["messages"][1]


@on("sqlite")
def test_a_broker_that_refuses(new_host: Callable[..., Host], vhost: Vhost) -> None:
    broker, name = vhost.broker, unique_name("check")
    broker.add_user(name, SECRET, vhost.name, configure="^$")
    with broker.channel(vhost.name) as channel:
        channel.exchange_declare("glance", "topic", durable=False, auto_delete=False)
    cases = {
        broker.url("nobody", SECRET, vhost.name): "Login was refused",
        broker.url(name, f"{SECRET}-wrong@:", vhost.name): "Login was refused",
        broker.url(name, f"{SECRET}/wrong", vhost.name): "no user or password in it may have a /",
        broker.url(vhost="no-such-vhost"): "vhost no-such-vhost not found",
        broker.url().replace(str(broker.port), "1"): "Connection refused",
        broker.url().replace("127.0.0.1", "no-such-host.invalid"): "Name or service not known",
    }
    host = new_host(transport_url="fake://")
    before = vhost.content()
    for url, reason in cases.items():
        host.configure(database_url="sqlite://", transport_url=url)
        report = Report(host)
        assert report["broker"][0] == "failure"
        assert re.search(reason + "|name resolution", report["broker"][1])
        unreachable = re.search("Connection refused|name resolution", report["broker"][1])
        assert ("see that it runs" in report.remedy("broker")) == bool(unreachable)
        assert "exchange" not in report.names
    assert vhost.content() == before

    host.configure(database_url="sqlite://", transport_url=broker.url(name, SECRET, vhost.name))
    report = vhost.check(host)
    assert report["broker"] == (
        "ok",
        f"127.0.0.1:{broker.port} lets the watcher into virtual host {vhost.name}",
    )
    assert report["exchange"][0] == "failure" and "(403)" in report["exchange"][1]
    assert "set_permissions" in report.remedy("exchange")


@on("sqlite")
def test_without_a_transport_url(new_host: Callable[..., Host]) -> None:
    report = Report(new_host(transport_url="rabbit://"))  # oslo.messaging's default
    if report["broker"][0] == "ok":
        pytest.skip("a broker serves on the default port")
    assert "the default, since no transport_url is set" in report["broker"][1]
    assert report.remedy("broker") == "set transport_url to Glance's"


@on("sqlite")
def test_one_broker_of_several_is_down(new_host: Callable[..., Host], vhost: Vhost) -> None:
    good = re.sub("^rabbit://(.*)/.*", r"\1", vhost.url)
    bad = good.replace(str(vhost.broker.port), "1")
    host = new_host(transport_url=f"rabbit://{bad},{good}/{vhost.name}")
    report = vhost.check(host)
    found = [(line["result"], line["found"]) for line in report.checks if line["name"] == "broker"]
    assert [result for result, _ in found] == ["warning", "ok"]
    assert found[0][1].startswith("127.0.0.1:1: ")
    assert "exchange" in report.names


@on("sqlite")
def test_a_broker_that_does_not_answer(new_host: Callable[..., Host], vhost: Vhost) -> None:
    proxy = TcpProxy(vhost.broker.port)
    try:
        proxy.freeze()
        url = vhost.url.replace(f":{vhost.broker.port}/", f":{proxy.port}/")
        report = Report(new_host(transport_url=url))
        assert report["broker"] == ("failure", f"127.0.0.1:{proxy.port}: timed out")
    finally:
        proxy.close()


@on("sqlite")
def test_a_broker_by_tls(new_host: Callable[..., Host], vhost: Vhost, tmp_path: Path) -> None:
    tls, other = (TlsServer(vhost.broker.port, tmp_path / name) for name in ("tls", "other"))
    url = vhost.url.replace(f":{vhost.broker.port}/", f":{tls.port}/")
    options = f"[oslo_messaging_rabbit]\nssl = true\nssl_ca_file = {tls.certificate}"
    report = vhost.check(new_host(transport_url=url, more=options))
    assert report["broker"][0] == "ok"
    options = f"[oslo_messaging_rabbit]\nssl = true\nssl_ca_file = {other.certificate}"
    result, found = vhost.check(new_host(transport_url=url, more=options))["broker"]
    assert result == "failure" and "certificate verify failed" in found.lower()
    tls.close()
    other.close()


@on("sqlite")
@pytest.mark.parametrize(
    ("url", "watcher", "result", "found"),
    [
        ("fake://", "", "warning", "fake:// is not checked"),
        ("nosuch://u:s3cr3t@h/", "", "failure", "unknown scheme 'nosuch'"),
        ("rabbit://u:s3cr3t@h:port/", "", "failure", "can't be used"),
        ("fake://", "notifications = false", "ok", "not asked"),
    ],
)
def test_other_transports(
    new_host: Callable[..., Host], url: str, watcher: str, result: str, found: str
) -> None:
    report = Report(new_host(transport_url=url, watcher=watcher))
    assert report["broker"][0] == result and found in report["broker"][1]


@on("sqlite")
def test_what_glance_does_not_send(new_host: Callable[..., Host]) -> None:
    host = new_host(transport_url="fake://", default="disabled_notifications = image")
    assert "disabled_notifications" in Report(host)["notifications"][1]
    host.configure(database_url="sqlite://", transport_url="fake://", watcher="exchange = other")
    assert "to exchange glance" in Report(host)["notifications"][1]
    host.configure(database_url="sqlite://", transport_url="fake://", watcher="topics = other")
    assert "on topics notifications" in Report(host)["notifications"][1]
    host.configure(database_url="sqlite://", transport_url="fake://")
    assert Report(host)["notifications"][0] == "ok"


@pytest.fixture(params=["mariadb", "postgresql"])
def server(request: pytest.FixtureRequest) -> Database:
    made = request.getfixturevalue(request.param)
    assert isinstance(made, Database)
    return made


@pytest.fixture
def server_host(tmp_path: Path, server: Database) -> Iterator[tuple[Host, str]]:
    """A host, and the name of its database, which has Glance's table with one row."""
    name = unique_name("check")
    server.create_database(name)
    images = Images(server.url(name))
    images.create_table()
    directory = tmp_path / "host"
    directory.mkdir()
    host = Host(directory, images, database_url=server.url(name))
    insert(host)
    yield host, name
    host.close()
    images.close()


def test_a_user_who_can_only_read(server: Database, server_host: tuple[Host, str]) -> None:
    host, name = server_host
    report = Report(host)
    assert report["privileges"][0] == "ok" and "can also write" in report["privileges"][1]
    grant = re.search(
        r"GRANT SELECT \(id, deleted, status\) ON .* TO [^;]*", report.remedy("privileges")
    )
    assert grant is not None
    reader = unique_name("reader")
    server.add_reader(reader, SECRET, name)
    server.execute(re.sub("'?staging_watcher('@'%')?", reader, grant[0]), name)
    host.configure(database_url=server.url(name, reader, SECRET))
    report = Report(host)
    assert report.bad == []
    assert report["images"] == ("ok", "1 row in the images table")
    assert report["privileges"] == ("ok", "its user can only read images")
    server.execute(f"GRANT UPDATE (name) ON images TO {reader}", name)
    assert "can also write" in Report(host)["privileges"][1]


def test_a_database_that_cannot_be_used(server: Database, server_host: tuple[Host, str]) -> None:
    host, name = server_host
    server.create_database(f"{name}_empty")
    cases = {
        server.url(name, password=f"{SECRET}-wrong"): "Access denied|authentication failed",
        server.url("no_such_database"): "Unknown database|does not exist",
        server.url(f"{name}_empty"): "doesn't exist|does not exist",
        server.url(name).replace(str(server.port), "1"): "Can't connect|Connection refused",
    }
    for url, reason in cases.items():
        host.configure(database_url=url)
        report = Report(host)
        assert report.bad == ["database"]
        assert report["database"][0] == "failure"
        assert re.search(reason, report["database"][1])
        assert "images" not in report.names


@on("sqlite")
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "is not set"),
        (f"mysql://glance:{SECRET}@host:port/x", "can't be parsed"),
        ("sqlite:////nonexistent/x", "unable to open"),
    ],
)
def test_a_database_url_that_cannot_be_used(host: Host, url: str, reason: str) -> None:
    host.configure(database_url=url)
    report = Report(host)
    assert report.bad == ["database"]
    assert report["database"][0] == "failure" and reason in report["database"][1]


@on("sqlite")
def test_a_large_table_is_not_counted(host: Host) -> None:
    host.images.insert(*(f"0a9c6f5e-8c8e-4d9c-9d6d-{number:012}" for number in range(10_001)))
    assert Report(host)["images"] == ("ok", "more than 10,000 rows in the images table")


@on("sqlite")
def test_a_directory_that_is_not_there(host: Host) -> None:
    host.staging.rmdir()
    report = Report(host)
    assert report["directory"] == ("warning", f"{host.staging} does not exist")
    assert not host.staging.exists()
    host.staging.touch()
    report = Report(host)
    assert report["directory"] == ("failure", f"{host.staging} can't be read: Not a directory")
    assert report.remedy("directory").startswith("correct [os_glance_staging_store]")
    host.configure(database_url="sqlite://", staging="http://x/")
    assert Report(host)["directory"][0] == "failure"


@on("sqlite")
def test_a_directory_that_another_user_owns(host: Host) -> None:
    insert(host)
    residue = host.stage_deleted()
    command = possible(AS_NOBODY if os.geteuid() == 0 else ["env"])
    host.staging.chmod(0o555)
    report = Report(host, through=command)
    assert report.bad == ["removal"]
    assert report["removal"][0] == "failure"
    host.staging.chmod(0o755)
    if os.geteuid() == 0:
        assert report["user"] == ("ok", "runs as nobody")
        assert report["removal"][1] == "nobody may not remove files: the directory belongs to root"
        host.staging.chmod(0o1777)
        report = Report(host, through=command)
        assert report["removal"][0] == "warning" and "sticky" in report["removal"][1]
        os.chown(host.staging, 65534, -1)
        assert Report(host, through=command).bad == []
        report = Report(host)
        assert report.bad == ["user"]
        again = f"{PROGRAM} check --config-file {host.config_file} --format json"
        assert report.remedy("user").endswith(f"runuser -u nobody -- {again}")
    assert residue.exists()


@on("sqlite")
def test_a_directory_that_cannot_be_read(host: Host) -> None:
    command = possible(WITHOUT_OVERRIDE) if os.geteuid() == 0 else []
    host.staging.chmod(0)
    result, found = Report(host, through=command)["directory"]
    host.staging.chmod(0o755)
    assert (result, found) == ("failure", f"{host.staging} can't be read: Permission denied")


@on("sqlite")
def test_a_file_system_that_is_read_only(host: Host) -> None:
    place = host.staging
    steps = f'mount --bind {place} {place} && mount -o remount,bind,ro {place} && exec "$@"'
    report = Report(host, through=[*possible(namespaces.MOUNTS), "sh", "-c", steps, "sh"])
    assert report["removal"] == ("failure", "the file system is mounted read-only")


@on("sqlite")
def test_a_file_system_in_memory(host: Host) -> None:
    steps = f'mount -t tmpfs none {host.staging} && exec "$@"'
    report = Report(host, through=[*possible(namespaces.MOUNTS), "sh", "-c", steps, "sh"])
    assert report["file_system"] == ("ok", "tmpfs, local")
    assert report["removal"][0] == "ok"


@on("sqlite")
@pytest.mark.parametrize("flag", ["i", "a"])
def test_a_directory_with_a_flag(host: Host, flag: str) -> None:
    if os.geteuid() or not shutil.which("chattr"):
        pytest.skip("needs root and chattr")
    if subprocess.run(["chattr", f"+{flag}", host.staging], check=False).returncode:
        pytest.skip("needs a file system with such flags")
    try:
        report = Report(host)
    finally:
        subprocess.run(["chattr", f"-{flag}", host.staging], check=True)
    assert report["removal"] == ("failure", "the directory is immutable or append-only")


@on("sqlite")
@pytest.mark.parametrize("what", ["watches", "instances"])
def test_no_inotify_left(host: Host, what: str) -> None:
    # the limit of the private name space, not the machine's
    steps = f'echo 0 > /proc/sys/user/max_inotify_{what} && exec "$@"'
    report = Report(host, through=[*possible(namespaces.MOUNTS), "sh", "-c", steps, "sh"])
    result, found = report["file_events"]
    assert result == "warning" and "limit reached" in found
    assert f"fs.inotify.max_user_{what}" in report.remedy("file_events")


@on("sqlite")
def test_a_private_tmp(host: Host) -> None:
    unit = unit_of(Path("/proc/self/cgroup").read_text()) or "x.service"
    host.configure(database_url="sqlite://", staging="file:///var/tmp/nobody-stages-here")
    private = host.directory / f"systemd-private-0123456789abcdef-{unit}-a1B2c3/tmp"
    private.mkdir(parents=True)
    steps = f'mount --bind {private} /var/tmp && exec "$@"'
    report = Report(host, through=[*possible(namespaces.MOUNTS), "sh", "-c", steps, "sh"])
    result, found = report["directory"]
    assert result == "failure" and f"/var/tmp is private to {unit} (PrivateTmp=yes)" in found
    assert report.remedy("directory").startswith("add JoinsNamespaceOf= ")


@on("sqlite")
def test_a_misspelt_option(new_host: Callable[..., Host]) -> None:
    host = new_host(watcher="max_absent_removal = 3")
    insert(host)
    report = Report(host)
    assert "options" in report.bad
    assert report["options"][1] == (
        f"[staging_watcher] max_absent_removal in {host.config_file} is unknown and has no effect"
    )
    assert report.remedy("options").startswith("max_absent_removals may be meant")


@on("sqlite")
def test_files_that_the_service_cannot_write(new_host: Callable[..., Host], tmp_path: Path) -> None:
    command = possible(AS_NOBODY) if os.geteuid() == 0 else []
    directory, file = tmp_path / "directory", tmp_path / "file"
    directory.mkdir()
    file.touch()
    mine = tmp_path / "mine"
    mine.mkdir()
    cases = [
        (tmp_path / "missing/x", False),
        (directory, False),
        (mine, False),
        (file / "x", False),
        (file, False),
        (directory / "x", False),
        (mine / "x", True),
    ]
    for path in (file, directory):
        path.chmod(0o555)
    if os.geteuid() == 0:
        os.chown(mine, 65534, -1)
    for path, good in cases:
        host = new_host(default=f"log_file = {path}", watcher=f"audit_log = {path}")
        report = Report(host, through=command)
        results = (report["log"][0], report["audit"][0])
        assert results == (("ok", "ok") if good else ("failure", "failure")), path
    assert not list(directory.iterdir()) and not list(mine.iterdir())


@on("sqlite")
def test_a_directory_for_logs(new_host: Callable[..., Host], tmp_path: Path) -> None:
    report = Report(new_host(default=f"log_dir = {tmp_path}"))
    assert report["log"] == ("ok", f"{tmp_path}/glance-staging-watcher.log can be written")
    assert not list(tmp_path.glob("*.log"))


def hang_up(server: socket.socket) -> None:
    """Be a server that doesn't speak HTTP."""
    connection, _ = server.accept()
    connection.close()


@on("sqlite")
def test_a_port_for_metrics(new_host: Callable[..., Host]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        host = new_host(watcher=f"metrics_port = {port}")
        Thread(target=hang_up, args=(server,), daemon=True).start()
        report = Report(host)
    assert report["metrics"][0] == "failure" and "in use" in report["metrics"][1]
    assert Report(host)["metrics"] == ("ok", f"127.0.0.1 port {port} is free")
    report = Report(new_host(watcher=f"metrics_port = {port}\nmetrics_host = 192.0.2.1"))
    result, found = report["metrics"]
    assert result == "failure" and found.endswith(": Cannot assign requested address")


@on("sqlite")
def test_for_people(new_host: Callable[..., Host]) -> None:
    host = new_host()
    host.configure(
        database_url="sqlite:////nonexistent/x", staging=f"file://{host.directory}/\x1bx"
    )
    run = execute([str(PROGRAM), "check"], host)
    assert run.returncode == 2 and not run.stderr and run.stdout.isascii()
    lines = run.stdout.splitlines()
    assert all(line.isprintable() for line in lines)
    assert lines[0] == f"ok       configuration   {host.config_file}"
    assert any("\\x1bx does not exist" in line for line in lines)
    assert any(line.strip().startswith("-> ") for line in lines)
    assert lines[-1].endswith(" 1 failed")


@on("sqlite")
def test_colour_at_a_terminal(host: Host) -> None:
    command = ("check", "--config-file", host.config_file)
    for terminal, coloured in (
        (Terminal(*command), True),
        (Terminal(*command, environment={"NO_COLOR": "1"}), False),
        (Terminal(*command, environment={"TERM": "dumb"}), False),
    ):
        terminal.end()
        assert bool(COLOUR.search(terminal.raw)) == coloured
        assert terminal.lines[0].startswith("ok       configuration   ")
        # a path may be longer
        assert all(len(line) <= 80 or " " not in line[25:] for line in terminal.lines)


@on("sqlite")
def test_glances_own_log_file_is_left_alone(new_host: Callable[..., Host], tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    Report(new_host(default=f"log_file = {log}"))
    assert not log.exists()


@on("sqlite")
def test_upgrade_check(new_host: Callable[..., Host], vhost: Vhost) -> None:
    host = new_host(transport_url=vhost.url)
    insert(host)
    before = vhost.content()
    run = execute([str(STATUS_PROGRAM)], host, "upgrade", "check", "--json")
    assert run.returncode == 1 and not run.stderr
    for arguments in (["upgrade", "--json", "check"], ["upgrade", "check", "--json", "--debug"]):
        assert execute([str(STATUS_PROGRAM)], host, *arguments).stdout == run.stdout
    last = execute([str(STATUS_PROGRAM), "upgrade", "check", "--json"], host)
    assert last.stdout == run.stdout
    reported = {each["check"]: each for each in json.loads(run.stdout)["checks"]}
    assert {name: each["result"] for name, each in reported.items()} == {
        "Configuration": 0,
        "Staging directory": 0,
        "Database": 0,
        "Message broker": 1,
        "Glance's notifications": 0,
        "Log, audit and metrics": 0,
    }
    assert "exchange glance doesn't exist" in reported["Message broker"]["details"]
    assert vhost.content() == before

    host.start().wait_for_line("Listening for notifications")
    run = execute([str(STATUS_PROGRAM)], host, "upgrade", "check")
    warnings = len(vhost.warnings)
    assert run.returncode == warnings and run.stdout.count("Result: Success") == 6 - warnings
    host.configure(database_url="", transport_url=vhost.url)
    assert execute([str(STATUS_PROGRAM)], host, "upgrade", "check").returncode == 2


def test_the_status_program_used_wrongly(tmp_path: Path) -> None:
    missing = ["--config-file", str(tmp_path / "none.conf"), "upgrade", "check"]
    wrong = tmp_path / "wrong.conf"
    wrong.write_text("[DEFAULT]\ndebug = maybe\n")
    own, usage = STATUS_PROGRAM.name, f"usage: {STATUS_PROGRAM.name} "
    unusable = f"{own}: Cannot use the configuration: "
    where = f"[DEFAULT] debug in {wrong}: Invalid Boolean value: maybe\n"
    for arguments, start, said in (
        ([], usage, f"{own}: error: "),
        (["upgrade"], f"{usage}upgrade", f"{own} upgrade: error: "),
        (["upgrade", "check", "--nope"], usage, f"{own}: error: unrecognized arguments: --nope"),
        (missing, unusable, "none.conf"),
        (["--config-file", str(wrong), "upgrade", "check"], unusable, where),
    ):
        run = subprocess.run(
            [STATUS_PROGRAM, *arguments], capture_output=True, text=True, check=False
        )
        assert run.returncode == 2
        assert run.stderr.startswith(start) and said in run.stderr
        assert "Traceback" not in run.stdout + run.stderr


def test_help_of_the_status_program() -> None:
    run = subprocess.run([STATUS_PROGRAM, "--help"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith(f"usage: {STATUS_PROGRAM.name} [-h]")
    assert "upgrade check [--json]: checks what the watcher needs" in run.stdout
