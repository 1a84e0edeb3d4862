# SPDX-License-Identifier: Apache-2.0
"""Files of a TLS client: which one is wrong, and why."""

from pathlib import Path

import pytest

from tests.services.certificates import Authority
from watcher.triggers import tls_files


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and certificates of clients."""
    path = tmp_path_factory.mktemp("tls")
    authority = Authority(path, "ca")
    for name, days in (("client", 2), ("old", -1)):
        authority.issue(name, host="DNS:client.example", days=days)
    (path / "both.pem").write_text(
        (path / "client.pem").read_text() + (path / "client.key").read_text()
    )
    (path / "empty.pem").touch()
    return path


@pytest.mark.parametrize(
    ("authority", "certificate", "key", "fault"),
    [
        (None, None, None, None),
        ("ca.pem", None, None, None),
        ("ca.pem", "client.pem", "client.key", None),
        (None, "both.pem", None, None),
        ("none.pem", None, None, "ssl_ca_file = {d}/none.pem: No such file or directory"),
        (None, "none.pem", "client.key", "ssl_cert_file = {d}/none.pem: No such file or directory"),
        (None, "client.pem", "none.key", "ssl_key_file = {d}/none.key: No such file or directory"),
        ("ca.key", None, None, "ssl_ca_file = {d}/ca.key: no certificate or crl found"),
        ("empty.pem", None, None, "ssl_ca_file = {d}/empty.pem: no certificate or crl found"),
        (None, "ca.key", "client.key", "ssl_cert_file = {d}/ca.key: no certificate or crl found"),
        (None, "client.pem", "ca.key", "ssl_key_file = {d}/ca.key: key values mismatch"),
        (None, "client.pem", "ca.pem", "ssl_key_file = {d}/ca.pem: "),
        (None, "client.pem", None, "ssl_cert_file = {d}/client.pem: "),
        ("ca.pem", "old.pem", "old.key", "ssl_cert_file = {d}/old.pem: certificate has expired"),
    ],
)
def test_the_file_is_named(
    directory: Path,
    authority: str | None,
    certificate: str | None,
    key: str | None,
    fault: str | None,
) -> None:
    files = {
        option: str(directory / name) if name else None
        for option, name in (
            (tls_files.AUTHORITY, authority),
            (tls_files.CERTIFICATE, certificate),
            (tls_files.KEY, key),
        )
    }
    found = tls_files.fault(files)
    if fault is None:
        assert found is None
    else:
        assert found is not None and found.startswith(fault.format(d=directory))
        assert found != fault.format(d=directory) or not fault.endswith(": ")
