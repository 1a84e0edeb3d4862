# SPDX-License-Identifier: Apache-2.0
"""TLS and passwords of the metrics port."""

import base64
import http.client
import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import bcrypt
import pytest

from tests.services.certificates import Authority
from tests.services.ports import free_port
from watcher import conf
from watcher.checks import outputs
from watcher.checks.result import Result
from watcher.errors import ConfigError
from watcher.stats import Stats
from watcher.telemetry.http import MAX_CONNECTIONS, MetricsServer, new_server
from watcher.telemetry.web_config import MAX_CACHED, WebConfig
from watcher.workqueue import WorkQueue

PASSWORD = "s3cr3t:ü"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
USERS = f"basic_auth_users:\n  prometheus: {HASH}\n"
TIMEOUT = 30.0  # seconds


def basic(user: str = "prometheus", password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> str:
    certificate = authority.issue("server")
    return f"tls_server_config:\n  cert_file: {certificate.path}\n  key_file: {certificate.key}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "web.yml"


@pytest.fixture
def serve(tmp_path: Path, file: Path) -> Iterator[Callable[[str], MetricsServer]]:
    servers = []

    def make(text: str) -> MetricsServer:
        file.write_text(text)
        configuration = tmp_path / "glance-api.conf"
        configuration.write_text(
            f"[staging_watcher]\nmetrics_port = {free_port()}\nmetrics_web_config = {file}\n"
        )
        server = new_server(
            conf.load(["--config-file", str(configuration)]),
            stats=Stats(),
            queue=WorkQueue(),
            conditions=lambda: {"cleaner": None},
            ready=lambda: True,
            sweep_interval=lambda: 600,
            alive=lambda: {"cleaner": None},
        )
        server.start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()


def ask(
    server: MetricsServer, authority: Authority | None, path: str = "/metrics", **headers: str
) -> http.client.HTTPResponse:
    host, port = str(server.server_address[0]), int(server.server_address[1])
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    if authority is not None:
        context = ssl.create_default_context(cafile=str(authority.certificate))
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)
    with closing(connection):
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer


def test_plain_http_with_passwords(serve: Callable[[str], MetricsServer]) -> None:
    server = serve(USERS)
    for path in ("/", "/metrics", "/healthz", "/readyz", "/nothing"):
        answer = ask(server, None, path)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="glance-staging-watcher"'
        assert ask(server, None, path, Authorization=basic()).status in (200, 404)
    for wrong in (basic("other"), basic(password="x"), "Basic %", "Bearer x", basic(password="")):
        for _ in range(2):  # also from memory
            assert ask(server, None, Authorization=wrong).status == 401


def test_https(serve: Callable[[str], MetricsServer], authority: Authority, tls: str) -> None:
    server = serve(tls + USERS)
    assert ask(server, authority).status == 401
    assert ask(server, authority, Authorization=basic()).status == 200
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(server, None)
    assert ask(serve(tls), authority).status == 200, "TLS alone"


def test_clients_that_say_nothing_do_not_block_others(
    serve: Callable[[str], MetricsServer], authority: Authority, tls: str
) -> None:
    server = serve(tls)
    address = str(server.server_address[0]), int(server.server_address[1])
    silent = [socket.create_connection(address, timeout=TIMEOUT) for _ in range(MAX_CONNECTIONS)]
    for _ in range(3):
        assert ask(server, authority).status == 200
    for each in silent:
        each.close()


def test_a_renewed_certificate_is_used(
    authority: Authority, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    issued = authority.issue("renewed")
    certificate = issued.path
    file.write_text(f"tls_server_config: {{cert_file: {certificate}, key_file: {issued.key}}}\n")
    config = WebConfig(str(file))
    first = config.context()
    assert first is not None and config.context() is first
    valid = certificate.read_bytes()
    certificate.write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        assert config.context() is first and config.context() is first
    assert len(caplog.records) == 1, "once for each new file"
    certificate.write_bytes(valid)
    os.utime(certificate, ns=(1, 1))
    assert config.context() is not first


def test_files_beside_the_configuration(file: Path, tls: str) -> None:
    paths = [Path(line.split(": ")[1]) for line in tls.splitlines()[1:]]
    for path in paths:
        (file.parent / path.name).write_bytes(path.read_bytes())
    names = [path.name for path in paths]
    file.write_text(f"tls_server_config: {{cert_file: {names[0]}, key_file: {names[1]}}}\n")
    assert WebConfig(str(file)).with_tls


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("- x\n", "expected tls_server_config and basic_auth_users"),
        ("a: {", "it is not YAML"),
        ("http_server_config: {http2: true}\n", "http_server_config is not supported"),
        (
            "tls_server_config: {cert_file: a, key_file: b, client_auth_type: x}",
            "tls_server_config: client_auth_type is not supported",
        ),
        ("tls_server_config: {cert_file: a}\n", "tls_server_config needs cert_file and key_file"),
        ("tls_server_config: x\n", "tls_server_config and basic_auth_users must hold names"),
        ("basic_auth_users: {a: s3cr3t}\n", "basic_auth_users must have a bcrypt hash for each"),
        ("basic_auth_users: {a: 7}\n", "basic_auth_users must have a bcrypt hash for each"),
        ("tls_server_config: {cert_file: /no, key_file: /no}\n", "/no: No such file or directory"),
    ],
)
def test_what_cannot_be_used_is_one_line(file: Path, text: str, cause: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        WebConfig(str(file))
    said = str(raised.value)
    assert said.startswith(f"Cannot use [staging_watcher] metrics_web_config {file}: ")
    assert cause in said and "s3cr3t" not in said and "\n" not in said


def test_a_certificate_that_is_none(file: Path) -> None:
    (file.parent / "x.pem").write_text("s3cr3t\n")
    file.write_text("tls_server_config: {cert_file: x.pem, key_file: x.pem}\n")
    with pytest.raises(ConfigError, match=": no certificate with its key, in PEM format: /"):
        WebConfig(str(file))
    with pytest.raises(ConfigError, match="No such file"):
        WebConfig(str(file.parent / "missing.yml"))


def test_a_password_costs_bcrypt_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(USERS)
    config, asked = WebConfig(str(file)), []
    check = bcrypt.checkpw

    def count(password: bytes, stored: bytes) -> bool:
        asked.append(stored)
        return check(password, stored)

    monkeypatch.setattr(bcrypt, "checkpw", count)
    for _ in range(3):
        assert config.allows(basic())
        assert not config.allows(basic("nobody"))
    assert len(asked) == 2, "also for a user who doesn't exist"
    for number in range(MAX_CACHED + 5):
        config.allows(f"Basic {number}")
    assert len(config._answers) == MAX_CACHED
    assert not config.allows(basic(password="x" * 100))


def test_check_knows_it(serve: Callable[[str], MetricsServer], file: Path, tls: str) -> None:
    server = serve(tls + USERS)
    port = int(server.server_address[1])
    found = outputs.metrics("127.0.0.1", port, str(file))
    assert (found.result, found.found) == (
        Result.OK,
        f"the service serves them on 127.0.0.1 port {port}",
    )
    file.write_text("basic_auth_users: {a: s3cr3t}\n")
    assert outputs.metrics("127.0.0.1", port, str(file)).result is Result.FAILURE
