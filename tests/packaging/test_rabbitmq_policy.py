# SPDX-License-Identifier: Apache-2.0
"""The broker's policy for the watchers' queues, and what is left to the sweep when it acts."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sqlite_url
from tests.docs.pages import Commands, commands
from tests.functional.conftest import new_host  # noqa: F401 - a fixture
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.packaging.conftest import SOURCE
from tests.services import RabbitMQ, wait_for
from watcher.conf import GROUP, load

FILE = SOURCE / "etc/rabbitmq-policy.json"
NAME = "staging-watcher"
TIMEOUT = 30.0  # seconds
OPTIONS = {"classic": "", "quorum": "?rabbit_quorum_queue=true"}

NewHost = Callable[..., Host]

database_url = sqlite_url


def policies(broker: RabbitMQ) -> list[dict[str, Any]]:
    """The policies of the virtual host / as a file of definitions has them."""
    found: list[dict[str, Any]] = json.loads(broker.ctl("list_policies", "--formatter=json"))
    for policy in found:
        if isinstance(policy["definition"], str):
            policy["definition"] = json.loads(policy["definition"])
    return found


@pytest.mark.parametrize(
    "block",
    [
        commands("install.md", "Limits for queues", 0),
        commands("install.md", "Limits for queues", 1),
    ],
    ids=["set_policy", "import_definitions"],
)
def test_both_documented_commands_set_it(rabbitmq: RabbitMQ, block: Commands) -> None:
    ((tool, *arguments),) = block.lines()
    assert tool == "rabbitmqctl"
    rabbitmq.ctl(*(str(FILE) if Path(each).name == FILE.name else each for each in arguments))
    assert policies(rabbitmq) == json.loads(FILE.read_text())["policies"]
    rabbitmq.ctl("clear_policy", NAME)


def test_the_default_pool_is_one_of_its_queues() -> None:
    (policy,) = json.loads(FILE.read_text())["policies"]
    assert re.match(policy["pattern"], load(["--config-file", "/dev/null"])[GROUP].pool)


class Scene:
    """A virtual host with the policy, a watcher's host, and Glance's side.

    :param kind: type of the queues
    :param definition: in place of the policy's own
    """

    def __init__(
        self, broker: RabbitMQ, make_host: NewHost, url: str, kind: str, **definition: int
    ) -> None:
        self.broker = broker
        self.vhost = broker.new_vhost()
        (policy,) = json.loads(FILE.read_text())["policies"]
        arguments = policy["pattern"], json.dumps(definition or policy["definition"])
        broker.ctl(
            *("set_policy", f"--vhost={self.vhost}", NAME, *arguments),
            *("--apply-to", policy["apply-to"]),
        )
        bus = broker.url(vhost=self.vhost) + OPTIONS[kind]
        self.kind = kind
        self.host = make_host()
        self.queue = f"glance-staging-watcher-{self.host.directory.name}"
        self.host.configure(database_url=url, transport_url=bus, watcher=f"pool = {self.queue}")
        self.notifier = GlanceNotifier(bus)

    def listen(self) -> None:
        """Start the watcher and wait for its queue."""
        self.host.start().wait_for_line("Listening for notifications")

    def stop(self) -> None:
        """Stop the watcher."""
        self.host.programs[-1].stop()

    def delete(self, count: int) -> list[Path]:
        """Have images deleted whose files the watcher doesn't hear of; the files."""
        ids = [new_id() for _ in range(count)]
        self.host.images.insert(*ids, deleted=True)
        paths = [self.host.stage(image) for image in ids]
        for image in ids:
            self.notifier.deleted(image)
        return paths

    def waiting(self) -> int | None:
        """Messages in the watcher's queue; None when there is no such queue."""
        return self.broker.queues(self.vhost).get(self.queue)


@pytest.fixture(params=OPTIONS)
def new_scene(
    request: pytest.FixtureRequest,
    rabbitmq: RabbitMQ,
    new_host: NewHost,  # noqa: F811
    database_url: str,
) -> Callable[..., Scene]:
    """Makes scenes, for each type of queue."""

    def make(**definition: int) -> Scene:
        return Scene(rabbitmq, new_host, database_url, request.param, **definition)

    return make


def test_a_watcher_s_queue_has_it(new_scene: Callable[..., Scene]) -> None:
    scene = new_scene()
    scene.listen()
    rows = json.loads(
        scene.broker.ctl(
            *("list_queues", "--formatter=json", f"--vhost={scene.vhost}"),
            *("name", "type", "policy"),
        )
    )
    assert {"name": scene.queue, "type": scene.kind, "policy": NAME} in rows


def test_the_queue_of_a_host_that_is_gone_goes(new_scene: Callable[..., Scene]) -> None:
    scene = new_scene(expires=1000)
    scene.listen()
    scene.stop()
    paths = scene.delete(3)
    wait_for(lambda: scene.waiting() is None, TIMEOUT, "the end of the queue")
    scene.listen()
    scene.host.wait_gone(*paths)
    assert scene.waiting() == 0


def test_a_queue_that_nobody_reads_is_bounded(new_scene: Callable[..., Scene]) -> None:
    scene = new_scene(**{"max-length": 3})
    scene.listen()
    scene.stop()
    paths = scene.delete(10)
    wait_for(lambda: scene.waiting() == 3, TIMEOUT, "a full queue")
    scene.listen()
    scene.host.wait_gone(*paths)


def test_old_messages_go(new_scene: Callable[..., Scene]) -> None:
    scene = new_scene(**{"message-ttl": 1000})
    scene.listen()
    scene.stop()
    paths = scene.delete(5)
    wait_for(lambda: scene.waiting() == 0, TIMEOUT, "an empty queue")
    scene.listen()
    scene.host.wait_gone(*paths)
