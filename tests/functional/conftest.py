# SPDX-License-Identifier: Apache-2.0
"""Hosts for functional tests."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.functional.host import GlanceNotifier, Host
from tests.functional.program import Program
from tests.services import Images, RabbitMQ

TOGETHER = 10  # hosts that end at once; more would take the processor from each other


def close_together(hosts: Sequence[Host]) -> None:
    """Close all, also where the checks of some fail."""
    with contextlib.ExitStack() as rest:
        if hosts[TOGETHER:]:
            rest.callback(close_together, hosts[TOGETHER:])
        for host in hosts[:TOGETHER]:
            rest.callback(host.close)
            host.ask_to_end()


@pytest.fixture
def new_host(
    tmp_path_factory: pytest.TempPathFactory, database_url: str, images: Images
) -> Iterator[Callable[..., Host]]:
    """Makes hosts with one database; all they started ends with the test, and is checked."""
    hosts: list[Host] = []

    def make(**options: object) -> Host:
        directory = tmp_path_factory.mktemp("host")
        hosts.append(Host(directory, images, database_url=database_url, **options))
        return hosts[-1]

    yield make
    close_together(hosts)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts execute the program: what it costs is that of the installed one."""
    monkeypatch.setattr(Host, "program", Program)


@pytest.fixture
def host(new_host: Callable[..., Host]) -> Host:
    """A host without a message bus."""
    return new_host()


@pytest.fixture
def bus_host(new_host: Callable[..., Host], rabbitmq: RabbitMQ) -> Host:
    """A host with a message bus."""
    return new_host(transport_url=rabbitmq.url())


@pytest.fixture
def notifier(rabbitmq: RabbitMQ) -> Iterator[GlanceNotifier]:
    """Glance's side of the bus."""
    made = GlanceNotifier(rabbitmq.url())
    yield made
    made.close()
