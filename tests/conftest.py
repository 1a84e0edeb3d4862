# SPDX-License-Identifier: Apache-2.0
"""The services which tests share; each is started when the first test wants it.

Beside other pytest-xdist workers each worker has servers of its own, since tests stop, kill and
pause them.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests.services import Database, Images, MariaDB, PostgreSQL, RabbitMQ, Server, unique_name
from tests.services.replicas import Pair
from tests.services.requirements import unavailable

S = TypeVar("S", bound=Server | Pair[Any])

SERVERS = ("rabbitmq", "mariadb", "postgresql")
LARGE_TIMEOUT = 1200.0  # seconds

# A busy machine is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need a server, and give large ones more time."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        used = {*getattr(item, "fixturenames", ()), params.get("database_url")}
        if used.intersection(SERVERS):
            item.add_marker("server")
        if item.get_closest_marker("large") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LARGE_TIMEOUT))


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


@pytest.fixture
def own_rabbitmq() -> Iterator[RabbitMQ]:
    """A broker that may be killed, unlike the one of all tests."""
    yield from running(RabbitMQ)


@pytest.fixture
def own_mariadb() -> Iterator[MariaDB]:
    """A server that may be killed, unlike the one of all tests."""
    yield from running(MariaDB)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an empty SQLite database.

    A module to which the kind of database makes no difference says ``database_url = sqlite_url``.
    """
    return f"sqlite:///{tmp_path / 'glance.sqlite'}"


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def database_url(request: pytest.FixtureRequest, sqlite_url: str) -> str:
    """The URL of an empty database, on each kind of database in turn."""
    if request.param == "sqlite":
        return sqlite_url
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Database)
    name = unique_name("glance")
    server.create_database(name)
    return server.url(name)


def on(*kinds: str) -> pytest.MarkDecorator:
    """Has a test run on some kinds of database only."""
    return pytest.mark.parametrize("database_url", kinds, indirect=True)


def name_of(database_url: str) -> str:
    """The name of a server's database."""
    return database_url.rpartition("/")[2]


@pytest.fixture
def database_server(request: pytest.FixtureRequest, database_url: str) -> Database:
    """The server of the database at ``database_url``."""
    server = request.getfixturevalue(
        "mariadb" if database_url.startswith("mysql") else "postgresql"
    )
    assert isinstance(server, Database)
    return server


@pytest.fixture
def images(database_url: str) -> Iterator[Images]:
    """Glance's table of images, empty, in the database at ``database_url``."""
    table = Images(database_url)
    table.create_table()
    yield table
    table.close()


def running(service: type[S]) -> Iterator[S]:
    """Yield a running server, or two; without its programs fail in CI and skip elsewhere."""
    if reason := service.missing():
        unavailable(reason)
    with tempfile.TemporaryDirectory(prefix="services-", ignore_cleanup_errors=True) as directory:
        server = service(Path(directory))
        try:
            server.start()
            yield server
        finally:
            server.stop()
