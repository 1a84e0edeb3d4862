# SPDX-License-Identifier: Apache-2.0
"""One way to sweep, in a process of its own: sweep.py SUBJECT CONFIG DATABASE DIRECTORY.

For each line on stdin (a file with the names of the residue) it sweeps once and answers with
the seconds that took.
"""

import importlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Sweep = Callable[[list[str]], None]
CHUNK = 1000  # ids in one statement


def watcher(config: str, _: str, __: str) -> Sweep:
    """Ours."""
    from watcher import conf
    from watcher.database.images import Images
    from watcher.service import new_cleaner, open_staging
    from watcher.stats import Stats

    loaded = conf.load(["--config-file", config])
    staging, images = open_staging(loaded), Images(conf.database_url(loaded))
    cleaner = new_cleaner(loaded, staging, images, Stats())
    images.check()

    def sweep(_: list[str]) -> None:
        with staging:
            deque(cleaner.sweep().steps(), maxlen=0)

    return sweep


def glance(config: str, _: str, __: str) -> Sweep:
    """Glance's own."""
    import glance.db
    from glance import housekeeping
    from glance.common import config as glance_config
    from oslo_config import cfg

    glance_config.set_config_defaults()
    cfg.CONF([], project="glance", prog="glance-api", default_config_files=[config])
    database = glance.db.get_api()
    cleaner = housekeeping.StagingStoreCleaner(database)
    cleaner.is_valid_image("00000000-0000-0000-0000-000000000000")
    return lambda _: cleaner.clean_orphaned_staging_residue()


def unlink(_: str, __: str, directory: str) -> Sweep:
    """The removals alone: the names are known, and in the best order."""

    def sweep(residue: list[str]) -> None:
        held = os.open(directory, os.O_RDONLY)
        for name in residue:
            os.unlink(name, dir_fd=held)
        os.close(held)

    return sweep


def tight(_: str, database: str, directory: str) -> Sweep:
    """Listing, questions to the database's bare driver, removals, and not one thing more."""
    connection, mark = _connect(database)
    cursor = connection.cursor()

    def deleted(ids: list[str]) -> Iterator[str]:
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            marks = ",".join([mark] * len(chunk))
            cursor.execute(f"SELECT id, deleted FROM images WHERE id IN ({marks})", chunk)
            yield from (row[0] for row in cursor.fetchall() if row[1])

    def sweep(_: list[str]) -> None:
        held = os.open(directory, os.O_RDONLY)
        with os.scandir(held) as entries:
            names = [name for _, name in sorted((entry.inode(), entry.name) for entry in entries)]
        gone = set(deleted(names))
        for name in names:
            if name in gone:
                os.unlink(name, dir_fd=held)
        os.close(held)
        connection.rollback()

    return sweep


def _connect(database: str) -> tuple[Any, str]:
    from sqlalchemy.engine import make_url

    url = make_url(database)
    if url.get_backend_name() == "sqlite":
        return importlib.import_module("sqlite3").connect(url.database), "?"
    arguments = {"host": url.host, "port": url.port, "user": url.username}
    if url.get_backend_name() == "mysql":
        pymysql = importlib.import_module("pymysql")
        return pymysql.connect(**arguments, password=url.password, database=url.database), "%s"
    psycopg = importlib.import_module("psycopg")
    return psycopg.connect(**arguments, password=url.password, dbname=url.database), "%s"


SUBJECTS = {"watcher": watcher, "glance": glance, "unlink": unlink, "tight": tight}


def main() -> None:
    """Serve until the end of stdin."""
    subject, config, database, directory = sys.argv[1:]
    sweep = SUBJECTS[subject](config, database, directory)
    print("ready", flush=True)
    for line in sys.stdin:
        residue = Path(line.strip()).read_text().split()
        if subject == "unlink":
            residue.sort(key=lambda name: os.lstat(os.path.join(directory, name)).st_ino)
        started = time.perf_counter()
        sweep(residue)
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
