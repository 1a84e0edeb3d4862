# SPDX-License-Identifier: Apache-2.0
"""Imports to two stores, at the same time with Glance 33's ``max_parallel_stores``.

The oldest Glance stores one after the other; there the same must hold.
"""

from functools import partial

import pytest

from tests.acceptance import payload
from tests.acceptance.cloud import Cloud, Host, deleted
from tests.acceptance.source import Download, Source
from tests.acceptance.test_imports import check_active

BOTH = ["fast", "cheap"]

pytestmark = pytest.mark.kinds("current-multi")


def start(host: Host, size: int) -> str:
    image = host.client.create()
    host.client.stage(image, payload.raw(size))
    host.client.start_import(image, "glance-direct", stores=BOTH)
    return image


def check_both(cloud: Cloud, host: Host, image: str, data: bytes) -> None:
    host.client.wait_status(image, "active")
    host.wait_unlocked(image)
    assert sorted(host.client.show(image)["stores"].split(",")) == sorted(BOTH)
    assert [path.read_bytes() for path in cloud.stored(image)] == [data, data]
    parallel = f"Parallel store import finished for image {image}" in host.api.log
    assert parallel == (cloud.environment.name == "current")
    check_active(cloud, host, image, data)


@pytest.mark.quick
def test_a_live_import_has_the_right_bytes_in_both(cloud: Cloud, hosts: list[Host]) -> None:
    host, data = hosts[0], payload.raw()
    image = host.client.create()
    host.client.stage(image, data)
    host.client.start_import(image, "glance-direct", stores=BOTH)
    check_both(cloud, host, image, data)


def test_a_live_download_has_the_right_bytes_in_both(
    cloud: Cloud, hosts: list[Host], source: Source
) -> None:
    host, data = hosts[0], payload.raw()
    download = Download(data, hold=len(data) // 2)
    image = host.client.create()
    host.client.start_import(image, "web-download", uri=source.offer(download), stores=BOTH)
    download.wait_held()
    host.witness.wait_came(image)
    download.release()
    check_both(cloud, host, image, data)


def test_deleted_while_both_are_written(cloud: Cloud, hosts: list[Host]) -> None:
    here, there = hosts

    def both(image: str) -> bool:
        return len(cloud.stored(image)) == 2

    with here.frozen(partial(start, here), "", when=both) as image:
        answered = deleted(there.client, image)
        here.wait_gone("stored in parallel; deleted by another host", image, answered, image)
    here.wait_task_end(image)
    here.wait_empty(image)


def test_killed_while_both_are_written(cloud: Cloud, hosts: list[Host]) -> None:
    """The image lives until it is deleted, so its file stays that long."""
    here, there = hosts
    with here.frozen(
        partial(start, here), "", when=lambda image: len(cloud.stored(image)) == 2
    ) as image:
        here.api.kill()
    here.api.start()
    here.api.wait_ready()
    assert here.files(image) == [image]
    answered = deleted(there.client, image)
    here.wait_gone("killed while stored in parallel", image, answered, image)


def test_one_store_refuses(cloud: Cloud, hosts: list[Host]) -> None:
    """The image lives on, and it is Glance that cleans up."""
    host = hosts[0]
    image = host.client.create()
    host.client.stage(image, payload.raw())
    (obstacle,) = [store / image for store in cloud.site.stores if store.name == "cheap"]
    obstacle.write_bytes(b"")
    host.client.start_import(image, "glance-direct", stores=BOTH)
    host.wait_task_end(image)
    host.wait_empty(image)
    assert not host.removed(image)
    host.client.delete(image)
    obstacle.unlink(missing_ok=True)
