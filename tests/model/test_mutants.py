# SPDX-License-Identifier: Apache-2.0
"""Does the model find mistakes? Each of these changes to the code must make it fail."""

import importlib
import inspect
import textwrap
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase

from tests.model.test_model import EXAMPLES, ROUNDS, run_model, small_steps

__all__ = ["small_steps"]  # a fixture


class Change(NamedTuple):
    """One text in the source of a function, and what stands there instead.

    :param where: module below ``watcher``, and function
    """

    where: str
    before: str
    after: str


PLANNER, BUDGET = "reconcile.planner", "reconcile.budget"
IMAGES, STAGING = "database.images", "staging.directory"
CLEANER, RECONCILER = "reconcile.cleaner", "reconcile.reconciler"

MUTANTS: dict[str, list[Change]] = {
    "notified images are residue though their row is live": [
        Change(f"{PLANNER}:action_for", "Action.RECHECK if notified", "Action.REMOVE if notified")
    ],
    "deleted images are kept": [
        Change(f"{PLANNER}:action_for", "return Action.REMOVE, Reason.DELETED", "pass")
    ],
    "an unknown image counts as absent": [
        Change(f"{PLANNER}:action_for", "state is ImageState.UNKNOWN", "False")
    ],
    "young files without a row are removed": [
        Change(f"{PLANNER}:action_for", "if age < grace", "if age < grace / 2"),
        Change(f"{PLANNER}:Planner.decide", "age >= self.grace", "age >= self.grace / 2"),
    ],
    "no witness is needed": [Change(f"{PLANNER}:Planner.witnessed", "return ", "return True or ")],
    "a witness that has no row any more is believed": [
        Change(f"{PLANNER}:Planner._confirm", "not in _KNOWN", "not in ImageState")
    ],
    "notified images are no witness": [
        Change(f"{PLANNER}:Planner.look_for_witness", "if not self.witnessed", "if False")
    ],
    "the first read is enough": [Change(f"{PLANNER}:Planner.decide", "if suspects:", "if False:")],
    "the second read is ignored": [
        Change(f"{PLANNER}:Planner.decide", "states |= self._confirm", "self._confirm")
    ],
    "notified images are compared with capital letters": [
        Change(f"{PLANNER}:Planner.decide", "found.lower() in notified", "found in notified")
    ],
    "a file's status is not kept with its decision": [
        Change(f"{PLANNER}:Planner._decide", "_status(look)", "None")
    ],
    "the wait until the grace is over is too long": [
        Change(f"{PLANNER}:Planner._decide", "self.grace - age", "2 * self.grace - age")
    ],
    "the limit is not applied": [
        Change(f"{PLANNER}:Planner.afford", "not self.budget.reserve()", "False")
    ],
    "what was reserved is never given back": [
        Change(f"{PLANNER}:Planner.refund", "decision.reason is Reason.ABSENT", "False")
    ],
    "one more than the limit": [
        Change(f"{BUDGET}:RemovalBudget.room", "self.limit -", "1 + self.limit -")
    ],
    "the budget lasts for half a day": [
        Change(f"{BUDGET}:RemovalBudget.room", ">= WINDOW", ">= WINDOW / 2")
    ],
    "the budget is never refilled": [
        Change(f"{BUDGET}:RemovalBudget.room", ">= WINDOW", ">= 9 * WINDOW")
    ],
    "the budget forgets all when the oldest removal is old": [
        Change(
            f"{BUDGET}:RemovalBudget.room",
            "self._spent.popleft()",
            "self._spent.clear()",
        )
    ],
    "reservations are not counted": [
        Change(f"{BUDGET}:RemovalBudget.reserve", "self._spent.append(self._clock())", "pass")
    ],
    "a refund gives back two": [
        Change(f"{BUDGET}:RemovalBudget.refund", "self._spent.pop()", "self._spent.clear()")
    ],
    "a row in doubt is a deleted one": [
        Change(f"{IMAGES}:state_of", "deleted in (True, 1)", "deleted not in (False, 0)")
    ],
    "what an answer doesn't name is absent": [
        Change(f"{IMAGES}:_stated", "Counter(row[0] for row in rows) != Counter(asked)", "False"),
        Change(f"{IMAGES}:_strongest", "stated[form]", "stated.get(form, ImageState.ABSENT)"),
    ],
    "an answer may have rows that nobody asked for": [
        Change(f"{IMAGES}:_stated", "if strange :=", "if False and"),
        Change(f"{IMAGES}:_stated", "Counter(row[0] for row in rows) != Counter(asked)", "False"),
        Change(f"{IMAGES}:_strongest", "stated[form]", "stated.get(form, ImageState.ABSENT)"),
    ],
    "what isn't committed counts": [
        Change(f"{IMAGES}:_check_isolation", "for level in levels", "for level in ()")
    ],
    "what a replica doesn't have is absent": [
        Change(f"{IMAGES}:_stated", "replica in (0, ", "replica in (0, 1, ")
    ],
    "ids are compared in one case": [
        Change(f"{IMAGES}:Images.confirm_absent", "(key, key.lower(), key.upper())", "(key,)"),
        Change(f"{IMAGES}:_strongest", "(key, key.lower(), key.upper())", "(key,)"),
    ],
    "one absent spelling outweighs a live one": [
        Change(f"{IMAGES}:_strongest", "order = (ImageState.LIVE", "order = (ImageState.ABSENT")
    ],
    "an error of the stating read is an answer": [
        Change(
            f"{PLANNER}:Planner._confirm",
            "stated = self._images.confirm_absent(batch | witness)",
            "stated = dict.fromkeys(batch, ImageState.ABSENT) | dict.fromkeys(witness, _KNOWN[0])",
        )
    ],
    "a file that was written again is removed": [
        Change(f"{STAGING}:Staging.remove", "_version(now) != _version(seen)", "False")
    ],
    "a file that came after the look is removed": [
        Change(f"{STAGING}:Staging.remove", "seen is None or", "seen is not None and")
    ],
    "a directory that was moved away is worked on": [
        Change(f"{STAGING}:Staging.remove", "not self.is_in_place()", "False")
    ],
    "what was gone counts as removed": [
        Change(f"{STAGING}:Staging.remove", "return None", "return 0")
    ],
    "the last name of a listing is forgotten": [
        Change(
            f"{STAGING}:Staging.listing",
            "yield name",
            "yield from [name] if name != batch[-1][1] else []",
        )
    ],
    "names that events report are not remembered": [
        Change(f"{STAGING}:Staging.saw", "index.add if there else index.discard", "index.discard")
    ],
    "only the image's plain name is looked up": [
        Change(f"{STAGING}:Staging.files_of", "index.files_of(key)", "[key]")
    ],
    "names that no event reported are believed to be known": [
        Change(f"{STAGING}:Staging.forget_names", "self._index = None", "pass")
    ],
    "actions never grow old": [
        Change(f"{CLEANER}:Pass.decisions", "> MAX_DECISION_AGE", "> 10 * MAX_DECISION_AGE")
    ],
    "decisions are not held for a witness": [
        Change(f"{CLEANER}:Pass.decisions", "decision.reason is Reason.NO_WITNESS", "False")
    ],
    "an event waits for the end of the sweep": [
        Change(f"{RECONCILER}:Reconciler._sweep_all", "self._queue.take_events()", "None")
    ],
    "no check before the first sweep": [
        Change(f"{RECONCILER}:Reconciler._sweep_all", "or not self._checked", "")
    ],
    "the count of tries is never reset": [
        Change(f"{RECONCILER}:Reconciler._handle", "self._failed_tries = 0", "pass")
    ],
    "what an error left undone is forgotten": [
        Change(f"{RECONCILER}:Reconciler._retry", "self._queue.requeue(", "dict(")
    ],
    "young files are left to the sweeps": [
        Change(f"{RECONCILER}:Reconciler._requeue_files", "self._queue.delayed >=", "0 <=")
    ],
    "lagging images are left to the sweeps": [
        Change(f"{RECONCILER}:Reconciler._requeue_lagging", "is not None", "is None")
    ],
}


def apply(patch: pytest.MonkeyPatch, change: Change) -> None:
    """Make a change to a function for as long as the patch lasts."""
    module, _, path = change.where.partition(":")
    owner: Any = importlib.import_module(f"watcher.{module}")
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    found = inspect.getattr_static(owner, name)
    function: Any = found.fget if isinstance(found, property) else found
    source = getattr(function, "mutated", None) or textwrap.dedent(inspect.getsource(function))
    assert source.count(change.before) == 1, f"{change.before!r} is not in {change.where} once"
    source = source.replace(change.before, change.after)
    made: dict[str, Any] = {}
    exec(compile(source, change.where, "exec"), function.__globals__, made)
    (made[name].fget if isinstance(found, property) else made[name]).mutated = source
    patch.setattr(owner, name, made[name])


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("name", MUTANTS)
def test_the_model_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same rounds that the unchanged code passes."""
    for change in MUTANTS[name]:
        apply(monkeypatch, change)
    with pytest.raises((AssertionError, KeyError)):
        for number in range(ROUNDS):
            run_model(number, EXAMPLES, (Phase.generate,))
