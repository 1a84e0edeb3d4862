# SPDX-License-Identifier: Apache-2.0
"""Glance killed in the middle, deletions that are delayed, rows that are purged."""

import time
from functools import partial

from tests.acceptance import payload
from tests.acceptance.cloud import Cloud, Host, deleted
from tests.acceptance.configuration import ABSENT_GRACE
from tests.acceptance.source import Download, Source
from tests.acceptance.test_deletions import start_decompression


def killed_in_decompression(host: Host) -> str:
    """An image whose import a crash of Glance ended; it has two files in the staging directory."""
    with host.frozen(partial(start_decompression, host), "", ".uc") as image:
        host.api.kill()
    return image


def restart(host: Host) -> None:
    host.api.start()
    host.api.wait_ready()


def test_glance_is_killed_and_the_image_deleted_elsewhere(hosts: list[Host]) -> None:
    here, there = hosts
    image = killed_in_decompression(here)
    answered = deleted(there.client, image)
    here.wait_gone("Glance killed; deleted by another host", image, answered, image, f"{image}.uc")
    restart(here)


def test_glance_is_killed_and_started_again(hosts: list[Host]) -> None:
    """The image still lives, so its files stay, also over a restart of the watcher."""
    here = hosts[0]
    image = killed_in_decompression(here)
    restart(here)
    here.watcher.stop()
    here.start_watcher()
    assert here.files(image) == [image, f"{image}.uc"]
    assert here.client.show(image)["status"] == "importing"
    answered = deleted(here.client, image)
    here.wait_gone("Glance killed, started; deleted by this host", image, answered, f"{image}.uc")


def test_both_are_killed_and_only_the_watcher_starts_again(hosts: list[Host]) -> None:
    here, there = hosts
    image = killed_in_decompression(here)
    here.watcher.kill()
    there.client.delete(image)
    assert here.files(image) == [image, f"{image}.uc"]
    started = time.monotonic()
    here.start_watcher()
    names = [image, f"{image}.uc"]
    here.wait_gone("both killed, watcher started; since its start", image, started, *names)
    restart(here)


def test_a_download_that_a_kill_ended(hosts: list[Host], source: Source) -> None:
    here, there = hosts
    data = payload.raw(8 << 20)
    image = here.client.create()
    download = Download(data, hold=len(data) // 2)
    here.client.start_import(image, "web-download", uri=source.offer(download))
    download.wait_held()
    here.witness.wait_came(image)
    here.api.kill()
    restart(here)
    assert here.files(image) == [image]
    answered = deleted(there.client, image)
    here.wait_gone("Glance killed in web-download, started", image, answered, image)


def test_delayed_delete(cloud: Cloud, hosts: list[Host], source: Source) -> None:
    """Rows are pending_delete, or deleted without any data, and always have ``deleted`` set."""
    here = hosts[0]
    delaying = cloud.add(default="delayed_delete = true")
    cloud.start(delaying)
    data = payload.raw(8 << 20)
    image = here.client.create()
    here.client.stage(image, data)
    answered = deleted(delaying.client, image)
    here.wait_gone("staged; delayed_delete", image, answered, image)
    assert cloud.rows()[image][1]

    image = here.client.create()
    download = Download(data, hold=-1)
    here.client.start_import(image, "web-download", uri=source.offer(download))
    download.wait_held()
    answered = deleted(delaying.client, image)
    download.release()
    here.wait_gone("web-download before its first byte; delayed_delete", image, answered, image)

    image = here.client.create()
    here.client.stage(image, data)
    here.client.start_import(image, "glance-direct")
    here.client.wait_status(image, "active")
    here.wait_unlocked(image)
    delaying.client.delete(image)
    assert cloud.rows()[image] == ("pending_delete", True)
    residue = here.staging / f"{image}.raw"  # as a kill in its conversion would have left it
    residue.write_bytes(data)
    here.wait_gone("left behind; delayed_delete", image, 0.0, residue.name)


def test_rows_are_purged_while_the_watcher_is_down(cloud: Cloud, hosts: list[Host]) -> None:
    here, there = hosts
    image = here.client.create()
    here.client.stage(image, payload.raw())
    here.watcher.stop()
    there.client.delete(image)
    purge(cloud, here)
    started = time.monotonic()
    here.start_watcher()
    scenario = f"row purged, watcher started; absent_grace = {ABSENT_GRACE}"
    here.wait_gone(scenario, image, started, image)


def test_the_row_is_purged_before_the_first_byte(
    cloud: Cloud, hosts: list[Host], source: Source
) -> None:
    here = hosts[0]
    image = here.client.create()
    download = Download(payload.raw(), hold=-1)
    here.client.start_import(image, "web-download", uri=source.offer(download))
    download.wait_held()
    answered = deleted(here.client, image)
    purge(cloud, here)
    download.release()
    scenario = f"row purged before the first byte; absent_grace = {ABSENT_GRACE}"
    here.wait_gone(scenario, image, answered, image)
    assert here.witness.lifetime(image) >= ABSENT_GRACE


def purge(cloud: Cloud, host: Host) -> None:
    """Remove all rows of deleted images for good."""
    for what in ("purge", "purge_images_table"):
        cloud.environment.manage(host.config_file, "db", what, "0", "100000")
    assert not any(gone for _, gone in cloud.rows().values())
