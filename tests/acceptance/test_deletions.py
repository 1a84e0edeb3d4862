# SPDX-License-Identifier: Apache-2.0
"""Deletion at each moment of an image's way through the staging directory.

``here`` is the host that stages; ``there`` the other one, which can't remove files here: without
worker_self_reference_url no Glance knows where an image is staged.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance import payload
from tests.acceptance.client import ApiError
from tests.acceptance.cloud import Host, deleted
from tests.acceptance.source import Download, Source

SERVED_BY = pytest.mark.parametrize("server", ["here", "there"])


@pytest.mark.quick
@SERVED_BY
def test_staged(hosts: list[Host], server: str) -> None:
    here = hosts[0]
    image = here.client.create()
    here.client.stage(image, payload.raw())
    answered = deleted(hosts[server == "there"].client, image)
    if server == "here":
        here.wait_empty(image)  # by Glance itself
    else:
        here.wait_gone("staged; deleted by another host", image, answered, image)


@SERVED_BY
def test_upload_half_done(hosts: list[Host], server: str) -> None:
    here, data = hosts[0], payload.raw()
    image = here.client.create()
    answered = 0.0

    def body() -> Iterator[bytes]:
        nonlocal answered
        yield data[: len(data) // 2]
        here.witness.wait_came(image)
        answered = deleted(hosts[server == "there"].client, image)
        yield data[len(data) // 2 :]

    with pytest.raises(ApiError):
        here.client.stage(image, body(), len(data))
    if server == "here":
        here.wait_empty(image)
    else:
        here.wait_gone("being uploaded; deleted by another host", image, answered, image)


@pytest.mark.quick
@SERVED_BY
def test_download_before_the_first_byte(hosts: list[Host], source: Source, server: str) -> None:
    here = hosts[0]
    image = here.client.create()
    download = Download(payload.raw(), hold=-1)
    here.client.start_import(image, "web-download", uri=source.offer(download))
    download.wait_held()
    assert here.witness.came(image) is None
    answered = deleted(hosts[server == "there"].client, image)
    download.release()
    here.wait_gone("web-download before its first byte", image, answered, image)


@SERVED_BY
def test_download_half_done(hosts: list[Host], source: Source, server: str) -> None:
    here, data = hosts[0], payload.raw(8 << 20)
    image = here.client.create()
    download = Download(data, hold=len(data) // 2)
    here.client.start_import(image, "web-download", uri=source.offer(download))
    download.wait_held()
    here.witness.wait_came(image)
    answered = deleted(hosts[server == "there"].client, image)
    if server == "there":
        here.wait_gone("web-download half done; deleted by another host", image, answered, image)
    download.release()
    here.wait_task_end(image)
    here.wait_empty(image)


def test_download_that_breaks_off_after_the_deletion(hosts: list[Host], source: Source) -> None:
    here, data = hosts[0], payload.raw(8 << 20)
    image = here.client.create()
    download = Download(data, hold=len(data) // 2, abort=len(data) // 2)
    here.client.start_import(image, "web-download", uri=source.offer(download))
    download.wait_held()
    here.witness.wait_came(image)
    answered = deleted(hosts[1].client, image)
    here.wait_gone("web-download broken off; deleted by another host", image, answered, image)
    download.release()
    here.wait_task_end(image)
    here.wait_empty(image)


def start_decompression(host: Host, size: int) -> str:
    image = host.client.create()
    host.client.stage(image, payload.zipped(bytes(size)))
    host.client.start_import(image, "glance-direct")
    return image


def start_conversion(host: Host, directory: Path, size: int) -> str:
    image = host.client.create(disk_format="qcow2")
    host.client.stage(image, payload.qcow2(payload.raw(size), directory))
    host.client.start_import(image, "glance-direct")
    return image


@pytest.mark.quick
def test_while_it_is_decompressed(hosts: list[Host]) -> None:
    """Both files go at once; Glance then misses its own and gives up."""
    here, there = hosts
    with here.frozen(partial(start_decompression, here), "", ".uc") as image:
        answered = deleted(there.client, image)
        names = [image, f"{image}.uc"]
        here.wait_gone("decompressed; deleted by another host", image, answered, *names)
    here.wait_task_end(image)
    here.wait_empty(image)


def test_while_it_is_decompressed_here(hosts: list[Host]) -> None:
    """Glance removes only the compressed file."""
    here = hosts[0]
    size, image = 256 << 20, ""
    while not here.removed(image):
        image = start_decompression(here, size)
        here.witness.wait_came(f"{image}.uc")
        answered = deleted(here.client, image)
        here.wait_task_end(image)
        here.wait_empty(image)
        size *= 2
        assert size <= 4 << 30, "the moment is not to be caught"
    here.wait_gone("decompressed; deleted by this host", image, answered, f"{image}.uc")


@pytest.mark.quick
def test_while_it_is_converted(hosts: list[Host], tmp_path: Path) -> None:
    here, there = hosts
    with here.frozen(partial(start_conversion, here, tmp_path), "", ".raw") as image:
        answered = deleted(there.client, image)
        names = [image, f"{image}.raw"]
        here.wait_gone("converted; deleted by another host", image, answered, *names)
    here.wait_task_end(image)
    here.wait_empty(image)


def test_while_the_converted_file_is_stored(hosts: list[Host], tmp_path: Path) -> None:
    """The original is removed by then."""
    here, there = hosts
    with here.frozen(partial(start_conversion, here, tmp_path), ".raw", gone="") as image:
        answered = deleted(there.client, image)
        here.wait_gone("converted and stored", image, answered, f"{image}.raw")
    here.wait_task_end(image)
    here.wait_empty(image)


@pytest.mark.kinds("current-multi")
def test_while_it_is_copied_to_another_store(hosts: list[Host]) -> None:
    here, there = hosts

    def start_copy(size: int) -> str:
        image = here.client.create()
        here.client.stage(image, payload.raw(size))
        here.client.start_import(image, "glance-direct", stores=["fast"])
        here.client.wait_status(image, "active")
        here.wait_unlocked(image)
        here.wait_empty(image)
        here.witness.forget(image)
        here.client.start_import(image, "copy-image", stores=["cheap"])
        return image

    with here.frozen(start_copy, "") as image:
        answered = deleted(there.client, image)
        here.wait_gone("copy-image; deleted by another host", image, answered, image)
    here.wait_task_end(image, 2)
    here.wait_empty(image)


@pytest.mark.quick
def test_after_the_import(hosts: list[Host]) -> None:
    here, there = hosts
    image = here.client.create()
    here.client.stage(image, payload.raw())
    here.client.start_import(image, "glance-direct")
    here.client.wait_status(image, "active")
    here.wait_unlocked(image)
    there.client.delete(image)
    here.wait_empty(image)
    assert not here.removed(image)
