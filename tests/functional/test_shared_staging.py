# SPDX-License-Identifier: Apache-2.0
"""Several hosts with one staging directory on a real network file system (sshfs): the real program
on each, a real broker and a real database."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.program import Program
from tests.services import Images, MariaDB, RabbitMQ, unique_name, wait_for
from tests.services.requirements import unavailable
from tests.services.sshfs import Mount, Share, shared
from watcher.staging.mounts import NETWORK, mount_type

HOSTS = 3
TIMEOUT = 60.0  # seconds
UNCACHED = "dir_cache=no"  # else a file of another host is not seen for 20 s
OFTEN = "sweep_interval = 1"


@pytest.fixture
def database_url(mariadb: MariaDB) -> str:
    """One kind of database: it makes no difference here."""
    name = unique_name("shared")
    mariadb.create_database(name)
    return mariadb.url(name)


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    """A directory that can be mounted; without what that needs fail in CI and skip elsewhere."""
    if reason := Mount.missing():
        unavailable(reason)
    with shared(tmp_path) as made:
        yield made


@pytest.fixture
def new_sharer(
    share: Share, new_host: Callable[..., Host], database_url: str
) -> Callable[..., "Sharer"]:
    """Makes hosts with that directory."""

    def make(*options: str, start: bool = True, **configuration: str) -> Sharer:
        mount = share.mount(*options or [UNCACHED])
        made = Sharer(new_host(), mount, database_url, configuration)
        if start:
            made.program = made.host.start(ready=False)
        return made

    return make


class Sharer:
    """A host with its mount of the directory, and the audit of what it removed itself."""

    def __init__(
        self, host: Host, mount: Mount, database_url: str, configuration: dict[str, str]
    ) -> None:
        self.host, self.mount = host, mount
        self.program: Program
        self.audit = host.directory / "audit.json"
        host.staging.rmdir()
        host.staging = mount.path
        host.configure(
            database_url=database_url,
            transport_url=configuration.get("transport_url", ""),
            staging=f"file://{mount.path}",
            watcher=f"audit_log = {self.audit}\n{configuration.get('watcher', '')}",
        )

    def wait_ready(self) -> None:
        """Wait for the first sweep, and for the broker if there is one."""
        self.program.wait_ready()
        if "notifications = false" not in self.host.config_file.read_text():
            self.program.wait_for_line("Listening for notifications")

    def removed(self) -> list[dict[str, Any]]:
        """What the audit says."""
        return [json.loads(line) for line in self.audit.read_text().splitlines()]

    def reported(self) -> int:
        """Files of its own removal, by the lines that an operator reads."""
        counted = r"(\d+) files? removed"
        return sum(
            int(number)
            for line in self.program.lines("Sweep finished")
            for number in re.findall(counted, line)
        )


def stage(share: Share, images: Images, count: int, size: int = 5000) -> list[Path]:
    """Files of live images, of different sizes, written by none of the hosts."""
    made = []
    for number in range(count):
        made.append(share.directory / new_id())
        images.insert(made[-1].name)
        made[-1].write_bytes(b"x" * size * number)
    return made


def wait_gone(*paths: Path) -> None:
    wait_for(lambda: not any(map(os.path.lexists, paths)), TIMEOUT, "the removal of files")


def wait_sweeps(sharer: Sharer, number: int) -> None:
    """Wait for the ends of this many more passes."""
    before = len(sharer.program.lines(" errors)"))
    sharer.program.wait_for_line(" errors)", TIMEOUT, before + number)


def blocks(paths: list[Path], mount: Path) -> dict[str, int]:
    """Bytes on disk by name, as a mount shows them."""
    return {path.name: (mount / path.name).lstat().st_blocks * 512 for path in paths}


def freed(sharers: list[Sharer]) -> dict[str, int]:
    """Bytes by the names of files removed, of all hosts, none of which counts another's."""
    records = [record for sharer in sharers for record in sharer.removed()]
    sizes = {Path(record["file"]).name: record["size"] for record in records}
    assert len(sizes) == len(records), "a file was counted by two hosts"
    return sizes


def test_it_is_logged(share: Share, new_sharer: Callable[..., Sharer]) -> None:
    sharer = new_sharer()
    sharer.wait_ready()
    descriptor = os.open(sharer.mount.path, os.O_RDONLY)
    kind = mount_type(descriptor)
    os.close(descriptor)
    assert kind in NETWORK
    line = (
        f"Staging directory {sharer.mount.path} is on a network file system ({kind}): files that "
        "other hosts write are found by notifications and sweeps only"
    )
    assert len(sharer.program.lines(line)) == 1
    assert len(sharer.program.lines("Watching staging directory")) == 1
    # Without its mount it is this host's own, and with a new one it is reported again.
    sharer.mount.stop()
    sharer.program.wait_for_line("Watching staging directory", TIMEOUT, 2)
    assert len(sharer.program.lines(line)) == 1
    residue = stage(share, sharer.host.images, 1)
    sharer.host.images.delete(residue[0].name)
    again = share.mount(path=sharer.mount.path)
    sharer.program.wait_for_line(line, TIMEOUT, 2)
    wait_gone(*residue)
    assert not sharer.program.lines(" ERROR "), again.path


def test_one_of_them_removes_what_all_receive(
    share: Share,
    new_sharer: Callable[..., Sharer],
    images: Images,
    rabbitmq: RabbitMQ,
    mariadb: MariaDB,
    notifier: GlanceNotifier,
) -> None:
    deletions = 30
    sharers = [new_sharer(transport_url=rabbitmq.url()) for _ in range(HOSTS)]
    for sharer in sharers:
        sharer.wait_ready()
    live = stage(share, images, 3)
    paths = stage(share, images, deletions)
    sizes = blocks(paths, sharers[0].mount.path)
    reads = -selects(mariadb)
    for path in paths:
        images.delete(path.name)
        notifier.deleted(path.name)
        wait_gone(path)
    wait_for(lambda: len(freed(sharers)) == deletions, TIMEOUT, "all of the audit")
    for sharer in sharers:
        assert sharer.program.stop() == 0  # the slower ones have looked, or never will
    reads += selects(mariadb)
    assert freed(sharers) == sizes
    assert {r["trigger"] for sharer in sharers for r in sharer.removed()} == {"notification"}
    assert reads < deletions * HOSTS * 0.6, "each of them asked the database"
    assert all(map(os.path.exists, live))


def selects(mariadb: MariaDB) -> int:
    """Reads that the server has answered so far."""
    _, number = mariadb.execute("SHOW GLOBAL STATUS LIKE 'Com_select'")[0]
    return int(number)


@pytest.mark.parametrize("options", [[UNCACHED], ["cache=yes"]], ids=["uncached", "cached"])
def test_all_sweep_at_once_and_each_file_counts_once(
    share: Share, new_sharer: Callable[..., Sharer], images: Images, options: list[str]
) -> None:
    paths = stage(share, images, 200, size=100)
    live = stage(share, images, 3)
    sharers = [new_sharer(*options, watcher=OFTEN) for _ in range(HOSTS)]
    for sharer in sharers:
        sharer.wait_ready()
    sizes = blocks(paths, sharers[0].mount.path)
    images.delete(*(path.name for path in paths))
    wait_gone(*paths)
    wait_for(lambda: len(freed(sharers)) == len(paths), TIMEOUT, "all of the audit")
    for sharer in sharers:
        wait_sweeps(sharer, 2)
    assert freed(sharers) == sizes
    assert sum(sharer.reported() for sharer in sharers) == len(paths)
    assert not [line for sharer in sharers for line in sharer.program.lines(" ERROR ")]
    assert all(map(os.path.exists, live))


def test_what_another_host_wrote_is_found_by_a_sweep_and_ones_own_at_once(
    share: Share, new_sharer: Callable[..., Sharer]
) -> None:
    sweeping, waiting = new_sharer(watcher=OFTEN), new_sharer()
    for sharer in (sweeping, waiting):
        sharer.wait_ready()
        sharer.host.stage_live()
    others = waiting.host.stage_deleted(".uc")  # its own event may come first
    wait_gone(share.directory / others.name)
    image = new_id()
    sweeping.host.images.insert(image, deleted=True)
    (share.directory / image).touch()
    wait_gone(share.directory / image)
    wait_for(lambda: freed([sweeping]).keys() >= {image}, TIMEOUT, "the record")
    assert sweeping.removed()[-1]["trigger"] == "sweep"
    assert sweeping.program.stop() == 0
    own = waiting.host.stage_deleted()
    wait_gone(share.directory / own.name)
    wait_for(lambda: freed([waiting]).keys() >= {own.name}, TIMEOUT, "the record")
    assert {record["trigger"] for record in waiting.removed()} == {"file_event"}


def test_a_server_whose_clock_is_behind_makes_no_file_old(
    share: Share, new_sharer: Callable[..., Sharer], images: Images
) -> None:
    live = new_id()  # which shows that this is the right database
    images.insert(live)
    (share.directory / live).touch()
    path = share.directory / new_id()
    path.touch()
    hours_ago = time.time() - 4 * 3600
    os.utime(path, (hours_ago, hours_ago))  # this server has no other time
    sharer = new_sharer(watcher="absent_grace = 2", start=False)
    code, output = sharer.host.sweep("--dry-run", "--format", "json")
    reason = "image has no row in the database, file is younger than absent_grace"
    assert code == 0 and reason in output
    code, output = sharer.host.sweep()
    assert code == 0 and "Cleaned 0 stale staging files, 2 ignored" in output
    sharer.program = sharer.host.start(ready=False)
    wait_gone(path)
    wait_for(lambda: freed([sharer]), TIMEOUT, "the record")
    assert [record["trigger"] for record in sharer.removed()] == ["recheck"], "not the first sweep"


def test_a_lost_mount_is_one_error_and_misses_nothing(
    share: Share, new_sharer: Callable[..., Sharer], images: Images
) -> None:
    sharer = new_sharer(watcher=OFTEN)
    sharer.wait_ready()
    paths = stage(share, images, 3)
    sharer.mount.crash()
    sharer.program.wait_for_line("Cannot read the staging directory, retrying:", TIMEOUT)
    images.delete(paths[0].name)
    sharer.program.wait_for_line("Next try in", TIMEOUT, 3)
    sharer.mount.stop()
    share.mount(UNCACHED, path=sharer.mount.path)
    wait_gone(paths[0])
    sharer.program.wait_for_line("Staging directory readable again", TIMEOUT)
    assert len(sharer.program.lines(" ERROR ")) == 1
    assert all(map(os.path.exists, paths[1:]))
