# SPDX-License-Identifier: Apache-2.0
"""The state of the staging directory at a glance; nothing is changed."""

import os
from contextlib import ExitStack, closing
from typing import NamedTuple

from oslo_config import cfg
from sqlalchemy.engine import make_url

from watcher.cli.inventory import ACTIONS, ERROR, REMOVE, Totals
from watcher.cli.jsonlines import entry_fields, say_json, totals_fields
from watcher.cli.listing import list_entries
from watcher.cli.table import human_age, human_size, one_word, say_totals
from watcher.cli.terminal import say
from watcher.conf import database_url
from watcher.database.images import Images
from watcher.errors import ConfigError, DatabaseError
from watcher.service import new_cleaner, open_staging
from watcher.staging.directory import Staging
from watcher.staging.mounts import mount_type
from watcher.stats import Stats

MAX_LISTED = 20  # files at a glance


class FileSystem(NamedTuple):
    """Where the staging directory lies.

    :param type: as the kernel calls it
    :param size: bytes
    :param free: bytes that users may still write
    """

    type: str
    size: int
    free: int


class Database(NamedTuple):
    """Glance's database, without secrets.

    :param host: of an SQLite database its file
    :param error: why it can't be asked
    """

    kind: str
    host: str
    error: str | None


def run(conf: cfg.ConfigOpts, *, every: bool, as_json: bool) -> int:
    """Say how things are; 0, or 1 when there is residue.

    :param every: list all files, not only residue; a table then has no limit
    :raises ConfigError: the configuration or the directory can't be used
    :raises DatabaseError: the database can't answer
    """
    staging = open_staging(conf)
    with closing(Images(database_url(conf))) as images, ExitStack() as opened:
        try:
            opened.enter_context(staging)
            system = _file_system(staging)
        except FileNotFoundError:
            system = None
        refusal = _refusal(images)
        database = Database(
            images.backend, _host(database_url(conf)), None if refusal is None else str(refusal)
        )
        if not as_json:
            _say_head(staging, system, database)
        if refusal is not None:
            if as_json:
                _say_status(staging, system, database, None)
            raise refusal
        totals = Totals()
        if system is not None:
            totals = list_entries(
                staging,
                new_cleaner(conf, staging, images, Stats()),
                as_json=as_json,
                actions=ACTIONS if every else (ERROR, REMOVE),
                most=None if every else MAX_LISTED,
            )
        if as_json:
            _say_status(staging, system, database, totals)
        else:
            _say_end(totals)
    return 1 if totals.residue else 0


def _refusal(images: Images) -> DatabaseError | None:
    try:
        images.check()
    except DatabaseError as error:
        return error
    return None


def _host(url: str) -> str:
    parsed = make_url(url)
    file = parsed.database if parsed.get_backend_name() == "sqlite" else None
    return parsed.host or file or "localhost"


def _file_system(staging: Staging) -> FileSystem:
    try:
        numbers = os.fstatvfs(staging.descriptor)
        kind = mount_type(staging.descriptor)
    except OSError as error:
        raise ConfigError(f"Cannot look at the file system: {error}") from None
    unit = numbers.f_frsize
    return FileSystem(kind, numbers.f_blocks * unit, numbers.f_bavail * unit)


def _say_head(staging: Staging, system: FileSystem | None, database: Database) -> None:
    say(f"Staging directory  {one_word(staging.path)}")
    if system is None:
        say("File system        none: Glance has not made the directory yet")
    else:
        free, size = human_size(system.free), human_size(system.size)
        say(f"File system        {system.type}, {free} free of {size}")
    reached = "cannot be asked" if database.error else "reachable"
    say(f"Database           {database.kind} at {one_word(database.host)}, {reached}\n")


def _say_end(totals: Totals) -> None:
    if totals.files:
        say_totals(totals)
    if totals.oldest is not None and totals.oldest.age is not None:
        age, name = human_age(totals.oldest.age), one_word(totals.oldest.name)
        say(f"Oldest residue     {age}, {name}")
    if totals.unwitnessed:
        say(
            f"Kept               {totals.unwitnessed} files: no image file here has a row; is "
            " [database] connection this Glance's database?"
        )
    if not totals.residue:
        say("Nothing to remove")


def _say_status(
    staging: Staging, system: FileSystem | None, database: Database, totals: Totals | None
) -> None:
    say_json(
        "status",
        {
            "directory": staging.path,
            "file_system": system and system._asdict(),
            "database": database._asdict(),
            "actions": totals and totals_fields(totals),
            "oldest": totals and totals.oldest and entry_fields(totals.oldest),
        },
    )
