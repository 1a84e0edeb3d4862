# SPDX-License-Identifier: Apache-2.0
"""The service on a real broker, each real database, and a real file system."""

import os
import signal
from collections.abc import Callable

import pytest

from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.program import Program
from tests.services import RabbitMQ

LISTENING = "Listening for notifications"


def start_listening(host: Host) -> Program:
    program = host.start()
    program.wait_for_line(LISTENING)
    return program


def test_the_sweep_at_start(host: Host) -> None:
    residue = [host.stage_deleted(suffix) for suffix in ("", ".uc", ".qcow2")]
    host.stage_live()
    host.stage_live(".raw")
    foreign = host.stage("notanimageid")
    young = host.stage(new_id())
    program = host.start()
    assert not any(path.exists() for path in residue), "gone before it says that it is ready"
    assert foreign.exists() and young.exists()
    assert program.stop() == 0
    assert "Found 7 files in staging directory for potential cleanup" in program.log
    assert "Cleaned 3 stale staging files, 4 ignored (0 errors)" in program.log
    host.check_live()


def test_residue_goes_on_a_notification(bus_host: Host, notifier: GlanceNotifier) -> None:
    start_listening(bus_host)
    image, other = bus_host.stage_live(), bus_host.stage_live(".uc")
    paths = [bus_host.staging / image]
    paths += [bus_host.stage(image + suffix) for suffix in (".uc", ".raw", ".qcow2", ".any.thing")]
    bus_host.forget(image)
    bus_host.images.delete(image)
    notifier.deleted(image)
    bus_host.wait_gone(*paths)
    notifier.deleted(other)  # a forged one
    notifier.send("image.delete", {"id": f"../staging/{other}"})
    notifier.send("image.delete", ["nonsense"])
    late = bus_host.stage_live()
    bus_host.forget(late)
    bus_host.images.delete(late)
    notifier.deleted(late)
    bus_host.wait_gone(bus_host.staging / late)
    bus_host.check_live()


def test_residue_goes_on_a_file_event(host: Host) -> None:
    host.start()
    host.stage_live()
    host.wait_gone(host.stage_deleted(), host.stage_deleted(".uc"))

    outside = host.directory / "outside"
    for place in (os.rename, os.link):
        image = new_id()
        host.images.insert(image, deleted=True)
        outside.write_bytes(b"data")
        place(outside, host.staging / image)
        host.wait_gone(host.staging / image)

    image = new_id()
    host.images.insert(image)
    with (host.staging / f"{image}.uc").open("wb") as file:
        file.write(b"data")
        host.images.delete(image)
    host.wait_gone(host.staging / f"{image}.uc")


def test_residue_goes_at_the_next_sweep_when_every_event_was_lost(
    new_host: Callable[..., Host],
) -> None:
    host = new_host(watcher="sweep_interval = 1")
    host.start()
    image = host.stage_live()
    host.programs[0].wait_for_line("Cleaned 0 stale staging files, 1 ignored (0 errors)")
    host.forget(image)
    host.images.delete(image)
    host.wait_gone(host.staging / image)


def test_a_file_without_a_row_goes_when_its_grace_is_over(new_host: Callable[..., Host]) -> None:
    host = new_host(watcher="absent_grace = 2")
    host.start()
    host.stage_live()
    path = host.stage(new_id())
    written = path.stat().st_ctime
    host.wait_gone(path)
    line = host.programs[0].wait_for_line("Stale staging residue found")
    assert path.name in line
    assert os.stat(host.directory / "watcher.log").st_mtime - written >= 2


def test_two_watchers_each_hear_every_deletion(
    new_host: Callable[..., Host], rabbitmq: RabbitMQ, notifier: GlanceNotifier
) -> None:
    hosts = [new_host(transport_url=rabbitmq.url()) for _ in range(2)]
    for each in hosts:
        start_listening(each)
    ids = [new_id() for _ in range(20)]
    hosts[0].images.insert(*ids)
    paths = [each.stage(image) for image in ids for each in hosts]
    for each in hosts:
        each.programs[0].wait_for_line("ignored (0 errors)")
    hosts[0].images.delete(*ids)
    for image in ids:
        notifier.deleted(image)
    for each in hosts:
        each.wait_gone(*paths)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_order_while_busy(bus_host: Host, number: int) -> None:
    bus_host.stage_many(5000, deleted=True)
    bus_host.stage_live()
    program = bus_host.start(ready=False)
    program.wait_for_line("Stale staging residue")
    assert program.stop(number) == 0
    assert 0 < len(os.listdir(bus_host.staging)) - 1 < 5000, "it was busy"
    assert program.lines(f"Stopping on {signal.Signals(number).name}")
    bus_host.check_live()
    assert bus_host.start().stop() == 0, "the rest goes at the next start"
    assert len(os.listdir(bus_host.staging)) == 1
