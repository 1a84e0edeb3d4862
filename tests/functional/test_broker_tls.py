# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ by TLS with client certificates, and by IPv6."""

import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import sqlite_url
from tests.functional.host import Host
from tests.functional.test_check import Report
from tests.services import RabbitMQ
from tests.services.certificates import Authority
from tests.services.ports import LOOPBACK, free_port
from tests.services.requirements import unavailable

database_url = sqlite_url


class Tls(NamedTuple):
    """A broker that demands a client's certificate, and also serves plainly by IPv6."""

    port: int
    plain: int
    directory: Path
    server: RabbitMQ

    def options(self, **changed: str) -> str:
        """Options of a client; an empty value leaves one out."""
        files = {
            "ssl_ca_file": "ca.pem",
            "ssl_cert_file": "client.pem",
            "ssl_key_file": "client.key",
        }
        lines = [
            f"{name} = {self.directory / value}\n"
            for name, value in (files | changed).items()
            if value
        ]
        return f"[oslo_messaging_rabbit]\nssl = true\n{''.join(lines)}"

    def use(self, certificate: str) -> None:
        """Have the broker present one of its certificates from now on."""
        for suffix in ("pem", "key"):
            shutil.copy(
                self.directory / f"{certificate}.{suffix}", self.directory / f"server.{suffix}"
            )
        self.server.ctl("eval", "ssl:clear_pem_cache().")


def make_certificates(directory: Path) -> None:
    """Two authorities; the first signs certificates of servers and clients."""
    ca = Authority(directory, "ca")
    Authority(directory, "other")
    for name, host, days in (
        ("good", f"IP:{LOOPBACK}", 2),
        ("expired", f"IP:{LOOPBACK}", -1),
        ("elsewhere", "DNS:other.example", 2),
        ("client", "DNS:client.example", 2),
        ("old client", "DNS:client.example", -1),
    ):
        ca.issue(name, host=host, days=days)


@pytest.fixture(scope="module")
def tls() -> Iterator[Tls]:
    if reason := RabbitMQ.missing():
        unavailable(reason)
    with tempfile.TemporaryDirectory(prefix="services-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        make_certificates(directory)
        port, plain = free_port(), free_port()
        settings = (
            f"listeners.ssl.default = {LOOPBACK}:{port}\n"
            f"ssl_options.cacertfile = {directory}/ca.pem\n"
            f"ssl_options.certfile = {directory}/server.pem\n"
            f"ssl_options.keyfile = {directory}/server.key\n"
            "ssl_options.verify = verify_peer\n"
            "ssl_options.fail_if_no_peer_cert = true\n"
        )
        if socket.has_dualstack_ipv6():
            settings += f"listeners.tcp.second = ::1:{plain}\n"
        home = directory / "broker"
        home.mkdir()
        server = RabbitMQ(home, settings)
        made = Tls(port, plain, directory, server)
        for suffix in ("pem", "key"):
            shutil.copy(directory / f"good.{suffix}", directory / f"server.{suffix}")
        server.start()
        try:
            yield made
        finally:
            server.stop()


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
        ({"ssl_cert_file": "old client.pem", "ssl_key_file": "old client.key"}, "expired"),
        ({"ssl_ca_file": "other.pem"}, "certificate verify failed"),
        ({"ssl_ca_file": "no-such.pem"}, "ssl_ca_file = .*no-such.pem: No such file"),
        ({"ssl_cert_file": "no-such.pem"}, "ssl_cert_file = .*no-such.pem: No such file"),
        ({"ssl_key_file": "no-such.key"}, "ssl_key_file = .*no-such.key: No such file"),
        ({"ssl_key_file": "good.key"}, "ssl_key_file = .*good.key"),
        ({"ssl_ca_file": "ca.key"}, "ssl_ca_file = .*ca.key"),
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


@pytest.mark.parametrize(
    ("certificate", "found"),
    [("expired", "certificate has expired"), ("elsewhere", "not valid for|doesn't match")],
)
def test_what_is_wrong_with_the_brokers_is_named(
    new_host: Callable[..., Host], tls: Tls, certificate: str, found: str
) -> None:
    tls.use(certificate)
    try:
        host = new_host(transport_url=url(LOOPBACK, tls.port), more=tls.options())
        host.stage_live()
        line = host.start().wait_for_line("ERROR watcher.triggers.listener")
        report = Report(host)
    finally:
        tls.use("good")
    for text in (line, report["broker"][1]):
        assert re.search(found, text, re.IGNORECASE), text


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_ipv6(new_host: Callable[..., Host], tls: Tls) -> None:
    host = new_host(transport_url=url("[::1]", tls.plain))
    host.stage_live()
    host.start().wait_for_line("Listening for notifications")
    report = Report(host)
    assert report["broker"] == ("ok", f"[::1]:{tls.plain} lets the watcher into virtual host /")
