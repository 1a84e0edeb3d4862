# SPDX-License-Identifier: Apache-2.0
"""``[database] connection`` → a server to ask. For any driver in it, ours is used: with one
for each kind of server, time limits and errors are those that the tests know."""

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from watcher.database.server import Server
from watcher.errors import ConfigError

#: kind of server: SQLAlchemy's name of the driver, its module, what to install for it
_DRIVERS = {
    "mysql": ("pymysql", "pymysql", "mysql"),
    "mariadb": ("pymysql", "pymysql", "mysql"),
    "postgresql": ("psycopg", "psycopg", "postgresql"),
    "sqlite": ("pysqlite", "sqlite3", ""),
}
_PLACE = ("host", "port", "username", "password", "database")
_SYNONYMS = {"db": "database", "dbname": "database", "user": "username", "passwd": "password"}
_SECRET = ("password", "passwd", "sslpassword", "ssl_key_password")
# Those of PyMySQL's that a text can give; what else a URL has is for another driver.
_PYMYSQL = {
    "bind_address",
    "charset",
    "collation",
    "connect_timeout",
    "init_command",
    "program_name",
    "read_default_file",
    "read_default_group",
    "read_timeout",
    "sql_mode",
    "unix_socket",
    "write_timeout",
}
_TLS = ("ssl_ca", "ssl_capath", "ssl_cert", "ssl_cipher", "ssl_key", "ssl_key_password")
_TLS_MODES = ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "none")


class Target(NamedTuple):
    """Where a database is.

    :param backend: mysql, mariadb, postgresql or sqlite
    :param database: its name, or the file of SQLite
    :param location: host, port and name, or the file: fit to be shown
    :param server: not yet connected
    :param secrets: texts that must not be shown
    """

    backend: str
    database: str
    location: str
    server: Server
    secrets: tuple[str, ...]


def target(url: str) -> Target:
    """Make the URL of Glance's file ready for this process.

    :raises ConfigError: it can't be used; the text holds no part of a secret
    """
    parsed = _parse(url)
    backend = parsed.get_backend_name()
    driver, module, extra = _DRIVERS[backend]
    if find_spec(module) is None:
        raise ConfigError(
            f"The driver for {backend} is not installed; install Debian's package "
            f"python3-{module}, or with pip glance-staging-watcher[{extra}]"
        )
    parsed = _placed(parsed.set(drivername=f"{backend}+{driver}"), backend)
    secrets = _secrets(url, parsed)
    try:
        server = _server(parsed, backend)
    except (SQLAlchemyError, ValueError, TypeError) as error:
        text = redacted(str(error), secrets)
        raise ConfigError(f"[database] connection can't be used: {text}") from None
    return Target(backend, parsed.database or "", _location(parsed), server, secrets)


def redacted(text: str, secrets: tuple[str, ...]) -> str:
    """The text on one line, without the secrets."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return " ".join(text.split())


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (SQLAlchemyError, ValueError):
        raise ConfigError(
            "[database] connection can't be parsed; expected "
            "dialect+driver://user:password@host/database"
        ) from None
    if backend not in _DRIVERS:
        raise ConfigError(
            "[database] connection has an unknown scheme; expected mysql, postgresql or sqlite"
        )
    if "@" in (parsed.host or ""):
        raise ConfigError(
            "[database] connection has an @ in its user name or password; write it as %40"
        )
    return parsed


def _placed(url: URL, backend: str) -> URL:
    # connection_parameters may name all that stands before the query.
    if backend == "sqlite":
        return url
    for name, value in url.query.items():
        place = _SYNONYMS.get(name, name)
        if place == "host" and backend == "postgresql":
            continue  # libpq takes several, and directories of sockets
        if place in _PLACE and isinstance(value, str):
            url = url.difference_update_query([name])
            try:
                url = url.set(**{place: int(value) if place == "port" else value})  # type: ignore[arg-type]
            except ValueError:
                raise ConfigError(f"[database] connection has no number as {name}") from None
    return url


def _server(url: URL, backend: str) -> Server:
    query = {
        name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()
    }
    # The drivers may be missing: each is imported when its kind of server is named.
    if backend == "sqlite":
        from watcher.database.sqlite import SQLite  # noqa: PLC0415

        if url.database and not url.database.startswith("file:"):
            # kept from making an empty database where none is
            path = quote(os.path.abspath(url.database))
            url = url.set(database=f"file:{path}")
            url = url.update_query_dict({"mode": "rw", "uri": "true"})
        args, arguments = _driver_arguments(url)
        return SQLite({"database": args[0]} | arguments)
    if backend == "postgresql":
        from psycopg.pq import Conninfo  # noqa: PLC0415

        from watcher.database.postgresql import PostgreSQL  # noqa: PLC0415

        known = {option.keyword.decode() for option in Conninfo.get_defaults()}
        if "ssl" in query and "sslmode" not in query:  # asyncpg's
            url = url.update_query_dict({"sslmode": query["ssl"]})
        _, arguments = _driver_arguments(
            url.difference_update_query([name for name in url.query if name not in known])
        )
        return PostgreSQL(arguments)
    from watcher.database.mysql import MySQL  # noqa: PLC0415

    kept = {name: value for name, value in query.items() if name in _PYMYSQL}
    _, arguments = _driver_arguments(url.set(query=kept))
    if url.password:
        arguments["password"] = str(url.password).encode()  # PyMySQL's own would be Latin-1
    return MySQL(arguments | {"tls": _tls(query)})


def _driver_arguments(url: URL) -> tuple[list[Any], dict[str, Any]]:
    args, arguments = url.get_dialect()().create_connect_args(url)
    return list(args), dict(arguments)


def _tls(query: Mapping[str, str]) -> dict[str, str]:
    """TLS arguments of the drivers for MySQL as one of MySQL's own modes, and files."""
    files = {name: query[name] for name in _TLS if name in query}
    mode = query.get("ssl_mode", "").upper()
    if mode and mode not in _TLS_MODES:
        raise ValueError(f"ssl_mode is none of {', '.join(_TLS_MODES)}")
    if mode == "DISABLED" or _flag(query, "ssl_disabled"):
        mode = "DISABLED"
    elif not mode:
        certified = "ssl_ca" in files or "ssl_capath" in files
        identity = _flag(query, "ssl_verify_identity", "ssl_check_hostname")
        verify = _flag(query, "ssl_verify_cert")
        if identity or (certified and identity is None and verify is not False):
            mode = "VERIFY_IDENTITY"
        elif verify or (certified and verify is None):
            mode = "VERIFY_CA"
        elif files or _flag(query, "ssl") or verify is False:
            mode = "REQUIRED"
    elif mode == "REQUIRED" and "ssl_ca" in files:
        mode = "VERIFY_CA"  # as MySQL's client does
    return {"ssl_mode": mode or "PREFERRED"} | files


def _flag(query: Mapping[str, str], *names: str) -> bool | None:
    for name in names:
        if name in query:
            value = query[name].lower()
            if value not in _TRUE + _FALSE:
                raise ValueError(f"{name} is neither true nor false")
            return value in _TRUE
    return None


def _secrets(text: str, url: URL) -> tuple[str, ...]:
    user_info = re.search(r"://(.*)@", text, re.DOTALL)
    password = user_info[1].partition(":")[2] if user_info else ""
    found = {password, unquote(password), str(url.password or "")}
    for name in _SECRET:
        value = url.query.get(name, ())
        found.update((value,) if isinstance(value, str) else value)
    found |= {quote(secret, safe="") for secret in found}
    return tuple(sorted(filter(None, found), key=len, reverse=True))


def _location(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return url.database or "memory"
    hosts = url.query.get("host", url.query.get("unix_socket", url.host or "localhost"))
    host = hosts if isinstance(hosts, str) else ",".join(hosts)
    port = f":{url.port}" if url.port else ""
    return f"{f'[{host}]' if ':' in host and port else host}{port}/{url.database or ''}"
