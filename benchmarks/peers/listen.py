# SPDX-License-Identifier: Apache-2.0
"""Listeners that only remove: listen.py KIND TRANSPORT-URL DIRECTORY [DATABASE].

``oslo``: a bare oslo.messaging listener that unlinks the file of each deleted image. ``select``:
the same, which asks the database's bare driver first. ``kombu``: the library below it.
"""

import importlib
import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Remove = Callable[[str], None]


def remover(directory: str, database: str | None) -> Remove:
    """Unlinks, after a question to the database if there is one."""
    held = os.open(directory, os.O_RDONLY)
    connection: Any = None
    if database:
        import pymysql
        from sqlalchemy.engine import make_url

        url = make_url(database)
        connection = pymysql.connect(
            host=url.host, port=url.port or 0, user=url.username, password=url.password or "",
            database=url.database, autocommit=True,
        )  # fmt: skip

    def remove(image: str) -> None:
        if connection is not None:
            cursor = connection.cursor()
            cursor.execute("SELECT id, deleted FROM images WHERE id IN (%s)", [image])
            assert cursor.fetchall()[0][1]
        with suppress(FileNotFoundError):
            os.unlink(image, dir_fd=held)

    return remove


def listen_by_oslo(url: str, remove: Remove) -> None:
    """Listen as the watcher does."""
    from oslo_config import cfg

    from watcher.triggers.transport import messaging

    class Endpoint:
        def info(self, context: Any, publisher: Any, event: Any, payload: Any, meta: Any) -> None:
            if event == "image.delete":
                remove(payload["id"])

    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    transport = messaging.get_notification_transport(conf, url=url)
    target = messaging.Target(exchange="glance", topic="notifications")
    messaging.get_notification_listener(transport, [target], [Endpoint()], pool="peer").start(
        override_pool_size=1
    )


def listen_by_kombu(url: str, remove: Remove) -> None:
    """Listen with the same queue and one acknowledgement a message, without oslo.messaging."""
    kombu: Any = importlib.import_module("kombu")
    exchange = kombu.Exchange("glance", "topic", durable=False)
    queue = kombu.Queue("peer", exchange, routing_key="notifications.info", durable=False)
    connection = kombu.Connection(url.replace("rabbit://", "amqp://"))

    def on_message(message: Any) -> None:
        inner = json.loads(json.loads(message.body)["oslo.message"])
        if inner["event_type"] == "image.delete":
            remove(inner["payload"]["id"])
        message.ack()

    consumer = kombu.Consumer(connection.channel(), [queue], on_message=on_message)
    consumer.consume()

    def run() -> None:
        while True:
            connection.drain_events()

    threading.Thread(target=run, daemon=True).start()


def main() -> None:
    """Serve until killed."""
    kind, url, directory, *database = sys.argv[1:]
    remove = remover(directory, database[0] if database else None)
    (listen_by_kombu if kind == "kombu" else listen_by_oslo)(url, remove)
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
