# SPDX-License-Identifier: Apache-2.0
"""One sweep by hand, or the account of what it would do."""

from contextlib import nullcontext

from oslo_config import cfg

from watcher.account import Removal, Tally
from watcher.conf import ConfigError, database_url
from watcher.findings import ERROR, REMOVE, Totals
from watcher.images import Images
from watcher.judge import Decision
from watcher.listing import list_findings
from watcher.output import failed_fields, removed_fields, say, say_json, totals_fields
from watcher.progress import Bar, bar
from watcher.service import new_cleaner, open_staging
from watcher.staging import Staging
from watcher.table import human_size, say_totals


def run(conf: cfg.ConfigOpts, *, dry_run: bool, as_json: bool) -> int:
    """Sweep once; 0, or 1 when some files can't be removed.

    :raises ConfigError: the configuration or the directory can't be used
    :raises DatabaseError: the database can't tell; nothing (more) was removed
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
            _say_summary(staging, Tally(), Totals() if dry_run else None)
        else:
            say(f"Staging directory {staging.path} does not exist: nothing to do")
        return 0
    except OSError as error:
        raise ConfigError(f"Cannot read the staging directory: {error}") from None
    finally:
        images.close()


def _sweep(conf: cfg.ConfigOpts, staging: Staging, images: Images, *, as_json: bool) -> int:
    with nullcontext(Bar()) if as_json else bar(listing=False) as shown:

        def removed(removal: Removal) -> None:
            shown.removed(removal.size)
            if as_json:
                say_json("removed", removed_fields(removal))

        def failed(decision: Decision, error: OSError) -> None:
            if as_json:
                say_json("failed", failed_fields(decision, error))

        cleaner = new_cleaner(
            conf, staging, images, audited=True, on_removal=removed, on_failure=failed
        )
        outcome = cleaner.sweep(shown.step)
    if as_json:
        _say_summary(staging, outcome, None)
    else:
        say(
            f"Cleaned {outcome.cleaned} stale staging files, {outcome.ignored} ignored "
            f"({outcome.error} errors)"
        )
    return 1 if outcome.error else 0


def _plan(conf: cfg.ConfigOpts, staging: Staging, images: Images, *, as_json: bool) -> int:
    totals = list_findings(staging, new_cleaner(conf, staging, images), as_json=as_json)
    error, gain = totals[ERROR].files, totals[REMOVE].size
    outcome = Tally(totals[REMOVE].files, totals.ignored, error, gain)
    if as_json:
        _say_summary(staging, outcome, totals)
    else:
        say_totals(totals)
        say(
            f"Would clean {outcome.cleaned} stale staging files, {outcome.ignored} ignored "
            f"({error} errors); {human_size(gain)} to gain"
        )
    return 1 if error else 0


def _say_summary(staging: Staging, outcome: Tally, totals: Totals | None) -> None:
    say_json(
        "summary",
        {
            "dry_run": totals is not None,
            "directory": staging.path,
            "cleaned": outcome.cleaned,
            "ignored": outcome.ignored,
            "error": outcome.error,
            "size": outcome.size,
            "verdicts": totals and totals_fields(totals),
        },
    )
