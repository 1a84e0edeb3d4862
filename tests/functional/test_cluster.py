# SPDX-License-Identifier: Apache-2.0
"""A cluster of brokers that loses nodes while images are deleted: nothing is left behind.

Images are staged while they are live, before the watcher starts, so no file event reports their
end; sweeps are an hour apart. So what removes a file is the notification, or the sweep that follows
when the bus was lost; only what Glance itself didn't report waits for the next sweep. With
``pytest -s`` each test prints how long that took.
"""

import collections
import json
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import sqlite_url
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.test_broker_faults import BACK, LISTENING, said, wait_said
from tests.services import RabbitMQ, wait_for
from tests.services.rabbitmq import RabbitMQNode
from tests.services.rabbitmq_cluster import RabbitMQCluster
from tests.services.requirements import unavailable

pytestmark = pytest.mark.large

INTERVAL = 0.05  # seconds between deletions
IMAGES = 6000  # staged: enough for five minutes
CLIENTS = 10  # of Glance, each of which waits until its notification is sent
AT_ONCE = 1.0  # seconds: a residue that stayed longer had no notification
TIMEOUT = 120.0  # seconds

LOST = (
    "ERROR Notification listener disconnected; sweeps and file events continue: "
    "broker ([^ ]+ ){3}.*"
)
FAULTS = f"(\n{LOST}\n{BACK})+"  # a node that a client is on again may not be ready for its queue

CLASSIC = ""
DURABLE = "?amqp_durable_queues=true"
QUORUM = "?rabbit_quorum_queue=true"

database_url = sqlite_url


@pytest.fixture(scope="module")
def whole_cluster() -> Iterator[RabbitMQCluster]:
    """A cluster, one for all tests of this module."""
    if reason := RabbitMQ.missing():
        unavailable(reason)
    with tempfile.TemporaryDirectory(prefix="services-", ignore_cleanup_errors=True) as directory:
        made = RabbitMQCluster(Path(directory))
        try:
            yield made
        finally:
            made.kill()


@pytest.fixture
def cluster(whole_cluster: RabbitMQCluster) -> RabbitMQCluster:
    """The cluster, with all nodes."""
    whole_cluster.start()
    return whole_cluster


class Deletions:
    """Images are deleted, as by many clients of a Glance, and what is staged of them is watched."""

    def __init__(self, host: Host, transport_url: str) -> None:
        self._host = host
        self._live = collections.deque(new_id() for _ in range(IMAGES))
        host.images.insert(*self._live)
        for image in self._live:
            host.stage(image)
        self._left: dict[str, float] = {}
        self._stays: list[tuple[float, float]] = []  # when deleted, and seconds until it was gone
        self._notifier = GlanceNotifier(transport_url)
        self._clients = ThreadPoolExecutor(CLIENTS)
        self._end = threading.Event()
        self._deleting = threading.Thread(target=self._delete)
        self._watching = threading.Thread(target=self._watch)

    def start(self) -> None:
        """Delete from now on."""
        self._deleting.start()
        self._watching.start()

    def stop(self) -> None:
        """Delete no more, and give up what is left."""
        self._delete_no_more(cancel=True)
        self._left.clear()
        if self._watching.ident:
            self._watching.join()
        self._notifier.close()

    def wait_heard(self) -> None:
        """Wait until notifications of what is deleted from now on are heard."""
        now = time.monotonic()
        wait_for(
            lambda: any(since > now and stay < AT_ONCE for since, stay in list(self._stays)),
            TIMEOUT,
            "a notification",
        )

    def wait_gone(self) -> None:
        """Wait until nothing is left of what is deleted up to now."""
        now = time.monotonic()
        wait_for(
            lambda: all(since > now for since in list(self._left.values())), TIMEOUT, "no residue"
        )

    def end(self) -> int:
        """Delete no more, and return how many are left, on their way or for the next sweep.

        A client of Glance loses the notification in its hand when a node goes at the wrong moment.
        """
        self._delete_no_more()
        wait_for(lambda: len(self._left) <= CLIENTS, TIMEOUT, "hardly any residue")
        return len(self._left)

    def check(self) -> None:
        """After a sweep nothing is left of all that was deleted; all else is there."""
        code, output = self._host.sweep()
        assert code == 0, output
        wait_for(lambda: not self._left, TIMEOUT, "no residue")
        for image in self._live:
            assert (self._host.staging / image).exists()

    def figures(self) -> str:
        """How many deletions were not heard of at once, in how many gaps, and the longest stay."""
        gaps: list[float] = []
        began = None
        for since, stay in sorted(self._stays):
            if stay >= AT_ONCE:
                began = began or since
            elif began:
                gaps.append(since - began)
                began = None
        late = sum(stay >= AT_ONCE for _, stay in self._stays)
        longest = max(stay for _, stay in self._stays)
        spans = ", ".join(f"{gap:.1f}" for gap in gaps)
        return f"{late} of {len(self._stays)} late, gaps of {spans} s, longest stay {longest:.1f} s"

    def _delete(self) -> None:
        while not self._end.wait(INTERVAL):
            image = self._live.popleft()
            self._host.images.delete(image)
            self._left[image] = time.monotonic()
            self._clients.submit(self._notifier.deleted, image)

    def _delete_no_more(self, *, cancel: bool = False) -> None:
        self._end.set()
        if self._deleting.ident:  # nothing can be submitted after the shutdown
            self._deleting.join()
        self._clients.shutdown(cancel_futures=cancel)

    def _watch(self) -> None:
        while self._left or not self._end.is_set():
            for image, since in list(self._left.items()):
                if not (self._host.staging / image).exists():
                    self._stays.append((since, time.monotonic() - since))
                    self._left.pop(image, None)
            time.sleep(0.01)


class Scene:
    """A Glance on which images are deleted, and its watcher; both know all nodes."""

    def __init__(
        self,
        new_host: Callable[..., Host],
        cluster: RabbitMQCluster,
        directory: Path,
        queues: str,
        sweep_interval: int,
    ) -> None:
        vhost = cluster.nodes[0].new_vhost()
        url = cluster.url(vhost) + queues
        self._audit = directory / "audit"
        self._cluster = cluster
        host = new_host(
            transport_url=url,
            watcher=f"sweep_interval = {sweep_interval}\naudit_log = {self._audit}",
        )
        self.deletions = Deletions(host, url)
        self.program = host.start()

    def start(self) -> None:
        """Delete from now on, while notifications are heard."""
        wait_said(self.program, LISTENING)
        self.deletions.start()
        self.deletions.wait_heard()

    def connected(self) -> RabbitMQNode:
        """The node that the watcher is connected to."""
        ours = f":{self.program.process.pid}:"  # in the connection's name
        rows = self._cluster.nodes[0].ctl("list_connections", "port", "client_properties")
        ports = [int(row.split()[0]) for row in rows.splitlines() if ours in row]
        return next(node for node in self._cluster.nodes if node.port in ports)

    def check(self, faults: str) -> None:
        """The bus is back, nothing is left behind, and these faults were reported.

        :param faults: a regular expression of lines
        """
        self.deletions.wait_heard()
        left = self.deletions.end()
        assert self.program.stop() == 0
        reported = "\n".join(said(self.program))
        lines = self._audit.read_text().splitlines()
        triggers = collections.Counter(json.loads(line)["trigger"] for line in lines)
        figures = self.deletions.figures()
        self.deletions.check()
        print(f"{figures}, {dict(triggers)}, {left} left\n{reported}")  # noqa: T201
        assert re.fullmatch(LISTENING + faults, reported), reported
        assert triggers.keys() <= {"notification", "sweep"}


@pytest.fixture
def new_scene(
    new_host: Callable[..., Host], cluster: RabbitMQCluster, tmp_path: Path
) -> Iterator[Callable[..., Scene]]:
    """Makes a scene with queues of some kind, which ends with the test."""
    scenes: list[Scene] = []

    def make(queues: str, sweep_interval: int = 3600) -> Scene:
        scenes.append(Scene(new_host, cluster, tmp_path, queues, sweep_interval))
        scenes[-1].start()
        return scenes[-1]

    yield make
    cluster.start()  # without it a client waits for ever
    for scene in scenes:
        scene.deletions.stop()


@pytest.mark.parametrize("queues", [CLASSIC, QUORUM])
def test_its_node_is_killed(
    new_scene: Callable[..., Scene], cluster: RabbitMQCluster, queues: str
) -> None:
    scene = new_scene(queues)
    node = scene.connected()
    node.kill()
    scene.deletions.wait_heard()
    node.start()
    cluster.wait_whole()
    scene.check(FAULTS)


@pytest.mark.parametrize("queues", [CLASSIC, QUORUM])
def test_its_node_is_cut_off(
    new_scene: Callable[..., Scene], cluster: RabbitMQCluster, queues: str
) -> None:
    scene = new_scene(queues)
    cluster.isolate(scene.connected())
    scene.deletions.wait_heard()
    cluster.heal()
    scene.check(FAULTS)


@pytest.mark.parametrize("queues", [CLASSIC, QUORUM])
def test_one_node_after_the_other_is_restarted(
    new_scene: Callable[..., Scene], cluster: RabbitMQCluster, queues: str
) -> None:
    scene = new_scene(queues)
    for node in cluster.nodes:
        node.restart()
        cluster.wait_whole()
    scene.check(FAULTS)


def test_a_durable_queue_that_is_not_replicated_waits_for_its_node(
    new_scene: Callable[..., Scene], cluster: RabbitMQCluster
) -> None:
    """Glance's own queue may wait as well; then what Glance sends is lost, and sweeps help."""
    scene = new_scene(DURABLE, sweep_interval=10)
    node = scene.connected()
    node.kill()
    scene.program.wait_for_line("(404) NOT_FOUND - home node", TIMEOUT)
    scene.deletions.wait_gone()
    node.start()
    cluster.wait_whole()
    scene.program.wait_for_line("Notification listener connected again", TIMEOUT)
    scene.check(rf"\n{LOST}\n{BACK}")
