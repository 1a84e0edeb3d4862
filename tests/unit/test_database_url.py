# SPDX-License-Identifier: Apache-2.0
"""``[database] connection`` as Glances have it, for any driver."""

import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import name_of, on
from tests.services import Database, MariaDB, unique_name
from tests.services import Images as GlanceImages
from watcher.database import url as url_module
from watcher.database.images import Images
from watcher.database.mysql import MySQL, _context
from watcher.database.postgresql import PostgreSQL
from watcher.database.sqlite import SQLite
from watcher.database.url import redacted, target
from watcher.errors import ConfigError, DatabaseError


def arguments(url: str) -> dict[str, Any]:
    """What the driver is connected with, without what doesn't matter here."""
    made = dict(target(url).server._arguments)
    if made.get("tls") == {"ssl_mode": "PREFERRED"}:
        del made["tls"]
    return made


PLACE = {"host": "h", "user": "u", "password": b"p", "database": "d"}
PG_PLACE = {"host": "h", "user": "u", "password": "p", "dbname": "d"}


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("mysql://u@h/d", MySQL),
        ("mysql+pymysql://u@h/d", MySQL),
        ("mysql+mysqldb://u@h/d", MySQL),
        ("mysql+aiomysql://u@h/d", MySQL),
        ("mysql+nosuchdriver://u@h/d", MySQL),
        ("mariadb://u@h/d", MySQL),
        ("postgresql://u@h/d", PostgreSQL),
        ("postgresql+psycopg2://u@h/d", PostgreSQL),
        ("postgresql+asyncpg://u@h/d", PostgreSQL),
        ("sqlite:////x", SQLite),
        ("sqlite+aiosqlite:////x", SQLite),
    ],
)
def test_each_kind_has_one_driver(url: str, kind: type) -> None:
    assert type(target(url).server) is kind


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://u:p@h/d", PLACE),
        ("mysql://u:p@h:3307/d", PLACE | {"port": 3307}),
        ("mysql://u:p@[::1]:3307/d", PLACE | {"host": "::1", "port": 3307}),
        ("mysql://u:p%E2%82%AC@h/d", PLACE | {"password": "p€".encode()}),
        ("mysql://u:p$w@h/d", PLACE | {"password": b"p$w"}),
        (
            "mysql://u:p@/d?unix_socket=/s&charset=utf8",
            {"user": "u", "password": b"p", "database": "d"}
            | {"unix_socket": "/s", "charset": "utf8"},
        ),
        # of other drivers, of a profiler, of SQLAlchemy
        ("mysql://u:p@h/d?compress=1&local_infile=1&plugin=dbcounter&pool_size=3", PLACE),
        ("mysql://u:p@h/d?charset=utf8&charset=utf8mb4", PLACE | {"charset": "utf8mb4"}),
        ("mysql://u:p@h/d?read_timeout=3", PLACE | {"read_timeout": 3}),
        # as connection_parameters gives it
        ("mysql://u:p@h/?database=d", PLACE),
        ("mysql://h/?db=d&user=u&password=p&port=9", PLACE | {"port": 9}),
        ("postgresql://u:p@h/d", PG_PLACE),
        ("postgresql://u:p@[::1]:5433/d", PG_PLACE | {"host": "::1", "port": 5433}),
        (
            "postgresql://u:p@/d?host=a:1&host=b:2&target_session_attrs=read-write",
            PG_PLACE | {"host": "a,b", "port": "1,2", "target_session_attrs": "read-write"},
        ),
        ("postgresql://u:p@/d?host=/run/postgresql", PG_PLACE | {"host": "/run/postgresql"}),
        (
            "postgresql+psycopg2://u:p@h/d?executemany_mode=values_only&sslmode=require",
            PG_PLACE | {"sslmode": "require"},
        ),
        (
            "postgresql+asyncpg://u:p@h/d?ssl=verify-full&prepared_statement_cache_size=0",
            PG_PLACE | {"sslmode": "verify-full"},
        ),
        ("postgresql://u:p@h/?dbname=d", PG_PLACE),
    ],
)
def test_arguments(url: str, expected: dict[str, Any]) -> None:
    assert arguments(url) == expected


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("mysql://u:s3cr3t@h/d", "h/d"),
        ("mysql://u:s3cr3t@[::1]:1/d", "[::1]:1/d"),
        ("mysql://u:s3cr3t@/d?unix_socket=/run/s", "/run/s/d"),
        ("postgresql://u:s3cr3t@/d?host=a:1&host=b:2", "a:1,b:2/d"),
        ("postgresql://u:s3cr3t@h:5433/d?password=s3cr3t", "h:5433/d"),
        ("postgresql:///d", "localhost/d"),
        ("sqlite:////x/y", "/x/y"),
        ("sqlite://", "memory"),
    ],
)
def test_a_location_to_be_shown(url: str, location: str) -> None:
    assert Images(url).location == location


# TLS, in the words of each driver


@pytest.mark.parametrize(
    ("query", "mode"),
    [
        ("", "PREFERRED"),
        ("ssl_mode=DISABLED", "DISABLED"),
        ("ssl_disabled=true&ssl_ca=/ca", "DISABLED"),
        ("ssl_mode=required", "REQUIRED"),
        ("ssl=true", "REQUIRED"),
        ("ssl_cert=/c&ssl_key=/k", "REQUIRED"),
        ("ssl_verify_cert=false", "REQUIRED"),
        ("ssl_ca=/ca&ssl_verify_cert=false", "REQUIRED"),
        ("ssl_mode=REQUIRED&ssl_ca=/ca", "VERIFY_CA"),
        ("ssl_mode=VERIFY_CA&ssl_ca=/ca", "VERIFY_CA"),
        ("ssl_ca=/ca&ssl_check_hostname=false", "VERIFY_CA"),
        ("ssl_ca=/ca&ssl_verify_cert=true&ssl_verify_identity=false", "VERIFY_CA"),
        ("ssl_verify_cert=true", "VERIFY_CA"),
        ("ssl_ca=/ca", "VERIFY_IDENTITY"),
        ("ssl_capath=/ca", "VERIFY_IDENTITY"),
        ("ssl_ca=/ca&ssl_verify_cert=true", "VERIFY_IDENTITY"),
        ("ssl_verify_identity=true", "VERIFY_IDENTITY"),
        ("ssl_mode=VERIFY_IDENTITY", "VERIFY_IDENTITY"),
    ],
)
def test_tls_of_mysql(query: str, mode: str) -> None:
    assert target(f"mysql://u@h/d?{query}").server._arguments["tls"]["ssl_mode"] == mode


@pytest.mark.parametrize(
    ("mode", "verify", "identity"),
    [
        ("REQUIRED", ssl.CERT_NONE, False),
        ("VERIFY_CA", ssl.CERT_REQUIRED, False),
        ("VERIFY_IDENTITY", ssl.CERT_REQUIRED, True),
    ],
)
def test_what_a_mode_of_tls_verifies(mode: str, verify: ssl.VerifyMode, identity: bool) -> None:
    context = _context({"ssl_mode": mode})
    assert (context.verify_mode, context.check_hostname) == (verify, identity)


@pytest.mark.parametrize("name", ["ssl_ca", "ssl_cert", "ssl_key"])
def test_a_file_of_tls_that_is_missing_or_no_certificate(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    table = Images(f"mysql://u:s3cr3t@127.0.0.1:1/d?{name}={path}&ssl_cert={path}")
    with pytest.raises(DatabaseError, match=rf"^ssl_\w+ {path}: No such file or directory$"):
        table.check()
    path.write_text("no certificate")
    with pytest.raises(DatabaseError, match=rf"^TLS files can't be used: .*{path}: "):
        table.check()


# What can't be used


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "can't be parsed"),
        ("not a url s3cr3t", "can't be parsed"),
        ("mysql://glance:s3cr3t@host:port/glance", "can't be parsed"),
        ("oracle://glance:s3cr3t@host/glance", "unknown scheme"),
        ("s3cr3t://host/glance", "unknown scheme"),
        ("mysql://glance:SEC@s3cr3t@host/glance", "write it as %40"),
        ("mysql://u@host/d?port=s3cr3t", "no number as port"),
        ("mysql://u@host/d?connect_timeout=x", "can't be used: invalid literal"),
        ("mysql://u@host/d?ssl_mode=s3cr3t", "can't be used: ssl_mode is none of DISABLED, "),
        ("mysql://u@host/d?ssl_verify_cert=s3cr3t", "ssl_verify_cert is neither true nor false"),
    ],
)
def test_a_bad_url_is_one_line(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        Images(url)
    assert "\n" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://glance:s3cr3t@127.0.0.1:1/d",
        "mysql://glance@127.0.0.1:1/d?password=s3cr3t",
        "postgresql://glance:s3cr3t@127.0.0.1:1/d",
        "postgresql://glance:a%2Fs3cr3t@127.0.0.1:1/d",
        "postgresql://glance@127.0.0.1:1/d?password=s3cr3t&sslpassword=s3cr3t",
    ],
)
def test_an_unreachable_database_gives_no_secret_away(url: str) -> None:
    table = Images(url)
    with pytest.raises(DatabaseError) as caught:
        table.check()
    assert "127.0.0.1" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "s3cr3t" not in redacted(f"text with {url}", table._secrets)


@pytest.mark.parametrize(
    ("scheme", "package", "extra"),
    [
        ("mysql", "python3-pymysql", "mysql"),
        ("mariadb+mysqldb", "python3-pymysql", "mysql"),
        ("postgresql+psycopg2", "python3-psycopg", "postgresql"),
    ],
)
def test_a_driver_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, scheme: str, package: str, extra: str
) -> None:
    monkeypatch.setattr(url_module, "find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=rf"{package}, or with pip .*\[{extra}\]$"):
        target(f"{scheme}://u@h/d")
    monkeypatch.setattr(url_module, "find_spec", find_spec)
    target(f"{scheme}://u@h/d")


# Real passwords


@pytest.mark.parametrize("password", ["s3cr3t€", "s3cr3t$x${y}", "s3cr3t@:/?#[]%40", "s3cr3t'\"\\"])
@on("mariadb", "postgresql")
def test_passwords_of_any_characters(
    database_server: Database, images: GlanceImages, database_url: str, password: str
) -> None:
    name, database = unique_name("reader"), name_of(database_url)
    escaped = password.replace("'", "''")
    if isinstance(database_server, MariaDB):
        escaped = escaped.replace("\\", "\\\\")
    database_server.add_reader(name, escaped.replace("%", "%%"), database)
    url = database_server.url(database, name, quote(password, safe=""))
    assert not Images(url).check()
