# SPDX-License-Identifier: Apache-2.0
"""Subjects that listen to notifications, each in a virtual host and a directory of its own."""

import json
import os
import signal
import uuid
from collections.abc import Iterable

import amqp
from sqlalchemy.engine import make_url

from benchmarks.inotify import Removals
from benchmarks.site import FILE, Site
from tests.functional.host import GlanceNotifier
from tests.services import Images, RabbitMQ


class Listening:
    """One subject at work.

    :param kind: ``watcher``, or a peer of `benchmarks.peers.listen`
    :param files: names of files that are staged before it starts
    """

    def __init__(self, site: Site, kind: str, database: str, files: Iterable[str] = ()) -> None:
        self._site = site
        self.images: Images = site.images(database)
        directory = site.new_directory("bus")
        self.transport = site.vhost()
        site.configure(directory, database, self.transport)
        self.staging = directory / "staging"
        for name in files:
            self.write(name)
        if kind == "watcher":
            self.pid = site.watcher(directory).process.pid
        else:
            more = [database] if kind == "select" else []
            arguments = [kind, self.transport, str(self.staging), *more]
            self.pid = site.peer("listen", *arguments).process.pid
        self.removals = Removals(str(self.staging))
        self.notifier = GlanceNotifier(self.transport)

    def write(self, name: str) -> None:
        """Stage a file."""
        held = os.open(self.staging / name, os.O_WRONLY | os.O_CREAT)
        os.write(held, FILE)
        os.close(held)

    def publish(self, ids: Iterable[str]) -> None:
        """Send many notifications as fast as the broker takes them, past oslo.messaging."""
        url = make_url(self.transport)
        broker = self._site.server(RabbitMQ)
        with broker.channel(vhost=str(url.database)) as channel:
            for image in ids:
                channel.basic_publish(
                    amqp.Message(_notification(image), content_type="application/json"),
                    exchange="glance",
                    routing_key="notifications.info",
                )
            channel.close()  # answered once all before it is taken

    def halt(self) -> None:
        """Let what is sent wait."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it have what waits."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self.notifier.close()
        os.kill(self.pid, signal.SIGKILL)


def _notification(image: str) -> str:
    inner = {
        "message_id": str(uuid.uuid4()),
        "publisher_id": "image.host",
        "event_type": "image.delete",
        "priority": "INFO",
        "payload": {"id": image, "name": "x", "status": "deleted", "deleted": True},
        "timestamp": "2026-01-01 00:00:00.000000",
        "_unique_id": uuid.uuid4().hex,
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)})
