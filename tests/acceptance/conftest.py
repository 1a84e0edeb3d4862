# SPDX-License-Identifier: Apache-2.0
"""Clouds to test in, and the table of what was measured."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.cloud import Cloud, Host
from tests.acceptance.configuration import Site
from tests.acceptance.environment import Environment
from tests.acceptance.source import Source
from tests.acceptance.timings import TIMINGS
from tests.services import MariaDB, RabbitMQ, unique_name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--release", help="Glance to test beside, instead: oldest, 29, ... current")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kinds(*names): kinds of cloud, instead of both current")
    config.addinivalue_line("markers", "quick: also with the oldest supported Glance")
    config.addinivalue_line("markers", "soak: goes on for SOAK_SECONDS")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cloud" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("kinds")
    kinds = list(marker.args) if marker else ["current-multi", "current-single"]
    if metafunc.definition.get_closest_marker("quick"):
        kinds += ["oldest" + kind.removeprefix("current") for kind in kinds]
    if release := metafunc.config.getoption("--release", None):
        kinds = sorted({f"{release}-{kind.partition('-')[2]}" for kind in kinds})
    metafunc.parametrize("cloud", kinds, indirect=True, scope="session")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = list(TIMINGS.lines())
    if lines:
        terminalreporter.section("residue, milliseconds from the API's answer or its coming")
    for line in lines:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def source() -> Iterator[Source]:
    """Where web-download gets its data."""
    made = Source()
    yield made
    made.close()


@pytest.fixture(scope="session")
def new_site(
    tmp_path_factory: pytest.TempPathFactory,
    mariadb: MariaDB,
    rabbitmq: RabbitMQ,
    source: Source,
) -> "SiteMaker":
    """Makes sites with a database and a virtual host of their own."""
    return SiteMaker(tmp_path_factory, mariadb, rabbitmq, source)


class SiteMaker:
    """See `new_site`."""

    def __init__(
        self,
        directories: pytest.TempPathFactory,
        database: MariaDB,
        broker: RabbitMQ,
        source: Source,
    ) -> None:
        self._directories, self._database = directories, database
        self._broker, self._source = broker, source

    def __call__(self, name: str, *, multi_store: bool, sqlite: bool = False) -> tuple[Site, Path]:
        """A site, and the directory for its hosts."""
        directory = self._directories.mktemp(name)
        unique = unique_name("glance")
        url = f"sqlite:///{directory / 'glance.sqlite'}"
        if not sqlite:
            self._database.create_database(unique)
            url = self._database.url(unique)
        site = Site(
            shared=directory / "shared",
            multi_store=multi_store,
            database_url=url,
            transport_url=self._broker.url(vhost=self._broker.new_vhost()),
            source_port=self._source.port,
        )
        return site, directory


@pytest.fixture(scope="session")
def cloud(request: pytest.FixtureRequest, new_site: SiteMaker) -> Iterator[Cloud]:
    """Two hosts, each with a live image staged from the first to the last test.

    Named by release and stores; the oldest single-store one is on SQLite.
    """
    release, stores = request.param.split("-")
    site, directory = new_site(
        request.param, multi_store=stores == "multi", sqlite=request.param == "oldest-single"
    )
    made = Cloud(Environment(release), site, directory)
    try:
        made.add()
        made.add()
        made.sync_database()
        made.start()
        canaries = {host.directory.name: _canary(host) for host in made.hosts}
        yield made
        for host in made.hosts[:2]:
            _check_canary(host, canaries[host.directory.name])
            live = host.client.list()
            assert not [image for image in live if host.removed(image)]
    finally:
        made.close()


def _canary(host: Host) -> str:
    image = host.client.create()
    host.client.stage(image, image.encode() * 1000)
    return image


def _check_canary(host: Host, image: str) -> None:
    assert (host.staging / image).read_bytes() == image.encode() * 1000
    host.client.start_import(image, "glance-direct")
    host.client.wait_status(image, "active")
    assert host.client.download(image) == image.encode() * 1000


@pytest.fixture
def hosts(cloud: Cloud) -> list[Host]:
    """The cloud's first two hosts, both running, also after a test that stopped one."""
    for host in cloud.hosts[:2]:
        host.ensure_running()
    return cloud.hosts[:2]
