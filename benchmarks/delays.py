# SPDX-License-Identifier: Apache-2.0
"""File event → file gone while something else goes on: the worst counts."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks import proc
from benchmarks.bus import publish
from benchmarks.figures import OURS, Comparison, percentile
from benchmarks.inotify import Removals
from benchmarks.site import ROOT, Site, new_ids
from tests.functional.host import GlanceNotifier
from tests.functional.program import Program
from tests.services import Images, RabbitMQ
from tests.services.ports import free_port

PAUSE = 0.01  # seconds between two events
SLOW_FILES = 400
REMOVAL = 0.05  # seconds that each takes; see `benchmarks.peers.slow`
BURST = 1000
CLIENTS = 20
HEADERS = b"X-Padding: " + b"x" * 65536
WORST = 50.0  # ms
NAME = "delays"


class Slow(Program):
    """A watcher on a slow disk."""

    command = (sys.executable, "-P", str(ROOT / "benchmarks/peers/slow.py"))


class Watching:
    """One watcher at work, and files that come for it to remove.

    :param live: files of live images that are staged before it starts
    :param slow: files of deleted images that are staged before it starts, and slow to remove: its
        first sweep is under way
    :param probes: most events that are measured
    """

    def __init__(
        self,
        site: Site,
        probes: int,
        *,
        live: int = 0,
        slow: int = 0,
        transport: str = "",
        options: str = "",
    ) -> None:
        self.database = site.database("mariadb")
        self.images = site.images(self.database)
        self.directory = site.new_directory(NAME)
        self.port = free_port()
        own = f"metrics_port = {self.port}\n{options}"
        config = site.configure(self.directory, self.database, transport, own)
        self.staging, self._prepared = self.directory / "staging", self.directory / "prepared"
        self._prepared.mkdir()
        self._ids = self.residue(probes)
        staged = new_ids(live)
        self.images.insert(*staged)
        for name in staged:
            _touch(self.staging / name)
        self._slow = self.residue(slow, ".slow")
        self.come(self._slow)
        os.sync()
        made = (Slow if slow else Program)(self.directory, "--config-file", str(config))
        site.at_close(made.kill)
        if slow:
            made.wait_for_line("Watching staging directory")
        else:
            made.wait_ready()
        if transport:
            made.wait_for_line("Listening for notifications")
        self.pid = made.process.pid
        self.removals = Removals(str(self.staging))

    def residue(self, count: int, suffix: str = "") -> list[str]:
        """Files of deleted images, that can come."""
        ids = new_ids(count)
        self.images.insert(*ids, deleted=True, status="deleted")
        names = [image + suffix for image in ids]
        for name in names:
            _touch(self._prepared / name)
        return names

    def come(self, names: Iterable[str]) -> None:
        """Have files come, as fast as possible."""
        for name in names:
            os.rename(self._prepared / name, self.staging / name)

    def measure(self, goes_on: Callable[[], bool] = lambda: True) -> Iterator[float]:
        """Milliseconds from a file's coming to its going, while something goes on."""
        while self._ids and goes_on():
            name = self._ids.pop()
            time.sleep(PAUSE)
            started = time.perf_counter()
            self.come([name])
            yield (self.removals.wait(name, 120.0) - started) * 1e3

    def is_sweeping(self) -> bool:
        """Whether slow files are left."""
        return sum(os.path.lexists(self.staging / name) for name in self._slow) > 1

    def end(self) -> None:
        """End the watcher."""
        os.kill(self.pid, signal.SIGKILL)


def measure(site: Site) -> list[Comparison]:
    """One event at a time beside each situation."""
    count = 100 if site.quick else 1000
    huge = 100_000 if site.quick else 1_000_000
    situations: dict[str, Iterator[float]] = {
        OURS: _beside_nothing(site, count),
        "beside sweeps of 60,000 files": _beside_sweeps(site, count, 60_000),
        f"beside sweeps of {huge:,} files": _beside_sweeps(site, count, huge),
        f"beside {SLOW_FILES} removals of 50 ms each": _beside_slow_removals(site, count),
        f"beside bursts of {BURST:,} deletions": _beside_bursts(site, count),
        "beside scrapes of the metrics": _beside_scrapes(site, count),
        f"beside {CLIENTS} hostile HTTP clients": _beside_hostile_clients(site, count),
    }
    comparison = Comparison(NAME, "file event → file gone, meanwhile something else", "ms")
    for subject, values in situations.items():
        for value in values:
            comparison.add(subject, value)
        found = comparison.series[subject]
        # One removal can't be interrupted.
        bound = WORST + REMOVAL * 1e3 if "removals" in subject else WORST
        comparison.bound(f"worst in ms, {subject}", bound, value=max(found))
        comparison.bound(f"p99 in ms, {subject}", bound, value=percentile(found, 99))
    comparison.thin()
    return [comparison]


def _beside_nothing(site: Site, count: int) -> Iterator[float]:
    watching = Watching(site, count)
    proc.settle(watching.pid)
    yield from watching.measure()
    watching.end()


def _beside_sweeps(site: Site, count: int, files: int) -> Iterator[float]:
    """A sweep follows the other."""
    watching = Watching(site, count, live=files, options="sweep_interval = 1")
    yield from watching.measure()
    watching.end()


def _beside_slow_removals(site: Site, count: int) -> Iterator[float]:
    watching = Watching(site, count, slow=SLOW_FILES)
    yield from watching.measure(watching.is_sweeping)
    watching.end()


def _beside_bursts(site: Site, count: int) -> Iterator[float]:
    transport = site.vhost()
    bursts = 3 if site.quick else 30
    watching = Watching(site, count, live=bursts * BURST, transport=transport)
    GlanceNotifier(transport).close()
    broker = site.server(RabbitMQ)
    staged = [entry.name for entry in os.scandir(watching.staging)]

    def delete() -> None:
        images = Images(watching.database)
        for start in range(0, len(staged), BURST):
            names = staged[start : start + BURST]
            images.delete(*names)
            publish(broker, transport, names)
            while any(os.path.lexists(watching.staging / name) for name in names):
                time.sleep(PAUSE)

    # not a thread, whose interpreter the measuring one would wait for
    deleting = multiprocessing.get_context("fork").Process(target=delete, daemon=True)
    deleting.start()
    yield from watching.measure(deleting.is_alive)
    deleting.kill()
    watching.end()


def _beside_scrapes(site: Site, count: int) -> Iterator[float]:
    watching = Watching(site, count)

    def scrape(stopping: threading.Event) -> None:
        while not stopping.is_set():
            url = f"http://127.0.0.1:{watching.port}/metrics"
            with suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
                answer.read()

    with _meanwhile(scrape, scrape):
        yield from watching.measure()
    watching.end()


def _beside_hostile_clients(site: Site, count: int) -> Iterator[float]:
    """Each sends 6 MiB of headers, again and again."""
    watching = Watching(site, count)

    def flood(stopping: threading.Event) -> None:
        while not stopping.is_set():
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", watching.port), 10) as client,
            ):
                client.sendall(b"GET /metrics HTTP/1.1\r\n")
                for _ in range(96):
                    client.sendall(HEADERS)
                    client.sendall(b"\r\n")
            stopping.wait(0.05)  # the processors are the clients' as well

    with _meanwhile(*[flood] * CLIENTS):
        yield from watching.measure()
    watching.end()


@contextmanager
def _meanwhile(*works: Callable[[threading.Event], None]) -> Iterator[None]:
    stopping = threading.Event()
    threads = [threading.Thread(target=work, args=[stopping]) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def _touch(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
