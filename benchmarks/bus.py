# SPDX-License-Identifier: Apache-2.0
"""Subjects that listen to notifications, each in a virtual host and a directory of its own."""

import json
import os
import signal
import socket
import time
import uuid
from collections.abc import Iterable

import amqp
from sqlalchemy.engine import make_url

from benchmarks.inotify import Removals
from benchmarks.site import FILE, Site
from tests.functional.host import GlanceNotifier
from tests.services import Images, RabbitMQ

# of an image without tags and properties
PAYLOAD = {
    "name": "debian-12-generic-amd64",
    "status": "deleted",
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
    "min_disk": 0,
    "min_ram": 0,
    "protected": False,
    "checksum": "d41d8cd98f00b204e9800998ecf8427e",
    "owner": "5c2b1e0a9c0f4d0bb9c4f6c0b2f0a1d3",
    "disk_format": "qcow2",
    "container_format": "bare",
    "size": 350 << 20,
    "virtual_size": 3 << 30,
    "is_public": False,
    "visibility": "shared",
    "properties": {},
    "tags": [],
    "deleted": True,
    "deleted_at": "2026-01-01T00:00:00.000000",
}


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
        """Send many notifications as fast as the broker takes them."""
        publish(self._site.server(RabbitMQ), self.transport, ids)

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


def publish(broker: RabbitMQ, transport: str, ids: Iterable[str], pause: float = 0.0) -> None:
    """Send many notifications, past oslo.messaging; the broker has taken all when it returns.

    :param pause: seconds after each
    """
    with broker.channel(vhost=str(make_url(transport).database or "/")) as channel:
        # amqp gives up after a second in which the broker, which holds it back, reads nothing
        channel.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
        for image in ids:
            channel.basic_publish(
                amqp.Message(notification(image), content_type="application/json", delivery_mode=2),
                exchange="glance",
                routing_key="notifications.info",
            )
            if pause:
                time.sleep(pause)
        channel.close()  # answered once all before it is taken


def notification(image: str) -> str:
    """A notification as Glance and oslo.messaging write it."""
    inner = {
        "message_id": str(uuid.uuid4()),
        "publisher_id": "image.host",
        "event_type": "image.delete",
        "priority": "INFO",
        "payload": PAYLOAD | {"id": image},
        "timestamp": "2026-01-01 00:00:00.000000",
        "_unique_id": uuid.uuid4().hex,
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)})
