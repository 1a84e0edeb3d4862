# SPDX-License-Identifier: Apache-2.0
"""Names of staged files → decisions on them: what the database and the directory say is read,
nothing is changed."""

import math
import os
from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

from oslo_log import log

from watcher.database.images import Images, ImageState
from watcher.reconcile.age import AgeClock, Sightings
from watcher.reconcile.verdict import Verdict, verdict
from watcher.staging.directory import Staging
from watcher.staging.names import image_id

LOG = log.getLogger(__name__)

MAX_DELAY = 86400.0  # seconds; for files of the future


class Decision(NamedTuple):
    """Verdict on one file, and why.

    :param status: of the file on which the verdict rests; only for images that are absent
    :param delay: seconds until a recheck
    """

    name: str
    image_id: str | None
    state: ImageState | None
    verdict: Verdict
    reason: str
    status: os.stat_result | None = None
    delay: float = 0.0


class _Sighting(NamedTuple):
    status: os.stat_result | None
    age: float


_UNSEEN = _Sighting(None, math.inf)
_REASONS = {state: f"image is {state.value}" for state in ImageState} | {
    ImageState.UNKNOWN: "image is not in the database, a replica that may lag"
}


class Planner:
    """Decides on files of an open staging directory.

    :param absent_grace: seconds; see `watcher.conf`
    :param max_absent_removals: from one sweep to the next; see `watcher.conf`
    """

    def __init__(
        self, staging: Staging, images: Images, *, absent_grace: float, max_absent_removals: int
    ) -> None:
        self._staging, self._images = staging, images
        self.grace, self.max_absent = absent_grace, max_absent_removals
        self.clock, self._sightings = AgeClock(), Sightings()
        #: files of absent images that were removed since the last sweep began
        self.absent_removed = 0
        #: whether more of them than may be were found since then
        self.braked = False

    def begin(self) -> None:
        """A sweep begins: the brake is let go."""
        self.absent_removed, self.braked = 0, False
        self._sightings.begin()

    def decide(self, names: Sequence[str], notified: Set[str]) -> Iterator[Decision]:
        """Decisions, one a name and in that order, each made when it is asked for.

        :param notified: canonical ids of images that Glance told to be deleted
        :raises DatabaseError: nothing is decided then
        """
        ids = {name: image_id(name) for name in names}
        states = self._images.states({found for found in ids.values() if found})
        # An age is taken once: a file that comes of age meanwhile has not had its second read.
        seen = {
            name: self._see(name)
            for name, found in ids.items()
            if found and states[found] is ImageState.ABSENT
        }
        suspects = {
            found
            for name, found in ids.items()
            if found and name in seen and seen[name].age >= self.grace
        }
        states |= self._images.states_in_any_case(suspects)
        for name, found in ids.items():
            if found is None:
                yield Decision(name, None, None, Verdict.KEEP, "not an image's file")
            else:
                sighting = seen.get(name, _UNSEEN)
                yield self._judge(name, found, states[found], sighting, found.lower() in notified)

    def _see(self, name: str) -> _Sighting:
        try:
            status = self._staging.lstat(name)
        except OSError:  # a broken file system; in doubt the file is young
            return _Sighting(None, -math.inf)
        if status is None:
            return _UNSEEN
        if self._staging.network:
            return _Sighting(status, self._sightings.age(name, status))
        return _Sighting(status, self.clock.age(status))

    def _judge(
        self, name: str, found: str, state: ImageState, seen: _Sighting, notified: bool
    ) -> Decision:
        outcome = verdict(state, age=seen.age, grace=self.grace, notified=notified)
        delay = 0.0
        if state is not ImageState.ABSENT:
            reason = _REASONS[state]
        elif outcome is Verdict.RECHECK:
            delay = min(self.grace - seen.age, MAX_DELAY) + 0.05  # past it, not just at it
            since = "first seen so" if self._staging.network else "changed"
            reason = f"image is not in the database, {since} less than {self.grace:g} s ago"
        elif self.absent_removed >= self.max_absent:
            outcome, reason = Verdict.KEEP, "image is not in the database, max_absent_removals hit"
            self._brake()
        else:
            reason = "image is not in the database"
        return Decision(name, found, state, outcome, reason, seen.status, delay)

    def _brake(self) -> None:
        if not self.braked:
            self.braked = True
            LOG.error(
                "No more than %i files of images that are not in the database are removed from "
                "one sweep to the next; the others stay. If [database] connection is the right "
                "database, raise [staging_watcher] max_absent_removals",
                self.max_absent,
            )
