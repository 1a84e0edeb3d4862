# SPDX-License-Identifier: Apache-2.0
"""Live imports beside the watcher: they end active, with the right bytes, and leave nothing."""

from pathlib import Path

import pytest

from tests.acceptance import payload
from tests.acceptance.cloud import Cloud, Host
from tests.acceptance.source import Download, Source


def check_active(cloud: Cloud, host: Host, image: str, data: bytes) -> None:
    host.client.wait_status(image, "active")
    assert host.client.download(image) == data
    host.wait_empty(image)
    assert not host.removed(image)
    host.wait_unlocked(image)
    host.client.delete(image)
    assert not cloud.stored(image)


@pytest.mark.quick
def test_glance_direct(cloud: Cloud, hosts: list[Host]) -> None:
    host, data = hosts[0], payload.raw()
    image = host.client.create()
    host.client.stage(image, data)
    assert host.files(image) == [image]
    host.client.start_import(image, "glance-direct")
    check_active(cloud, host, image, data)


@pytest.mark.quick
def test_web_download(cloud: Cloud, hosts: list[Host], source: Source) -> None:
    host, data = hosts[0], payload.raw()
    download = Download(data, hold=len(data) // 2)
    image = host.client.create()
    host.client.start_import(image, "web-download", uri=source.offer(download))
    download.wait_held()
    host.witness.wait_came(image)
    assert host.client.show(image)["status"] == "importing"
    download.release()
    check_active(cloud, host, image, data)


def test_web_download_that_breaks_off(hosts: list[Host], source: Source) -> None:
    host, data = hosts[0], payload.raw()
    image = host.client.create()
    broken = Download(data, abort=len(data) // 2)
    host.client.start_import(image, "web-download", uri=source.offer(broken))
    host.witness.wait_came(image)
    host.client.wait_status(image, "queued")
    host.wait_empty(image)
    assert not host.removed(image), "the image lives: it is Glance that cleans up"


@pytest.mark.kinds("current-multi")
def test_copy_image(cloud: Cloud, hosts: list[Host]) -> None:
    host, data = hosts[0], payload.raw()
    image = host.client.create()
    host.client.stage(image, data)
    host.client.start_import(image, "glance-direct", stores=["fast"])
    host.client.wait_status(image, "active")
    host.wait_unlocked(image)
    host.client.start_import(image, "copy-image", stores=["cheap"])
    host.wait(lambda: len(cloud.stored(image)) == 2, "a second copy")
    host.wait(lambda: host.client.show(image)["stores"] == "fast,cheap", "both stores")
    assert [path.read_bytes() for path in cloud.stored(image)] == [data, data]
    check_active(cloud, host, image, data)


@pytest.mark.quick
def test_decompression(cloud: Cloud, hosts: list[Host], source: Source) -> None:
    host, data = hosts[0], payload.raw()
    image = host.client.create()
    url = source.offer(Download(payload.zipped(data)))
    host.client.start_import(image, "web-download", uri=url)
    host.witness.wait_came(f"{image}.uc")
    check_active(cloud, host, image, data)


@pytest.mark.quick
def test_conversion(cloud: Cloud, hosts: list[Host], tmp_path: Path) -> None:
    host, data = hosts[0], payload.raw()
    image = host.client.create(disk_format="qcow2")
    host.client.stage(image, payload.qcow2(data, tmp_path))
    host.client.start_import(image, "glance-direct")
    host.witness.wait_came(f"{image}.raw")
    check_active(cloud, host, image, data)
