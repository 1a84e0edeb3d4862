# SPDX-License-Identifier: Apache-2.0
"""Kafka as the message bus, as far as oslo.messaging's own driver supports it."""

import time
from collections.abc import Callable

from tests.conftest import sqlite_url
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.services.kafka import MockKafka

TIMEOUT = 90.0  # seconds
INTERVAL = 0.5  # seconds

database_url = sqlite_url


def test_a_notification_reaches_the_queue(new_host: Callable[..., Host]) -> None:
    mock = MockKafka("notifications.info")
    host = new_host(transport_url=mock.url())
    image = host.stage_live()
    program = host.start()
    program.wait_for_line("Listening for notifications", TIMEOUT)
    host.forget(image)
    host.images.delete(image)
    notifier = GlanceNotifier(mock.url())
    # The group may not have its partition yet, and then it begins at the end of the topic.
    deadline = time.monotonic() + TIMEOUT
    while (host.staging / image).exists():
        assert time.monotonic() < deadline, program.log
        notifier.send("image.update", {"id": new_id()})
        notifier.deleted(image)
        time.sleep(INTERVAL)
    notifier.close()
    assert not program.lines("ERROR")
