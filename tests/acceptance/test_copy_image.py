# SPDX-License-Identifier: Apache-2.0
"""A copy to another store that breaks off: Glance keeps the staged file for the next attempt."""

from pathlib import Path

import pytest

from tests.acceptance import payload
from tests.acceptance.cloud import Cloud, Host, deleted
from tests.acceptance.test_imports import check_active

pytestmark = pytest.mark.kinds("current-multi")


def active(host: Host, data: bytes) -> str:
    """An image in one of the stores."""
    image = host.client.create()
    host.client.stage(image, data)
    host.client.start_import(image, "glance-direct", stores=["fast"])
    host.client.wait_status(image, "active")
    host.wait_unlocked(image)
    host.wait_empty(image)
    host.witness.forget(image)
    return image


def refuse(cloud: Cloud, host: Host, image: str) -> Path:
    """Let the second store refuse a copy; what stands in its way."""
    (obstacle,) = [store / image for store in cloud.site.stores if store.name == "cheap"]
    obstacle.write_bytes(b"")
    host.client.start_import(image, "copy-image", stores=["cheap"])
    host.wait_task_end(image, 2)
    assert host.files(image) == [image]
    return obstacle


@pytest.mark.quick
def test_the_next_attempt_finds_the_file(cloud: Cloud, hosts: list[Host]) -> None:
    host, data = hosts[0], payload.raw()
    image = active(host, data)
    obstacle = refuse(cloud, host, image)
    host.watcher.stop()
    host.start_watcher()  # which sweeps
    assert host.files(image) == [image], "the image lives"
    assert not host.removed(image)
    obstacle.unlink(missing_ok=True)
    host.client.start_import(image, "copy-image", stores=["cheap"])
    host.wait(lambda: host.client.show(image)["stores"] == "fast,cheap", "both stores")
    assert [path.read_bytes() for path in cloud.stored(image)] == [data, data]
    check_active(cloud, host, image, data)


@pytest.mark.quick
def test_deleted_by_another_host(cloud: Cloud, hosts: list[Host]) -> None:
    here, there = hosts
    image = active(here, payload.raw())
    obstacle = refuse(cloud, here, image)
    answered = deleted(there.client, image)
    here.wait_gone("copy-image broken off; deleted by another host", image, answered, image)
    obstacle.unlink(missing_ok=True)


def test_killed_when_half_copied(hosts: list[Host]) -> None:
    here, there = hosts
    whole = 0

    def start(size: int) -> str:
        nonlocal whole
        whole = size
        image = active(here, payload.raw(size))
        here.client.start_import(image, "copy-image", stores=["cheap"])
        return image

    def half(image: str) -> bool:
        try:
            return (here.staging / image).stat().st_size < whole
        except FileNotFoundError:
            return False

    with here.frozen(start, "", when=half) as image:
        here.api.kill()
    here.api.start()
    here.api.wait_ready()
    assert here.files(image) == [image]
    answered = deleted(there.client, image)
    here.wait_gone("Glance killed in copy-image, started", image, answered, image)
