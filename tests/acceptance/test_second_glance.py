# SPDX-License-Identifier: Apache-2.0
"""Images that Glance downloads from a second Glance (``glance-download``)."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.acceptance import payload
from tests.acceptance.client import Client
from tests.acceptance.cloud import Cloud, Host, deleted
from tests.acceptance.conftest import SiteMaker
from tests.acceptance.environment import Environment
from tests.acceptance.source import Front, Source
from tests.acceptance.test_imports import check_active


@dataclass(frozen=True)
class Second:
    """Another Glance, with an active image.

    :param url: where the first Glance finds it
    """

    client: Client
    front: Front
    url: str
    image: str
    data: bytes

    def start_import(self, host: Host, **more: object) -> str:
        """Start the download of its image; the id of the new one."""
        image = host.client.create()
        host.client.import_from(self.url, self.image, image, **more)
        return image


@pytest.fixture(scope="module")
def second(new_site: SiteMaker, source: Source) -> Iterator[Second]:
    """A second Glance with a database and stores of its own."""
    site, directory = new_site("second", multi_store=False)
    elsewhere = Cloud(Environment("current"), site, directory)
    try:
        host = elsewhere.add()
        elsewhere.sync_database()
        host.api.start()
        host.api.wait_ready()
        data = payload.raw()
        image = host.client.create()
        host.client.stage(image, data)
        host.client.start_import(image, "glance-direct")
        host.client.wait_status(image, "active")
        front, url = source.stand_before(host.api.url)
        yield Second(host.client, front, url, image, data)
    finally:
        elsewhere.close()


@pytest.mark.quick
def test_a_live_import(cloud: Cloud, hosts: list[Host], second: Second) -> None:
    host = hosts[0]
    download = second.front.expect(hold=len(second.data) // 2)
    image = second.start_import(host)
    download.wait_held()
    host.witness.wait_came(image)
    download.release()
    check_active(cloud, host, image, second.data)


@pytest.mark.kinds("current-multi")
def test_a_live_import_to_two_stores(cloud: Cloud, hosts: list[Host], second: Second) -> None:
    host = hosts[0]
    image = second.start_import(host, stores=["fast", "cheap"])
    host.client.wait_status(image, "active")
    host.wait_unlocked(image)
    assert [path.read_bytes() for path in cloud.stored(image)] == [second.data] * 2
    check_active(cloud, host, image, second.data)


@pytest.mark.parametrize("server", ["here", "there"])
def test_deleted_before_the_first_byte(hosts: list[Host], second: Second, server: str) -> None:
    here = hosts[0]
    download = second.front.expect(hold=-1)
    image = second.start_import(here)
    download.wait_held()
    assert here.witness.came(image) is None
    answered = deleted(hosts[server == "there"].client, image)
    download.release()
    here.wait_gone("glance-download before its first byte", image, answered, image)


def test_deleted_elsewhere_when_half_done(hosts: list[Host], second: Second) -> None:
    here, there = hosts
    download = second.front.expect(hold=len(second.data) // 2)
    image = second.start_import(here)
    download.wait_held()
    here.witness.wait_came(image)
    answered = deleted(there.client, image)
    here.wait_gone("glance-download half done; deleted by another host", image, answered, image)
    download.release()
    here.wait_task_end(image)
    here.wait_empty(image)


def test_broken_off(hosts: list[Host], second: Second) -> None:
    host = hosts[0]
    second.front.expect(abort=len(second.data) // 2)
    image = second.start_import(host)
    host.witness.wait_came(image)
    host.client.wait_status(image, "queued")
    host.wait_task_end(image)
    host.wait_empty(image)
    assert not host.removed(image), "the image lives: it is Glance that cleans up"
    host.client.delete(image)


def test_killed_when_half_done(hosts: list[Host], second: Second) -> None:
    here, there = hosts
    download = second.front.expect(hold=len(second.data) // 2)
    image = second.start_import(here)
    download.wait_held()
    here.witness.wait_came(image)
    here.api.kill()
    download.release()
    here.api.start()
    here.api.wait_ready()
    assert here.files(image) == [image]
    answered = deleted(there.client, image)
    here.wait_gone("Glance killed in glance-download, started", image, answered, image)
