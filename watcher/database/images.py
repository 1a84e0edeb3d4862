# SPDX-License-Identifier: Apache-2.0
"""Glance's database: image ids → live, deleted or absent. Read only, one short query at a time."""

import enum
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import islice
from operator import methodcaller
from threading import Lock
from typing import NamedTuple, TypeVar

from watcher.database.server import Server
from watcher.database.url import redacted, target
from watcher.errors import DatabaseError

IDS_PER_QUERY = 1000

_ANY_ROW = "SELECT images.id FROM images LIMIT 1"

T = TypeVar("T")


class ImageState(enum.Enum):
    """What the database says of an image."""

    LIVE = "live"
    DELETED = "deleted"
    ABSENT = "absent"
    UNKNOWN = "unknown"  # absent from a replica, which may not have the row yet


def state_of(deleted: object) -> ImageState:
    """State by a row's ``deleted`` column; in doubt the image is live."""
    return ImageState.DELETED if deleted in (True, 1) else ImageState.LIVE


class Found(NamedTuple):
    """What a row says.

    :param status: as Glance has it; None without a row, or where it may not be read
    """

    state: ImageState
    status: str | None


_NO_ROW = Found(ImageState.ABSENT, None)


class Images:
    """The ``images`` table of one Glance.

    :param url: ``[database] connection``
    :raises ConfigError: the URL can't be used
    """

    def __init__(self, url: str) -> None:
        found = target(url)
        #: mysql, mariadb, postgresql or sqlite
        self.backend = found.backend
        #: host, port and name of the database, or its file; without secrets
        self.location = found.location
        self._server, self._secrets = found.server, found.secrets
        #: moment of the monotonic clock of its last answer
        self.answered = -math.inf
        self._lock = Lock()

    def find(self, ids: Collection[str]) -> dict[str, Found]:
        """State and status of each id, by the row of exactly that id.

        Absent is what has no row in the answer; `confirm_absent` must follow before that counts.

        :raises DatabaseError: nothing is known then
        """
        found: dict[str, Found] = {}
        for chunk in _chunks(ids, IDS_PER_QUERY):
            found |= self._execute(partial(_found, chunk))
        return {key: found.get(key, _NO_ROW) for key in ids}

    def states(self, ids: Collection[str]) -> dict[str, ImageState]:
        """State of each id; see `find`."""
        return {key: found.state for key, found in self.find(ids).items()}

    def confirm_absent(self, ids: Collection[str]) -> dict[str, ImageState]:
        """The second, separate read before anything of an absent image is removed.

        The server states for each id, in the case as given, lower and upper, whether there is a
        row; a live one wins. A Galera node catches up with its cluster before it answers, and
        what a replica doesn't have is unknown.

        :raises DatabaseError: also when the answer isn't complete, or the table has no row at
            all: most likely it is the wrong database
        """
        if not ids:
            return {}
        forms = dict.fromkeys(form for key in ids for form in (key, key.lower(), key.upper()))
        causal = self._execute(methodcaller("in_galera"))
        stated: dict[str, ImageState] = {}
        for chunk in _chunks(forms, IDS_PER_QUERY):
            stated |= self._execute(partial(_stated, chunk, causal))
        if not {ImageState.LIVE, ImageState.DELETED} & set(stated.values()) and not self.check():
            raise DatabaseError(
                "the images table has no row at all; is [database] connection the right database?"
            )
        return {key: _strongest(stated, key) for key in ids}

    def check(self) -> bool:
        """Whether the table has any row.

        :raises DatabaseError: unreachable, or no ``images`` table
        """
        return bool(self._execute(methodcaller("ask", _ANY_ROW)))

    def close(self) -> None:
        """Close the connection, unless a query is under way: that may take its time limit."""
        if self._lock.acquire(blocking=False):
            try:
                self._server.close()
            finally:
                self._lock.release()

    def _execute(self, ask: Callable[[Server], T]) -> T:
        with self._lock:
            # The server may have closed an idle connection: a second try gets a new one. Cheaper
            # than a ping before each of the queries that wait on a notification.
            tries = 2 if self._server.connected else 1
            while True:
                tries -= 1
                try:
                    answer = ask(self._server)
                except BaseException as error:
                    lost = self._server.lost()
                    self._server.close()  # its next answer might be that to this query
                    if not isinstance(error, Exception):
                        raise
                    if not (lost and tries):
                        raise DatabaseError(self._one_line(error)) from None
                else:
                    self.answered = time.monotonic()
                    return answer

    def _one_line(self, error: BaseException) -> str:
        # PyMySQL's errors are (number, text)
        text = str(error.args[1] if len(error.args) == 2 else error)
        return redacted(text, self._secrets) or type(error).__name__


def _found(asked: list[str], server: Server) -> dict[str, Found]:
    rows = server.find(asked)
    _check_isolation(server, {level for _, _, level, _ in rows})
    known = {key.lower() for key in asked}
    for row_id, *_ in rows:
        # An id that isn't recognized would make its live image look absent.
        if not isinstance(row_id, str) or row_id.lower() not in known:
            raise _strange(row_id)
    images = {row_id: Found(state_of(deleted), status) for row_id, deleted, _, status in rows}
    if len(images) < len(rows):
        raise DatabaseError("asked for images by their ids, it answers with one id twice")
    return images


def _stated(asked: list[str], causal: bool, server: Server) -> dict[str, ImageState]:
    rows = server.state(asked, causal=causal)
    _check_isolation(server, {level for _, _, _, level, _ in rows})
    known = set(asked)
    if strange := [row[0] for row in rows if row[0] not in known]:
        raise _strange(strange[0])
    if Counter(row[0] for row in rows) != Counter(asked):
        raise DatabaseError(
            f"incomplete answer: {len(rows)} rows for {len(asked)} ids; look for "
            "sql_select_limit in the server's settings and in init_command, and for a limit of "
            "rows in a proxy before it"
        )
    states = {}
    for key, row_id, deleted, _, replica in rows:
        if row_id is not None:
            if not isinstance(row_id, str) or row_id.lower() != key.lower():
                raise _strange(row_id)
            states[key] = state_of(deleted)
        elif replica in (0, "0"):
            states[key] = ImageState.ABSENT
        else:
            states[key] = ImageState.UNKNOWN
    return states


def _check_isolation(server: Server, levels: set[object]) -> None:
    for level in levels:
        if str(level).upper().replace("-", " ") not in server.safe_levels:
            raise DatabaseError(
                f"it answers at isolation level {level!s:.50}, which may show what isn't "
                "committed, though READ COMMITTED was set; look for a proxy before it that drops "
                "or changes SET SESSION TRANSACTION"
            )


def _strange(answer: object) -> DatabaseError:
    return DatabaseError(
        f"asked for images by their ids, it answers with {answer!r:.50}; take unusual options out "
        "of [database] connection"
    )


def _strongest(stated: dict[str, ImageState], key: str) -> ImageState:
    states = {stated[form] for form in (key, key.lower(), key.upper())}
    order = (ImageState.LIVE, ImageState.DELETED, ImageState.UNKNOWN, ImageState.ABSENT)
    return next(state for state in order if state in states)


def _chunks(items: Collection[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
