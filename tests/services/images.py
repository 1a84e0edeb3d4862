# SPDX-License-Identifier: Apache-2.0
"""The test's side of Glance's database: it writes what Glance would."""

from collections.abc import Iterator
from datetime import datetime, timezone

import sqlalchemy as sa

CHUNK = 500  # ids in one statement

_metadata = sa.MetaData()

images = sa.Table(
    "images",
    _metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(255)),
    sa.Column("disk_format", sa.String(20)),
    sa.Column("container_format", sa.String(20)),
    sa.Column("size", sa.BigInteger),
    sa.Column("virtual_size", sa.BigInteger),
    sa.Column("status", sa.String(30), nullable=False),
    sa.Column(
        "visibility",
        sa.Enum("private", "public", "shared", "community", name="image_visibility"),
        nullable=False,
        server_default="shared",
    ),
    sa.Column("checksum", sa.String(32)),
    sa.Column("os_hash_algo", sa.String(64)),
    sa.Column("os_hash_value", sa.String(128)),
    sa.Column("min_disk", sa.Integer, nullable=False, default=0),
    sa.Column("min_ram", sa.Integer, nullable=False, default=0),
    sa.Column("owner", sa.String(255)),
    sa.Column("protected", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("os_hidden", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("updated_at", sa.DateTime),
    sa.Column("deleted_at", sa.DateTime),
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Index("ix_images_deleted", "deleted"),
)


class Images:
    """The table of images in the database at an SQLAlchemy ``url``."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url)

    def create_table(self) -> None:
        """Create the table as Glance does."""
        _metadata.create_all(self._engine)

    def insert(self, *ids: str, deleted: bool = False, status: str = "queued") -> None:
        """Add images."""
        now = _now()
        common = {"status": status, "deleted": deleted, "created_at": now, "updated_at": now}
        with self._engine.begin() as connection:
            for chunk in _chunks(ids):
                connection.execute(sa.insert(images), [{"id": image} | common for image in chunk])

    def delete(self, *ids: str) -> None:
        """Mark images as deleted, as Glance does when one deletes them."""
        values = {"deleted": True, "status": "deleted", "deleted_at": _now()}
        with self._engine.begin() as connection:
            for chunk in _chunks(ids):
                connection.execute(sa.update(images).where(images.c.id.in_(chunk)).values(values))

    def purge(self, *ids: str) -> None:
        """Remove the rows of images, as ``glance-manage db purge`` does."""
        with self._engine.begin() as connection:
            for chunk in _chunks(ids):
                connection.execute(sa.delete(images).where(images.c.id.in_(chunk)))

    def clear(self) -> None:
        """Remove all rows."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(images))

    def close(self) -> None:
        """Close all connections to the database."""
        self._engine.dispose()


def _chunks(ids: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))


def _now() -> datetime:
    """Return the time as Glance writes it: in UTC, without saying so."""
    return datetime.now(timezone.utc).replace(tzinfo=None)
