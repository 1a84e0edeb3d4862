# SPDX-License-Identifier: Apache-2.0
"""The state of the staging directory at a glance; nothing is changed."""

import os
import time
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

from oslo_config import cfg
from sqlalchemy.engine import make_url

from watcher.cli.inventory import ACTIONS, ERROR, REMOVE, Totals
from watcher.cli.jsonlines import entry_fields, kinds_fields, say_json, totals_fields
from watcher.cli.listing import list_entries
from watcher.cli.table import one_word, say_totals
from watcher.cli.terminal import printable, say, wrapped
from watcher.conf import GROUP, database_url
from watcher.database.images import Images
from watcher.errors import ConfigError, DatabaseError
from watcher.service import new_cleaner, open_staging
from watcher.staging.directory import Staging
from watcher.staging.mounts import mount_type
from watcher.stats import Stats
from watcher.telemetry.status_file import RUNNING, STOPPED, UNKNOWN, ServiceState, read
from watcher.units import counted, human_age, human_size

MAX_LISTED = 20  # files at a glance
LABEL = 19  # columns


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
        service = _service(conf, staging)
        if not as_json:
            _say_head(service, staging, system, database)
        if refusal is not None:
            if as_json:
                _say_status(service, staging, system, database, None)
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
            _say_status(service, staging, system, database, totals)
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


def _service(conf: cfg.ConfigOpts, staging: Staging) -> ServiceState:
    path = conf[GROUP].status_file
    if not path:
        return ServiceState(UNKNOWN, "[staging_watcher] status_file is empty", None)
    service = read(path)
    if service.report is not None and service.report.get("directory") != staging.path:
        return ServiceState(UNKNOWN, f"{path} is of a service for another directory", None)
    return service


def _say_head(
    service: ServiceState, staging: Staging, system: FileSystem | None, database: Database
) -> None:
    _say_service(service)
    _say_line("Staging directory", one_word(staging.path))
    if system is None:
        _say_line("File system", "none: Glance has not made the directory yet")
    else:
        free, size = human_size(system.free), human_size(system.size)
        _say_line("File system", f"{system.type}, {free} free of {size}")
    reached = "cannot be asked" if database.error else "reachable"
    _say_line("Database", f"{database.kind} at {one_word(database.host)}, {reached}")
    say("")


def _say_service(service: ServiceState) -> None:
    found, now = service.report, time.time()
    if service.state == UNKNOWN:
        _say_line("Service", f"unknown: {service.cause}")
    elif found is None:
        _say_line("Service", "starting" if service.state == RUNNING else "not running")
    elif service.state == STOPPED:
        _say_line("Service", f"not running: process {found['pid']} ended without a stop")
    else:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found["started"]))
        age = human_age(now - found["started"])
        _say_line("Service", f"running since {since} ({age}), process {found['pid']}")
    if found is not None:
        _say_past(found, now)
        if service.state == RUNNING:
            _say_present(found)


def _say_past(found: dict[str, Any], now: float) -> None:
    last = found["last_sweep"]
    if last is None:
        _say_line("Last sweep", "none yet")
    else:
        _say_line(
            "Last sweep",
            f"{human_age(now - last['ended'])} ago, in {last['duration']:.1f} s: "
            f"{counted(last['removed'], 'file')} removed, {human_size(last['size'])}; "
            f"{counted(last['kept'], 'file')} kept; {counted(last['errors'], 'error')}",
        )
    removals = found["last_removals"]
    for place, each in enumerate(removals):
        age = f"{human_age(now - each['time'])} ago"
        text = f"{age:>7}  {human_size(each['size']):>9}  {one_word(each['name'])}"
        _say_line("" if place else "Last removals", text, indent=7 + 2 + 9 + 2)
    if not removals:
        _say_line("Last removals", "none since the start")


def _say_present(found: dict[str, Any]) -> None:
    queue = found["queue"]
    _say_line("Queue", f"{queue['due']} due, {queue['delayed']} delayed")
    failing = {name: cause for name, cause in found["conditions"].items() if cause is not None}
    for place, (name, cause) in enumerate(failing.items()):
        _say_line("" if place else "Failing", f"{name}: {printable(cause)}")
    if not failing:
        _say_line("Failing", "nothing")


def _say_line(label: str, text: str, indent: int = 0) -> None:
    say(f"{label:<{LABEL}}{wrapped(text, LABEL + indent)}")


def _say_end(totals: Totals) -> None:
    if totals.files:
        say_totals(totals)
    if totals.oldest is not None and totals.oldest.age is not None:
        age, name = human_age(totals.oldest.age), one_word(totals.oldest.name)
        _say_line("Oldest residue", f"{age}, {name}")
    if totals.unwitnessed:
        _say_line(
            "Kept",
            f"{counted(totals.unwitnessed, 'file')}: no image file here has a row; is [database] "
            "connection this Glance's database?",
        )
    if not totals.residue:
        say("Nothing to remove")


def _say_status(
    service: ServiceState,
    staging: Staging,
    system: FileSystem | None,
    database: Database,
    totals: Totals | None,
) -> None:
    say_json(
        "status",
        {
            "service": {
                "state": service.state,
                "cause": service.cause,
                "report": service.report,
            },
            "directory": staging.path,
            "file_system": system and system._asdict(),
            "database": database._asdict(),
            "actions": totals and totals_fields(totals),
            "kinds": totals and kinds_fields(totals.kinds.values()),
            "oldest": totals and totals.oldest and entry_fields(totals.oldest),
        },
    )
