# SPDX-License-Identifier: Apache-2.0
"""Checks of Glance's database: does it answer, is it the right one, what else may its user do."""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import methodcaller
from typing import Any, NamedTuple

from oslo_config import cfg

from watcher.checks.result import Check, Result
from watcher.conf import database_url, staging_path
from watcher.config_files import OWN_DIRECTORY
from watcher.database.images import Images, ImageState
from watcher.database.server import Server
from watcher.database.url import target
from watcher.errors import ConfigError, DatabaseError
from watcher.staging.names import image_id
from watcher.units import counted

MAX_STAGED = 1000  # images that are asked for
MAX_COUNTED = 10_000  # rows that are counted; a large table would take minutes

_KNOWN = (ImageState.LIVE, ImageState.DELETED)
_NO_IMAGE = "00000000-0000-0000-0000-000000000000"
_COUNT = f"SELECT count(*) FROM (SELECT images.id FROM images LIMIT {MAX_COUNTED + 1}) AS found"  # noqa: S608
_POSTGRESQL_WRITE = (
    "SELECT has_table_privilege('images', 'INSERT, UPDATE, DELETE, TRUNCATE')"
    " OR has_any_column_privilege('images', 'INSERT, UPDATE')"
)

_GRANT = re.compile(
    r"GRANT (?P<privileges>.+?) ON (?P<database>{name})\.(?P<table>{name}) TO ".format(
        name=r'(?:\*|`(?:[^`]|``)+`|"(?:[^"]|"")+")'
    )
)
_WRITING = {"ALL", "ALL PRIVILEGES", "INSERT", "UPDATE", "DELETE", "DROP", "ALTER"}


class ServerFacts(NamedTuple):
    """What a server's answers are worth.

    :param backend: mysql, mariadb, postgresql or sqlite
    :param replica: it takes no writes, and may lag behind the one that does
    :param galera: it is a node of a Galera cluster
    :param causal: it lets one SELECT wait until it has caught up with its cluster
    :param isolation: the level at which the watcher's queries read
    """

    backend: str
    replica: bool = False
    galera: bool = False
    causal: bool = False
    isolation: str = ""


class Privileges(NamedTuple):
    """What the user of ``[database] connection`` may do.

    :param backend: mysql, mariadb, postgresql or sqlite
    :param database: its name, or the file of SQLite
    :param may_write: to the images table
    """

    backend: str
    database: str
    may_write: bool


def checks(conf: cfg.ConfigOpts) -> Iterator[Check]:
    """Ask the database; nothing in it is changed."""
    try:
        probe = _Probe(database_url(conf))
    except ConfigError as error:
        yield Check(
            "database", Result.FAILURE, str(error), "correct [database] connection in the file"
        )
        return
    try:
        probe.states([_NO_IMAGE])
        found, count, held = probe.server(), probe.count(), probe.privileges()
        staged = staged_images(conf)
        known = sum(state in _KNOWN for state in probe.states(staged).values())
    except DatabaseError as error:
        yield Check(
            "database",
            Result.FAILURE,
            str(error),
            "see that the server runs, that [database] connection is that of this Glance, and "
            "that its user may SELECT on images",
        )
        return
    finally:
        probe.close()
    yield server(found)
    yield rows(count)
    yield witness(known, len(staged))
    yield privileges(held)


def staged_images(conf: cfg.ConfigOpts) -> set[str]:
    """Ids of images that have files in the staging directory, at most `MAX_STAGED` of them; none
    where it can't be read, of which another check says why."""
    try:
        names = os.listdir(staging_path(conf))
    except (ConfigError, OSError):
        return set()
    return set(islice(filter(None, map(image_id, names)), MAX_STAGED))


def witness(known: int, staged: int) -> Check:
    """Whether this is the database of the Glance that stages files here.

    :param known: images of those staged that have a row
    """
    if staged and not known:
        return Check(
            "witness",
            Result.WARNING,
            f"none of {staged} image files has a row: files without a row are kept",
            "compare [database] connection with glance-api's: is it this Glance's database? If so: "
            "glance-staging-watcher sweep --trust-database",
        )
    if not staged:
        return Check("witness", Result.OK, "no image file here to compare with the database")
    return Check("witness", Result.OK, f"{known} of {counted(staged, 'image file')} with a row")


def server(found: ServerFacts) -> Check:
    """Whether the server knows of each image as soon as Glance does."""
    if found.replica:
        return Check(
            "database",
            Result.WARNING,
            f"{found.backend} answers, a read-only replica: no file without a row is removed, and "
            "those of deleted images later by as much as it lags",
            "name the server that Glance writes to in [database] connection",
        )
    if found.galera and not found.causal:
        return Check(
            "database",
            Result.WARNING,
            f"{found.backend} answers, a Galera node that can't let one SELECT wait until it has "
            "caught up",
            "set [staging_watcher] absent_grace to more seconds than the node may ever lag",
        )
    what = ", a Galera node," * found.galera
    level = f", at isolation level {found.isolation}" * bool(found.isolation)
    return Check(
        "database", Result.OK, f"{found.backend}{what} answers what the watcher asks{level}"
    )


def rows(count: int) -> Check:
    """Whether the table looks like that of a Glance in use.

    :param count: at most one more than `MAX_COUNTED`
    """
    if not count:
        return Check(
            "images",
            Result.WARNING,
            "the images table has no row at all: no file without a row is removed",
            "nothing, if this cloud is new; else correct [database] connection, it is another one",
        )
    number = f"more than {MAX_COUNTED:,}" if count > MAX_COUNTED else f"{count:,}"
    return Check("images", Result.OK, f"{number} row{'s' * (count > 1)} in the images table")


def privileges(held: Privileges) -> Check:
    """Whether the user may do more than it needs; that of Glance itself does, and that is fine."""
    if not held.may_write:
        return Check("privileges", Result.OK, "its user can only read images")
    if held.backend == "sqlite":
        return Check("privileges", Result.OK, "its file is writable; the watcher only reads")
    if held.backend == "postgresql":
        grant = "GRANT SELECT (id, deleted, status) ON images TO staging_watcher"
    else:
        name = held.database.replace("`", "``")
        grant = f"GRANT SELECT (id, deleted, status) ON `{name}`.`images` TO 'staging_watcher'@'%'"
    return Check(
        "privileges",
        Result.OK,
        "its user can also write, as Glance's does; the watcher only reads",
        f"to give it less: {grant}; and [database] connection with that user in the watcher's "
        f"own file in {OWN_DIRECTORY}",
    )


def may_write(grants: Iterable[str], database: str) -> bool:
    """Whether MySQL's or MariaDB's ``SHOW GRANTS`` let a user write to a database's images."""
    for grant in grants:
        found = _GRANT.match(grant)
        if found is None or not (
            _matches(found["database"], database, wild=found["table"] == "*")
            and _matches(found["table"], "images")
        ):
            continue
        listed = re.sub(r" ?\([^)]*\)", "", found["privileges"]).upper().split(", ")
        if _WRITING & set(listed):
            return True
    return False


def _matches(quoted: str, name: str, *, wild: bool = False) -> bool:
    if quoted == "*":
        return True
    mark = quoted[0]
    text = quoted[1:-1].replace(mark * 2, mark)
    pattern = re.escape(text)
    if wild:  # a grant on a whole database names it as LIKE does
        parts = re.findall(r"\\[_%\\]|.", text, re.DOTALL)
        likes = {"_": ".", "%": ".*"}
        pattern = "".join(likes.get(part) or re.escape(part[-1]) for part in parts)
    return re.fullmatch(pattern, name, re.DOTALL | re.IGNORECASE) is not None


class _Probe(Images):
    """The watcher's own way to the database, with a few more questions."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._database = target(url).database

    def server(self) -> ServerFacts:
        """What its answers are worth."""
        replica, isolation = self._execute(_worth)
        galera = self._execute(methodcaller("in_galera"))
        waits = galera and self._execute(methodcaller("can_wait"))
        return ServerFacts(self.backend, replica, galera, waits, isolation)

    def count(self) -> int:
        """Rows of the table, up to one more than `MAX_COUNTED`."""
        return int(self._first(_COUNT))

    def privileges(self) -> Privileges:
        """What the user may do."""
        if self.backend == "sqlite":
            allowed = os.access(self._database, os.W_OK)
        elif self.backend == "postgresql":
            allowed = bool(self._first(_POSTGRESQL_WRITE))
        else:
            rows = self._execute(methodcaller("ask", "SHOW GRANTS"))
            allowed = may_write([row[0] for row in rows], self._database)
        return Privileges(self.backend, self._database, allowed)

    def _first(self, sql: str) -> Any:
        return self._execute(methodcaller("ask", sql))[0][0]


def _worth(connection: Server) -> tuple[bool, str]:
    ((replica, isolation),) = connection.ask(f"SELECT {connection.replica}, {connection.isolation}")
    return replica not in (0, "0", False), str(isolation).upper().replace("-", " ")
