# SPDX-License-Identifier: Apache-2.0
"""One sweep by hand, or the account of what it would do."""

from contextlib import nullcontext

from oslo_config import cfg

from watcher.cli.inventory import ERROR, REMOVE, Totals
from watcher.cli.listing import list_findings
from watcher.cli.output import failed_fields, removed_fields, say, say_json, totals_fields
from watcher.cli.progress import Bar, bar
from watcher.cli.signals import Interrupted, Interruption
from watcher.cli.table import human_size, say_totals
from watcher.conf import database_url
from watcher.database.images import Images
from watcher.errors import ConfigError
from watcher.reconcile.cleaner import Cleaner
from watcher.reconcile.planner import Decision
from watcher.service import new_cleaner, open_staging
from watcher.staging.directory import Staging
from watcher.stats import Removal, Tally, Trigger


def run(conf: cfg.ConfigOpts, *, dry_run: bool, as_json: bool) -> int:
    """Sweep once; 0, or 1 when some files can't be removed, or the brake was hit.

    :raises ConfigError: the configuration or the directory can't be used
    :raises DatabaseError: the database can't tell; nothing (more) was removed
    :raises Interrupted: by a signal; says what was removed
    """
    staging = open_staging(conf)
    images = Images(database_url(conf))
    act = _plan if dry_run else _sweep
    try:
        images.check()
        with staging:
            return act(conf, staging, images, as_json=as_json)
    except FileNotFoundError:
        if as_json:
            _say_summary(staging, Tally(), Totals() if dry_run else None, brake=False)
        else:
            say(f"Staging directory {staging.path} does not exist: nothing to do")
        return 0
    except OSError as error:
        raise ConfigError(f"Cannot read the staging directory: {error}") from None
    finally:
        images.close()


def _sweep(conf: cfg.ConfigOpts, staging: Staging, images: Images, *, as_json: bool) -> int:
    with (
        Interruption() as interruption,
        nullcontext(Bar()) if as_json else bar(listing=False) as shown,
    ):

        def removed(removal: Removal) -> None:
            shown.removed(removal.size)
            if as_json:
                say_json("removed", removed_fields(removal))

        def failed(decision: Decision, error: OSError) -> None:
            if as_json:
                say_json("failed", failed_fields(decision, error))

        def between(done: int, count: int) -> None:
            shown.step(done, count)
            interruption.at_rest()

        cleaner = new_cleaner(
            conf,
            staging,
            images,
            stopping=interruption.asked,
            audited=True,
            on_removal=removed,
            on_failure=failed,
        )
        try:
            outcome = cleaner.sweep(between)
            interruption.at_rest()
        except Interrupted as end:
            done = cleaner.stats.tallies[Trigger.SWEEP]
            end.done = f"cleaned {_counts(done)}; {human_size(done.size)} gained"
            raise
    if as_json:
        _say_summary(staging, outcome, None, brake=cleaner.braked)
    else:
        _say_brake(cleaner)
        say(f"Cleaned {_counts(outcome)}; {human_size(outcome.size)} gained")
    return 1 if outcome.error or cleaner.braked else 0


def _plan(conf: cfg.ConfigOpts, staging: Staging, images: Images, *, as_json: bool) -> int:
    cleaner = new_cleaner(conf, staging, images)
    totals = list_findings(staging, cleaner, as_json=as_json)
    error, gain = totals[ERROR].files, totals[REMOVE].size
    outcome = Tally(totals[REMOVE].files, totals.ignored, error, gain)
    if as_json:
        _say_summary(staging, outcome, totals, brake=cleaner.braked)
    else:
        say_totals(totals)
        _say_brake(cleaner)
        say(f"Would clean {_counts(outcome)}; {human_size(gain)} to gain")
    return 1 if error or cleaner.braked else 0


def _counts(tally: Tally) -> str:
    return f"{tally.cleaned} stale staging files, {tally.ignored} ignored ({tally.error} errors)"


def _say_brake(cleaner: Cleaner) -> None:
    if cleaner.braked:
        say("Hit max_absent_removals: further files of images that are not in the database stay")


def _say_summary(staging: Staging, outcome: Tally, totals: Totals | None, *, brake: bool) -> None:
    say_json(
        "summary",
        {
            "dry_run": totals is not None,
            "directory": staging.path,
            "cleaned": outcome.cleaned,
            "ignored": outcome.ignored,
            "error": outcome.error,
            "size": outcome.size,
            "brake": brake,
            "verdicts": totals and totals_fields(totals),
        },
    )
