# SPDX-License-Identifier: Apache-2.0
"""The services which tests share; each is started when the first test wants it."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.services import Database, Images, MariaDB, PostgreSQL, RabbitMQ, Server

S = TypeVar("S", bound=Server)

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A running broker, one for all tests."""
    yield from running(RabbitMQ)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A running MariaDB server, one for all tests."""
    yield from running(MariaDB)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A running PostgreSQL server, one for all tests."""
    yield from running(PostgreSQL)


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, on each kind of database in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'glance.sqlite'}"
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Database)
    name = f"glance_{next(_numbers)}"
    server.create_database(name)
    return server.url(name)


@pytest.fixture
def images(database_url: str) -> Iterator[Images]:
    """Glance's table of images, empty, in the database at ``database_url``."""
    table = Images(database_url)
    table.create_table()
    yield table
    table.close()


def running(service: type[S]) -> Iterator[S]:
    """Yield a running server; without its programs fail in CI and skip elsewhere."""
    if reason := service.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with tempfile.TemporaryDirectory(prefix="services-", ignore_cleanup_errors=True) as directory:
        server = service(Path(directory))
        try:
            server.start()
            yield server
        finally:
            server.stop()
