# SPDX-License-Identifier: Apache-2.0
"""Many clients for a long time on two hosts, with the broker and the database failing."""

import os
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.acceptance.cloud import LISTENING, Cloud, Host
from tests.acceptance.conftest import SiteMaker
from tests.acceptance.environment import Environment
from tests.acceptance.resources import MIB, Resources
from tests.acceptance.soak import FAULTS, Image, SoakClient
from tests.acceptance.source import Source
from tests.acceptance.timings import TIMINGS
from tests.services import MariaDB, RabbitMQ
from tests.services.waiting import wait_for
from watcher.staging.names import image_id

SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))
CLIENTS = 4
SETTLE_TIMEOUT = 180.0  # seconds
MEMORY_GROWTH = 8 * MIB
MORE_DESCRIPTORS = 4


@pytest.fixture
def cloud_of_two(
    tmp_path_factory: pytest.TempPathFactory,
    own_rabbitmq: RabbitMQ,
    own_mariadb: MariaDB,
    source: Source,
) -> Iterator[Cloud]:
    maker = SiteMaker(tmp_path_factory, own_mariadb, own_rabbitmq, source)
    site, directory = maker("soak", multi_store=True)
    cloud = Cloud(Environment("current"), site, directory)
    cloud.add()
    cloud.add()
    try:
        cloud.sync_database()
        cloud.start()
        yield cloud
    finally:
        cloud.close(faults=True)


@pytest.mark.soak
def test_soak(
    cloud_of_two: Cloud, own_rabbitmq: RabbitMQ, own_mariadb: MariaDB, source: Source
) -> None:
    hosts = cloud_of_two.hosts
    resources = [Resources(host.watcher.process.pid) for host in hosts]
    before = [each.now() for each in resources]
    clients = [SoakClient(hosts, source, seed) for seed in range(CLIENTS)]
    start = time.monotonic()
    for client in clients:
        client.start()
    try:
        wait_until(start + SECONDS * 0.4)
        heard = [connections(host) for host in hosts]
        own_rabbitmq.sync()
        own_rabbitmq.kill()
        wait_until(time.monotonic() + 2.0)
        own_rabbitmq.start()
        for host, count in zip(hosts, heard, strict=True):
            host.wait(lambda host=host, count=count: connections(host) > count, "a new connection")  # type: ignore[misc]
        wait_until(start + SECONDS * 0.6)
        own_mariadb.kill()
        wait_until(time.monotonic() + 2.0)
        own_mariadb.start()
        wait_until(start + SECONDS)
    finally:
        for each in resources:
            each.stop()
        for client in clients:
            client.stop()
    images = [image for client in clients for image in client.images]
    settle(hosts)
    check_live(hosts, images)
    delete_all(clients, hosts)
    half = half_deleted(hosts)
    for host in hosts:
        host.wait(lambda host=host: left_in(host) <= half, "an empty staging directory")  # type: ignore[misc]
        assert host.watcher.process.poll() is None
    report(hosts, clients, resources)
    for each, at_start in zip(resources, before, strict=True):
        assert each.peak(0.75, 1).memory <= each.peak(0.25, 0.5).memory + MEMORY_GROWTH
        wait_for(
            lambda each=each, limit=at_start.descriptors + MORE_DESCRIPTORS: (  # type: ignore[misc]
                each.now().descriptors <= limit
            ),
            60.0,
            f"{at_start.descriptors} descriptors again, not {each.now().descriptors}",
        )


def connections(host: Host) -> int:
    """How often the watcher logged that it receives notifications."""
    return len(
        host.watcher.lines(LISTENING) + host.watcher.lines("Notification listener connected again")
    )


def wait_until(moment: float) -> None:
    """Let the clients work."""
    time.sleep(max(0.0, moment - time.monotonic()))


def settle(hosts: list[Host]) -> None:
    """Wait until imports are done and each staged file's image is one that lives."""
    deadline = time.monotonic() + 30.0

    def quiet() -> bool:
        # An import whose database went away in the middle stays "importing" for ever.
        return "importing" not in hosts[0].client.list().values() or time.monotonic() > deadline

    wait_for(quiet, SETTLE_TIMEOUT, "the imports to end")

    def clean() -> bool:
        staged = {image_id(name) for host in hosts for name in os.listdir(host.staging)}
        return staged <= {None, *hosts[0].client.list()}

    logs = "\n".join(host.watcher.log[-3000:] for host in hosts)
    wait_for(clean, SETTLE_TIMEOUT, f"the residue to go; the watchers' logs:\n{logs}")


def check_live(hosts: list[Host], images: list[Image]) -> None:
    """Nothing of a live image was lost: staged files are there, active ones have their bytes."""
    states = hosts[0].client.list()
    assert not [image.id for image in images if image.deleted and image.id in states]
    removed = {image.id for image in images for host in hosts if host.removed(image.id)}
    assert not removed & set(states)
    for image in images:
        if image.deleting:
            continue
        if image.staged_on is not None:
            assert (image.staged_on.staging / image.id).read_bytes() == image.data
            image.staged_on.client.start_import(image.id, "glance-direct")
            image.staged_on.client.wait_status(image.id, "active")
            states[image.id] = "active"
        if states.get(image.id) == "active":
            assert hosts[0].client.download(image.id) == image.data


def delete_all(clients: list[SoakClient], hosts: list[Host]) -> None:
    """Delete what lives, also what Glance first fails to delete or to say that it created."""
    for client in clients:
        for image in client.images:
            while image.deleted is None:
                try:
                    client.delete(image)
                except FAULTS as error:
                    client.errors[f"{error} at the end"[:60]] += 1
                    assert sum(client.errors.values()) < 100_000
                    if image.id in half_deleted(hosts):
                        break
    known = {image.id for client in clients for image in client.images}
    for identifier in hosts[0].client.list().keys() - half_deleted(hosts):
        assert identifier not in known
        hosts[0].client.delete(identifier)
    assert hosts[0].client.list().keys() == half_deleted(hosts)


def left_in(host: Host) -> set[str | None]:
    """Images of which there are staged files."""
    return {image_id(name) for name in os.listdir(host.staging)}


def half_deleted(hosts: list[Host]) -> set[str | None]:
    """Images that Glance never deletes: its database went away between the two commits of a
    DELETE, and from the status "deleted" it allows no other."""
    return {key for key, status in hosts[0].client.list().items() if status == "deleted"}


def report(hosts: list[Host], clients: list[SoakClient], resources: list[Resources]) -> None:
    """Figures for the end of the run."""
    figures = sum((client.figures for client in clients), Counter[str]())
    errors = sum((client.errors for client in clients), Counter[str]())
    removed = [line for host in hosts for line in host.watcher.lines("deleting now")]
    waits = sorted(waiting_times(hosts, clients))
    assert waits, "the watchers had nothing to do"
    TIMINGS.remark(
        f"soak, {SECONDS:g} s: {dict(figures)}, errors of the API {dict(errors)}, "
        f"{len(removed)} files removed by the watchers"
    )
    p50, p99 = (waits[int(len(waits) * part)] * 1000 for part in (0.5, 0.99))
    TIMINGS.remark(
        f"soak, residue in ms: p50 {p50:.1f}, p99 {p99:.1f}, longest {waits[-1] * 1000:.1f}"
    )
    for host, each in zip(hosts, resources, strict=True):
        early, late, now = each.peak(0.25, 0.5), each.peak(0.75, 1), each.now()
        TIMINGS.remark(
            f"soak, watcher {host.directory.name}: own memory {early.memory / MIB:.1f} MiB early, "
            f"{late.memory / MIB:.1f} late; descriptors {each.samples[0].descriptors} at first, "
            f"{early.descriptors} early, {late.descriptors} late, {now.descriptors} now; "
            f"CPU {now.cpu:.1f} s"
        )


def waiting_times(hosts: list[Host], clients: list[SoakClient]) -> Iterator[float]:
    """Seconds that residue stayed which a watcher removed."""
    answered = {image.id: image.deleted for each in clients for image in each.images}
    for host in hosts:
        for line in host.watcher.lines("deleting now"):
            name = line.split("'")[1].rpartition("/")[2]
            went, came = host.witness.went(name), host.witness.came(name)
            since = answered.get(image_id(name) or "")
            if went is not None and came is not None and since is not None:
                yield max(0.0, went - max(came, since))
