# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL connections that give up on a silent server.

libpq waits for an answer for ever: ``statement_timeout`` is the server's, and no TCP option helps
as long as the kernel of a hung server's host acknowledges what we send.
"""

import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.waiting import READY_NONE

T = TypeVar("T")


class ImpatientConnection(psycopg.Connection[Any]):
    """A connection that closes when one answer takes longer than ``patience`` seconds."""

    patience: float

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """Wait as psycopg does, up to the limit.

        :raises psycopg.OperationalError: the connection is closed then
        """
        try:
            return super().wait(_until(gen, time.monotonic() + self.patience), *args, **kwargs)
        except TimeoutError:
            self.close()
            raise psycopg.OperationalError(
                f"the server did not answer within {self.patience:g} s"
            ) from None


def _until(gen: PQGen[T], deadline: float) -> PQGen[T]:
    # psycopg says READY_NONE several times a second while nothing comes.
    try:
        awaited = next(gen)
        while True:
            ready = yield awaited
            if ready == READY_NONE and time.monotonic() > deadline:
                raise TimeoutError
            awaited = gen.send(ready)
    except StopIteration as stop:
        result: T = stop.value
        return result


def connect(patience: float, *args: Any, **kwargs: Any) -> ImpatientConnection:
    """Connect as psycopg does."""
    connection = ImpatientConnection.connect(*args, **kwargs)
    connection.patience = patience
    return connection
