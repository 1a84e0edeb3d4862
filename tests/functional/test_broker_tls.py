# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ by TLS with client certificates, and by IPv6."""

import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.functional.host import Host
from tests.functional.test_check import Report
from tests.services import RabbitMQ
from tests.services.ports import LOOPBACK, free_port


class Tls(NamedTuple):
    """A broker that demands a client's certificate, and also serves plainly by IPv6."""

    port: int
    plain: int
    directory: Path

    def options(self, **changed: str) -> str:
        """Options of a client; an empty value leaves one out."""
        files = {
            "ssl_ca_file": "ca.crt",
            "ssl_cert_file": "client.crt",
            "ssl_key_file": "client.key",
        }
        lines = [
            f"{name} = {self.directory / value}\n"
            for name, value in (files | changed).items()
            if value
        ]
        return f"[oslo_messaging_rabbit]\nssl = true\n{''.join(lines)}"


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, check=True)


def make_certificates(directory: Path) -> None:
    """Two authorities; the first signs a server's and a client's certificate."""
    new = ("req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2")
    for name in ("ca", "other"):
        openssl(
            directory, *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt"
        )
    for name, extension in (
        ("server", f"subjectAltName=IP:{LOOPBACK}"),
        ("client", "extendedKeyUsage=clientAuth"),
    ):
        openssl(
            directory,
            *("req", "-nodes", "-newkey", "rsa:2048", "-subj", f"/CN={name}"),
            *("-addext", extension, "-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        openssl(
            directory,
            *("x509", "-req", "-in", f"{name}.csr", "-days", "2", "-copy_extensions", "copy"),
            *("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.crt"),
        )


@pytest.fixture(scope="module")
def tls() -> Iterator[Tls]:
    if reason := RabbitMQ.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with tempfile.TemporaryDirectory(prefix="services-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        make_certificates(directory)
        made = Tls(free_port(), free_port(), directory)
        settings = (
            f"listeners.ssl.default = {LOOPBACK}:{made.port}\n"
            f"ssl_options.cacertfile = {directory}/ca.crt\n"
            f"ssl_options.certfile = {directory}/server.crt\n"
            f"ssl_options.keyfile = {directory}/server.key\n"
            "ssl_options.verify = verify_peer\n"
            "ssl_options.fail_if_no_peer_cert = true\n"
        )
        if socket.has_dualstack_ipv6():
            settings += f"listeners.tcp.second = ::1:{made.plain}\n"
        home = directory / "broker"
        home.mkdir()
        server = RabbitMQ(home, settings)
        server.start()
        try:
            yield made
        finally:
            server.stop()


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """SQLite only: the kind of database makes no difference here."""
    return f"sqlite:///{tmp_path / 'glance.sqlite'}"


def url(host: str, port: int) -> str:
    return f"rabbit://{RabbitMQ.user}:{RabbitMQ.password}@{host}:{port}/"


def test_a_client_certificate(new_host: Callable[..., Host], tls: Tls) -> None:
    host = new_host(transport_url=url(LOOPBACK, tls.port), more=tls.options())
    host.stage_live()
    host.start().wait_for_line("Listening for notifications")
    report = Report(host)
    assert report["broker"][0] == "ok"
    assert report["messages"] == ("ok", "0 messages wait, 1 consumer")


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"ssl_cert_file": "", "ssl_key_file": ""}, "alert|reset|closed|lost|EOF"),
        ({"ssl_ca_file": "other.crt"}, "certificate verify failed"),
        ({"ssl_ca_file": "no-such.crt"}, "ssl_ca_file = .*no-such.crt: No such file"),
        ({"ssl_cert_file": "no-such.crt"}, "ssl_cert_file = .*no-such.crt: No such file"),
    ],
)
def test_what_is_wrong_with_it_is_named(
    new_host: Callable[..., Host], tls: Tls, changed: dict[str, str], found: str
) -> None:
    host = new_host(transport_url=url(LOOPBACK, tls.port), more=tls.options(**changed))
    host.stage_live()
    line = host.start().wait_for_line("ERROR watcher.triggers.listener")
    report = Report(host)
    assert report["broker"][0] == "failure"
    for text in (line, report["broker"][1]):
        assert re.search(found, text, re.IGNORECASE), text


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_ipv6(new_host: Callable[..., Host], tls: Tls) -> None:
    host = new_host(transport_url=url("[::1]", tls.plain))
    host.stage_live()
    host.start().wait_for_line("Listening for notifications")
    report = Report(host)
    assert report["broker"] == ("ok", f"[::1]:{tls.plain} lets the watcher into virtual host /")
