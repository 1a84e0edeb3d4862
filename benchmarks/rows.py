# SPDX-License-Identifier: Apache-2.0
"""Fills Glance's images table with many rows, fast."""

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

COLUMNS = (
    "id, status, visibility, min_disk, min_ram, protected, os_hidden, created_at, updated_at, "
    "deleted"
)
NOW = "2026-01-01 00:00:00"
UUID = "concat_ws('-', {0}(h,1,8), {0}(h,9,4), {0}(h,13,4), {0}(h,17,4), {0}(h,21,12))"
SELECT = "SELECT {id}, 'active', 'shared', 0, 0, {no}, {no}, '{now}', '{now}', {odd} FROM "


def fill(url: str, rows: int, start: int = 0) -> None:
    """Add images, every other one deleted, with ids in no order, and have the table analyzed.

    :param start: number of rows that were filled in before
    """
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    backend = engine.dialect.name
    if backend == "sqlite":
        _fill_sqlite(str(engine.url.database), start, rows)
        return
    first, last = start + 1, start + rows
    values = {"id": UUID.format("substr"), "now": NOW}
    if backend == "postgresql":
        select = SELECT.format(**values, no="false", odd="mod(n, 2) = 1")
        numbers = f"generate_series({first}, {last}) AS n"
        source = f"(SELECT n, md5(n::text) AS h FROM {numbers}) AS source"
    else:
        select = SELECT.format(**values, no="0", odd="mod(n, 2)")
        numbers = f"(SELECT seq AS n, md5(seq) AS h FROM seq_{first}_to_{last})"
        source = f"{numbers} AS source ORDER BY h"
    with engine.connect() as connection:
        # time stamps are written as text, which PostgreSQL takes for a literal only in VALUES
        select = select.replace(f"'{NOW}'", f"timestamp '{NOW}'")
        connection.exec_driver_sql(f"INSERT INTO images ({COLUMNS}) {select} {source}")
        analyze = "VACUUM ANALYZE images" if backend == "postgresql" else "ANALYZE TABLE images"
        connection.exec_driver_sql(analyze)


def some(url: str, count: int, *, deleted: bool) -> list[str]:
    """Ids of that many images of the table."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    images = sa.table("images", sa.column("id"), sa.column("deleted", sa.Boolean))
    wanted = sa.select(images.c.id).where(images.c.deleted == deleted).limit(count)
    with engine.connect() as connection:
        return list(connection.scalars(wanted))


def _fill_sqlite(path: str, start: int, rows: int) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA cache_size = -400000")
        connection.executemany(
            f"INSERT INTO images ({COLUMNS}) VALUES (?, 'active', 'shared', 0, 0, 0, 0, ?, ?, ?)",
            _rows(start, start + rows),
        )
    connection.close()


def _rows(start: int, end: int) -> Iterator[Sequence[object]]:
    ids = sorted((hashlib.md5(str(n).encode()).hexdigest(), n % 2) for n in range(start, end))
    for h, odd in ids:
        yield f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}", NOW, NOW, odd
