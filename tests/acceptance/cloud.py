# SPDX-License-Identifier: Apache-2.0
"""Hosts with a glance-api and a watcher each, and one database, bus and store for all."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from tests.acceptance import configuration
from tests.acceptance.api import GlanceApi
from tests.acceptance.client import Client
from tests.acceptance.configuration import Site
from tests.acceptance.environment import Environment
from tests.acceptance.timings import TIMINGS
from tests.acceptance.witness import Witness
from tests.functional.program import Program
from tests.services.waiting import wait_for

GONE_TIMEOUT = 60.0  # seconds
START_SIZE = 32 << 20  # bytes
LISTENING = "Listening for notifications"


class Host:
    """One host: a staging directory of its own, a glance-api, a watcher.

    :param default: more for ``[DEFAULT]`` of its glance-api.conf
    """

    def __init__(
        self, environment: Environment, site: Site, directory: Path, default: str = ""
    ) -> None:
        self.directory = directory
        self.staging = directory / "staging"
        self.config_file = configuration.write(site, directory, default=default)
        self.api = GlanceApi(environment, directory)
        self.witness = Witness(self.staging)
        self.watchers: list[Program] = []

    @property
    def client(self) -> Client:
        """Client of its glance-api."""
        return self.api.client

    @property
    def watcher(self) -> Program:
        """The watcher that runs."""
        return self.watchers[-1]

    def start_watcher(self) -> None:
        """Start the watcher; ready, and connected to the bus."""
        self.watchers.append(Program(self.directory, "--config-file", str(self.config_file)))
        self.watcher.wait_ready()
        self.watcher.wait_for_line(LISTENING)

    def ensure_running(self) -> None:
        """Start again what doesn't run."""
        if not self.api.running():
            self.api.start()
            self.api.wait_ready()
        if self.watcher.process.poll() is not None:
            self.start_watcher()

    def files(self, image: str) -> list[str]:
        """Names in the staging directory of an image."""
        return sorted(path.name for path in self.staging.iterdir() if image in path.name)

    def wait(self, predicate: Callable[[], object], what: str) -> None:
        """Wait for anything."""
        wait_for(predicate, GONE_TIMEOUT, what)

    def wait_unlocked(self, image: str) -> None:
        """Wait until an image has no import under way; it is active a moment before."""
        self.wait(
            lambda: "os_glance_import_task" not in self.client.show(image), f"{image} to be free"
        )
        self.wait_task_end(image)

    def wait_empty(self, image: str) -> None:
        """Wait until no file of an image is in the staging directory, whoever removed it."""
        self.wait(lambda: not self.files(image), f"all files of {image} to go")

    def wait_task_end(self, image: str, count: int = 1) -> None:
        """Wait until that many imports of an image ended, well or not."""
        self.wait(lambda: self.api.ended_imports(image) >= count, f"the import of {image} to end")

    @contextmanager
    def frozen(
        self, start: Callable[[int], str], *files: str, gone: str | None = None
    ) -> Iterator[str]:
        """An image whose import is caught, and Glance halted, while it has just these files.

        :param start: makes an image of that many bytes, and starts the import; asked again with
            more bytes when the moment was missed
        :param files: suffixes of its files; the last one is being written
        :param gone: suffix of a file that is gone in that moment
        """
        size = START_SIZE
        while True:
            image = start(size)
            self.witness.wait_came(image + files[-1])
            if gone is not None:
                self.witness.wait_went(image + gone)
            self.api.freeze()
            try:
                if self.files(image) == [image + suffix for suffix in files]:
                    yield image
                    return
            finally:
                self.api.resume()
            size *= 2
            assert size <= 4 << 30, "the moment is not to be caught"

    def wait_gone(self, scenario: str, image: str, answered: float, *names: str) -> None:
        """Wait until the watcher has removed these files, and note how long they were residue.

        :param answered: when the API answered to the deletion; a file that came later is
            residue from then on
        """
        for name in names:
            try:
                self.witness.wait_came(name, GONE_TIMEOUT)
                went = self.witness.wait_went(name, GONE_TIMEOUT)
            except AssertionError:
                raise AssertionError(f"{name} stays\n{self.watcher.log[-4000:]}") from None
            residue = went - max(answered, self.witness.wait_came(name))
            TIMINGS.note(scenario, name.removeprefix(image), residue)
            self.watcher.wait_for_line(f"{self.staging / name}'; deleting now")
        self.wait_empty(image)

    def removed(self, image: str) -> list[str]:
        """Lines in which the watchers say that they remove a file of this image."""
        return [line for each in self.watchers for line in each.lines(f"for image {image}:")]

    def close(self, *, faults: bool = False) -> None:
        """End it all, and check what the watchers must never do.

        :param faults: there were faults to report
        """
        self.api.kill()
        self.witness.close()
        for watcher in self.watchers:
            watcher.stop()
            assert faults or not watcher.lines("ERROR"), watcher.log


class Cloud:
    """Hosts of one Glance."""

    def __init__(self, environment: Environment, site: Site, directory: Path) -> None:
        self.environment, self.site, self._directory = environment, site, directory
        self.hosts: list[Host] = []

    def add(self, default: str = "") -> Host:
        """Add a host, without starting anything."""
        name = "abcdefgh"[len(self.hosts)]
        self.hosts.append(Host(self.environment, self.site, self._directory / name, default))
        return self.hosts[-1]

    def start(self, *hosts: Host) -> None:
        """Start glance-api and watcher of these hosts, else of all; ready."""
        for host in hosts or self.hosts:
            host.api.start()
        for host in hosts or self.hosts:
            host.start_watcher()
            host.api.wait_ready()

    def sync_database(self) -> None:
        """Make Glance's tables."""
        self.environment.manage(self.hosts[0].config_file, "db", "sync")

    def rows(self) -> dict[str, tuple[str, bool]]:
        """Status and ``deleted`` of each image in the database."""
        engine = sa.create_engine(self.site.database_url)
        with engine.connect() as connection:
            found = connection.execute(sa.text("SELECT id, status, deleted FROM images")).all()
        engine.dispose()
        return {str(row[0]): (str(row[1]), bool(row[2])) for row in found}

    def stored(self, image: str) -> list[Path]:
        """Files of an image in the stores."""
        return [store / image for store in self.site.stores if (store / image).exists()]

    def close(self, *, faults: bool = False) -> None:
        """End all; see `Host.close`."""
        failures = []
        for host in self.hosts:
            try:
                host.close(faults=faults)
            except AssertionError as error:
                failures.append(error)
        if failures:
            raise failures[0]


def deleted(client: Client, image: str) -> float:
    """Delete an image; when the API answered."""
    client.delete(image)
    return time.monotonic()
