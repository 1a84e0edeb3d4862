# SPDX-License-Identifier: Apache-2.0
"""One fault after the other at random by a seed, while a Glance stages, deletes and notifies.

CHAOS_SECONDS, CHAOS_SEED and CHAOS_LATENCY (seconds that a removal may take outside of a fault)
change what it does; ``make chaos`` takes half an hour.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.resources import MIB, Resources
from tests.functional import chaos
from tests.functional.chaos import LINES, Glance, World
from tests.functional.host import Host
from tests.functional.program import PROGRAM, Program
from tests.services import Images, MariaDB, RabbitMQ, TcpProxy, wait_for
from tests.services.namespaces import impossible
from tests.services.ports import free_port

SECONDS = float(os.environ.get("CHAOS_SECONDS", "90"))
SEED = int(os.environ.get("CHAOS_SEED", "15"))
LATENCY = float(os.environ.get("CHAOS_LATENCY", "1"))
SETTLE_TIMEOUT = 120.0  # seconds
MEMORY_GROWTH = 8 * MIB
MORE_DESCRIPTORS = MORE_THREADS = 4


@pytest.fixture
def database_url(own_mariadb: MariaDB) -> str:
    own_mariadb.create_database("chaos")
    return own_mariadb.url("chaos")


@pytest.fixture
def world(
    tmp_path: Path,
    own_rabbitmq: RabbitMQ,
    own_mariadb: MariaDB,
    database_url: str,
    images: Images,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    if reason := chaos.missing():
        impossible(reason)
    broker, database = own_rabbitmq, own_mariadb
    with closing(TcpProxy(broker.port)) as to_broker, closing(TcpProxy(database.port)) as to_data:
        through = f":{to_data.port}/"
        host = Host(
            tmp_path,
            images,
            database_url=database_url.replace(f":{database.port}/", through),
            transport_url=broker.url().replace(f":{broker.port}/", f":{to_broker.port}/"),
            watcher=f"metrics_port = {free_port()}\nsweep_interval = 5\nabsent_grace = 3600\n"
            f"audit_log = {tmp_path / 'audit' / 'audit.json'}",
            default="default_log_levels =",
        )
        config = host.config_file
        config.write_text(config.read_text().replace("debug = true", "debug = false"))
        chaos.place_of_audit(host).mkdir()
        monkeypatch.setattr(Program, "command", (*chaos.command(host), str(PROGRAM)))
        try:
            program = host.start()
            program.wait_for_line("Listening for notifications")
            yield World(host, program, broker, to_broker, database, to_data, database_url)
        finally:
            host.close()


@pytest.mark.large
@pytest.mark.server
@pytest.mark.timeout(SECONDS + 900)
def test_faults_at_random(world: World, images: Images) -> None:
    program, audit = world.program, world.host.directory / "audit" / "audit.json"
    glance = Glance(world.host, images, world.broker.url(), SEED)
    glance.start()
    resources = Resources(program.process.pid)
    threads = [chaos.threads(program.process.pid)]
    before = resources.now()
    chance, deck, faults = random.Random(SEED), list[str](), world.faults()
    caused: Counter[str] = Counter()
    noisy: list[tuple[float, float]] = []
    begin = time.monotonic()
    try:
        while time.monotonic() - begin < SECONDS:
            time.sleep(chance.uniform(1.0, 3.0))
            if not deck:
                deck = sorted(faults)
                chance.shuffle(deck)
            name = deck.pop()
            fault = faults[name]
            began, ended = LINES[fault.component]
            count, since = len(program.lines(began)), time.time()
            with fault.cause():
                chaos.wait_lines(program, began, count + 1)
                time.sleep(chance.uniform(0.0, 2.0))
            chaos.wait_lines(program, ended, count + 1)
            world.host.wait_gone(world.host.stage_deleted())
            caused[name] += 1
            noisy.append((since, time.time() + 2.0))
            threads.append(chaos.threads(program.process.pid))
    finally:
        resources.stop()
        glance.stop()
    report(program, caused, glance.figures)
    wait_for(
        lambda: set(os.listdir(world.host.staging)) == set(glance.live),
        SETTLE_TIMEOUT,
        f"the residue to go: {set(os.listdir(world.host.staging)) ^ set(glance.live)}",
    )
    for name, data in glance.live.items():
        assert (world.host.staging / name).read_bytes() == data
    check_conditions(program, Counter(faults[name].component for name in caused.elements()))
    check_flat(resources, threads, before.descriptors)
    within = chaos.Inside(program).path(audit)
    check_latencies(within, noisy)
    live = {str(world.host.staging / name) for name in glance.live}
    assert not chaos.recorded(within) & live


def say(line: str) -> None:
    """Print figures, for the end of the run or ``pytest -s``."""
    print(line)  # noqa: T201


def report(program: Program, caused: Counter[str], figures: Counter[str]) -> None:
    """Print what happened."""
    say(f"\nchaos, seed {SEED}, {SECONDS:g} s: {dict(caused)}; {dict(figures)}")
    levels = Counter(line.split()[3] for line in program.log.splitlines() if len(line.split()) > 3)
    say(f"chaos, lines of the log: {dict(levels)}")


def check_conditions(program: Program, caused: Counter[str]) -> None:
    """Each fault began and ended one condition, and there was no other."""
    for component, (began, ended) in LINES.items():
        found = len(program.lines(began)), len(program.lines(ended))
        assert found == (caused[component],) * 2, f"{component}\n{program.log}"


def check_flat(resources: Resources, threads: list[int], descriptors: int) -> None:
    """Memory, descriptors and threads don't grow."""
    early, late = resources.peak(0.25, 0.5), resources.peak(0.75, 1)
    say(
        f"chaos, own memory {early.memory / MIB:.1f} MiB early, {late.memory / MIB:.1f} late; "
        f"descriptors {descriptors} at first, {resources.now().descriptors} now; "
        f"threads {threads[0]} at first, at most {max(threads)}, {threads[-1]} now"
    )
    assert late.memory <= early.memory + MEMORY_GROWTH
    wait_for(
        lambda: resources.now().descriptors <= descriptors + MORE_DESCRIPTORS,
        SETTLE_TIMEOUT,
        f"{descriptors} descriptors again, not {resources.now().descriptors}",
    )
    assert max(threads) <= threads[0] + MORE_THREADS


def check_latencies(audit: Path, noisy: list[tuple[float, float]]) -> None:
    """Outside of a fault each event is handled in time."""

    def quiet(moment: float) -> bool:
        return not any(since <= moment <= until for since, until in noisy)

    every, found = chaos.latencies(audit, lambda moment: True), chaos.latencies(audit, quiet)
    assert found, "nothing happened outside of faults"
    p50, p99 = (found[int(len(found) * part)] * 1e3 for part in (0.5, 0.99))
    say(
        f"chaos, event to removal outside of faults, ms: p50 {p50:.2f}, p99 {p99:.2f}, "
        f"worst {found[-1] * 1e3:.1f} of {len(found)}; {len(every) - len(found)} during faults, "
        f"worst {every[-1]:.2f} s"
    )
    assert found[-1] <= LATENCY
