# SPDX-License-Identifier: Apache-2.0
"""Names of staged files → decisions. Directory and database are read, nothing is changed."""

import enum
import math
import os
from collections.abc import Mapping, Sequence, Set
from itertools import islice
from typing import NamedTuple

from watcher.database.images import Found, Images, ImageState
from watcher.errors import DatabaseError
from watcher.reconcile.age import AgeClock, Sightings
from watcher.reconcile.budget import RemovalBudget
from watcher.staging.directory import Staging
from watcher.staging.names import image_id

FIRST_RECHECK = 0.5  # seconds
RECHECKS = 8  # 0.5 s, 1 s, ... 64 s: two minutes in all

SUSPECTS_PER_QUERY = 250  # each is asked for in up to three spellings, all in one statement

_NOBODY: Set[str] = frozenset()
_KNOWN = (ImageState.LIVE, ImageState.DELETED)


#: status of a file, or why there is none; FileNotFoundError: it is gone
Look = os.stat_result | OSError


class Action(enum.Enum):
    """What to do with a file."""

    KEEP = "keep"
    REMOVE = "remove"
    RECHECK = "recheck"


class Reason(enum.Enum):
    """Why; the value is the text for operators."""

    NOT_AN_IMAGE = "not an image file"
    LIVE = "image is live"
    DELETED = "image is deleted"
    UNKNOWN = "image has no row in this database, a replica that may lag"
    YOUNG = "image has no row in the database, file is younger than absent_grace"
    NO_WITNESS = "image has no row in the database, which no image seen here has either"
    LIMIT = "image has no row in the database, max_absent_removals reached"
    ABSENT = "image has no row in the database"


class Decision(NamedTuple):
    """What to do with one file, and why.

    :param status: of the file, from before its image's row was read; None if there was none
    :param delay: seconds until a recheck
    :param image_status: of a live image, if it may be read
    """

    name: str
    image_id: str | None
    state: ImageState | None
    action: Action
    reason: Reason
    status: os.stat_result | None = None
    delay: float = 0.0
    image_status: str | None = None


def action_for(
    state: ImageState, *, age: float, grace: float, notified: bool, witnessed: bool
) -> tuple[Action, Reason]:
    """Decide on a file of an image in that state; the removal budget comes on top.

    :param age: seconds since the file last changed in any way
    :param grace: age in seconds from which on an absent image's file is residue
    :param notified: Glance reported that it deleted this image
    :param witnessed: this database is known to be this Glance's
    """
    if state is ImageState.DELETED:
        return Action.REMOVE, Reason.DELETED
    if state is ImageState.LIVE:
        # A reported deletion that the row doesn't show: a lagging replica.
        return (Action.RECHECK if notified else Action.KEEP), Reason.LIVE
    if state is ImageState.UNKNOWN:
        return Action.KEEP, Reason.UNKNOWN
    if age < grace:
        return Action.RECHECK, Reason.YOUNG
    if not witnessed:
        return Action.KEEP, Reason.NO_WITNESS
    return Action.REMOVE, Reason.ABSENT


def recheck_delay(attempt: int) -> float | None:
    """Seconds to wait for a lagging row before recheck number ``attempt`` (the first is 1).

    None when the rest is left to the sweeps.
    """
    return FIRST_RECHECK * 2.0 ** (attempt - 1) if attempt <= RECHECKS else None


class Planner:
    """Decides on files of an open staging directory.

    :param absent_grace: seconds; see `watcher.conf`
    :param trusted: the operator says that this is the right database: no witness is needed
    """

    def __init__(
        self,
        staging: Staging,
        images: Images,
        budget: RemovalBudget,
        *,
        absent_grace: float,
        trusted: bool,
        clock: AgeClock | None = None,
    ) -> None:
        self._staging, self._images, self.budget = staging, images, budget
        self.grace = absent_grace
        self._trusted = trusted
        #: an image that Glance named here since start and that had a row when it was last asked for
        self._witness: str | None = None
        self._clock, self._sightings = clock or AgeClock(), Sightings()

    @property
    def witnessed(self) -> bool:
        """Whether this database is known to be this Glance's."""
        return self._trusted or self._witness is not None

    def begin_sweep(self) -> None:
        """Forget files that the last sweep did not see."""
        self._sightings.begin()

    def look_for_witness(self, ids: Set[str]) -> None:
        """Ask for images that Glance named, unless a witness was found already.

        :raises DatabaseError: it can't be asked
        """
        if not self.witnessed:
            self._find(ids)

    def look(self, name: str) -> Look:
        """Status of a file, to be taken before its image's row is read."""
        try:
            return self._staging.lstat(name)
        except OSError as error:  # what is wrong with one name concerns that name only
            return error

    def decide(self, looks: Mapping[str, Look], notified: Set[str] = _NOBODY) -> Sequence[Decision]:
        """Decide on files whose status was just taken by `look`, in that order.

        :param notified: canonical ids of images whose deletion Glance reported
        :raises DatabaseError: nothing is decided then
        """
        ids = {name: image_id(name) for name in looks}
        images = self._find({found for found in ids.values() if found})
        states = {key: image.state for key, image in images.items()}
        # An age is taken once: a file that comes of age meanwhile has not had its second read.
        ages = {
            name: self._age(name, looks[name])
            for name, found in ids.items()
            if found and states[found] is ImageState.ABSENT
        }
        suspects = {ids[name] or "" for name, age in ages.items() if age >= self.grace}
        if suspects:
            states |= self._confirm(suspects)
        return [
            Decision(name, None, None, Action.KEEP, Reason.NOT_AN_IMAGE, _status(looks[name]))
            if found is None
            else self._decide(
                name,
                found,
                states[found],
                looks[name],
                image_status=images[found].status,
                age=ages.get(name, 0.0),
                notified=found.lower() in notified,
            )
            for name, found in ids.items()
        ]

    def _find(self, ids: Set[str]) -> dict[str, Found]:
        images = self._images.find(ids)
        self._witness = next(
            (key for key, image in images.items() if image.state in _KNOWN), self._witness
        )
        return images

    def _confirm(self, suspects: Set[str]) -> dict[str, ImageState]:
        """Have the database state what has no row; the witness must have one in the same answer,
        for the server behind an address may become another one."""
        if not self.witnessed and not self._images.check():
            raise DatabaseError(
                "the images table has no row at all; is [database] connection the right database?"
            )
        states: dict[str, ImageState] = {}
        waiting = iter(suspects)
        while self.witnessed and (batch := set(islice(waiting, SUSPECTS_PER_QUERY))):
            witness = {self._witness} if self._witness else set()
            stated = self._images.confirm_absent(batch | witness)
            if self._witness and stated[self._witness] not in _KNOWN:
                self._witness = None
            states |= stated
        return states

    def _age(self, name: str, look: Look) -> float:
        if isinstance(look, FileNotFoundError):
            return math.inf
        if isinstance(look, OSError):  # unknown: in doubt the file is young
            return -math.inf
        if self._staging.network:
            return self._sightings.age(name, look)
        return self._clock.age(look)

    def _decide(
        self,
        name: str,
        found: str,
        state: ImageState,
        look: Look,
        *,
        image_status: str | None,
        age: float,
        notified: bool,
    ) -> Decision:
        action, reason = action_for(
            state,
            age=age,
            grace=self.grace,
            notified=notified,
            witnessed=self.witnessed,
        )
        young = reason is Reason.YOUNG
        delay = self.grace - age + 0.05 if young else 0.0  # past it, not just at it
        return Decision(name, found, state, action, reason, _status(look), delay, image_status)

    def afford(self, decision: Decision) -> Decision:
        """Apply the budget, just before a decision is carried out or shown.

        The removal of an absent image's file is reserved: whoever doesn't make it calls `refund`.
        """
        if decision.reason is Reason.ABSENT and not self.budget.reserve():
            return decision._replace(action=Action.KEEP, reason=Reason.LIMIT)
        return decision

    def refund(self, decision: Decision) -> None:
        """Give back what was reserved for a removal that was not made."""
        if decision.reason is Reason.ABSENT:
            self.budget.refund()


def _status(look: Look) -> os.stat_result | None:
    return None if isinstance(look, OSError) else look
