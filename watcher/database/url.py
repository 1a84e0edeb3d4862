# SPDX-License-Identifier: Apache-2.0
"""``[database] connection``, made ready for this process: a driver, and limits on time."""

import importlib.util
import os
from typing import Any
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from watcher.errors import ConfigError

CONNECT_TIMEOUT = 10  # seconds
# Seconds; an answer by primary key takes milliseconds, the second read of a million rows a few
# seconds. The server gives up first, lest a query that waits there for a lock outlive its client.
LOCK_TIMEOUT = 5
QUERY_TIMEOUT = 10
READ_TIMEOUT = 12

# MariaDB and MySQL know different names for the second limit; each skips the other's comment.
_MYSQL_LIMITS = (
    f"SET SESSION lock_wait_timeout = {LOCK_TIMEOUT}"
    f" /*M!100101 , max_statement_time = {QUERY_TIMEOUT} */"
    f" /*!50708 , max_execution_time = {QUERY_TIMEOUT * 1000} */"
)
_POSTGRESQL_LIMITS = (
    f"-c lock_timeout={LOCK_TIMEOUT * 1000} -c statement_timeout={QUERY_TIMEOUT * 1000}"
)

# The drivers that our extras bring, for a URL whose own driver isn't installed here, or isn't one
# of those that take our time limits and tell of a lost connection.
_DRIVERS = {"mysql": "pymysql", "mariadb": "pymysql", "postgresql": "psycopg", "sqlite": "pysqlite"}
_MODULES = {
    "pymysql": "pymysql",
    "mysqldb": "MySQLdb",
    "psycopg": "psycopg",
    "psycopg2": "psycopg2",
    "pysqlite": "sqlite3",
}


def usable_url(url: str) -> URL:
    """The URL of Glance's file, made ready for this process.

    A driver that isn't installed gives way to the one of our extras, SQLite is kept from making
    an empty database where none is, and SQLAlchemy plugins (profilers) are dropped.

    :raises ConfigError: it can't be parsed, or no driver for it is installed
    """
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
            f"[database] connection has the unknown scheme {backend!r}; "
            "expected mysql, postgresql or sqlite"
        )
    driver = parsed.drivername.partition("+")[2]
    if not driver or not _installed(driver):
        driver = _DRIVERS[backend]
    if not _installed(driver):
        extra = "postgresql" if backend == "postgresql" else "mysql"
        raise ConfigError(
            f"No database driver for {backend} is installed; "
            f"pip install glance-staging-watcher[{extra}]"
        )
    parsed = parsed.set(drivername=f"{backend}+{driver}").difference_update_query(["plugin"])
    if backend == "sqlite" and parsed.database and not parsed.database.startswith("file:"):
        path = quote(os.path.abspath(parsed.database))
        parsed = parsed.set(database=f"file:{path}")
        parsed = parsed.update_query_dict({"mode": "rw", "uri": "true"})
    return parsed


def _installed(driver: str) -> bool:
    return driver in _MODULES and importlib.util.find_spec(_MODULES[driver]) is not None


def connect_args(url: URL) -> dict[str, Any]:
    """Time limits, as the driver spells them; what the URL sets itself stays."""
    if url.get_backend_name() in ("mysql", "mariadb"):
        limits: dict[str, Any] = {
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": READ_TIMEOUT,
            "write_timeout": READ_TIMEOUT,
            "init_command": _MYSQL_LIMITS,
        }
    elif url.get_backend_name() == "postgresql":
        limits = {
            "connect_timeout": CONNECT_TIMEOUT,
            "tcp_user_timeout": READ_TIMEOUT * 1000,
            "options": _POSTGRESQL_LIMITS,
        }
    else:
        limits = {"timeout": CONNECT_TIMEOUT}
    return {name: value for name, value in limits.items() if name not in url.query}
