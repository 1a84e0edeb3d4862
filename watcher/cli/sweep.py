# SPDX-License-Identifier: Apache-2.0
"""One sweep by hand, or what it would do."""

from collections.abc import Iterable
from contextlib import nullcontext

from oslo_config import cfg

from watcher.cli.inventory import ERROR, REMOVE, Totals
from watcher.cli.jsonlines import (
    failed_fields,
    kinds_fields,
    removed_fields,
    say_json,
    totals_fields,
)
from watcher.cli.listing import list_entries
from watcher.cli.progress import Bar, bar
from watcher.cli.signals import Interrupted, Interruption
from watcher.cli.table import say_totals
from watcher.cli.terminal import say
from watcher.conf import GROUP, database_url
from watcher.database.images import Images
from watcher.errors import ConfigError
from watcher.reconcile.cleaner import Cleaner, Failure, Progress, Removal
from watcher.reconcile.kinds import Kinds
from watcher.service import new_cleaner, open_staging
from watcher.staging.directory import DirectoryReplacedError, Staging
from watcher.stats import Stats, Tally
from watcher.telemetry.audit import AuditLog
from watcher.telemetry.removals import Removals
from watcher.units import counted, human_size


def run(conf: cfg.ConfigOpts, *, dry_run: bool, trusted: bool, as_json: bool) -> int:
    """Sweep once; 0, or 1 when some files can't be removed, or are kept by a safeguard.

    :param trusted: the operator says that this is the right database
    :raises ConfigError: the configuration or the directory can't be used
    :raises DatabaseError: the database can't answer; nothing (more) was removed
    :raises Interrupted: by a signal; says what was removed
    """
    staging = open_staging(conf)
    images = Images(database_url(conf))
    cleaner = new_cleaner(conf, staging, images, Stats(), trusted=trusted)
    act = _plan if dry_run else _sweep
    try:
        images.check()
        with staging:
            return act(conf, staging, cleaner, as_json=as_json)
    except FileNotFoundError:
        if as_json:
            _say_summary(staging, Tally(), [], Totals() if dry_run else None, kept=(0, 0))
        else:
            say(f"Staging directory {staging.path} does not exist: nothing to do")
        return 0
    except DirectoryReplacedError:
        raise ConfigError(
            f"The staging directory {staging.path} was replaced during the sweep; run it again"
        ) from None
    except OSError as error:
        raise ConfigError(f"Cannot read the staging directory: {error}") from None
    finally:
        images.close()


def _sweep(conf: cfg.ConfigOpts, staging: Staging, cleaner: Cleaner, *, as_json: bool) -> int:
    removals = Removals(_audit(conf))
    count = staging.count()
    work = cleaner.sweep(count=count)
    with (
        Interruption() as interruption,
        nullcontext(Bar()) if as_json else bar(listing=False) as shown,
    ):
        try:
            for step in work.steps():
                if isinstance(step, Removal):
                    removals.report(step)
                    shown.removed(step.size)
                    if as_json:
                        say_json("removed", removed_fields(step))
                elif isinstance(step, Failure) and as_json:
                    say_json("failed", failed_fields(step.decision, step.error))
                shown.step(work.done, count)
                interruption.at_once = isinstance(step, Progress) and step.asking
                interruption.check()
        except Interrupted as end:
            done = work.outcome
            end.done = f"cleaned {_counts(done)}; {human_size(done.size)} gained"
            raise
        finally:
            removals.close()
    outcome = work.outcome
    if as_json:
        kept = outcome.limited, outcome.unwitnessed
        _say_summary(staging, outcome, [outcome.kinds], None, kept=kept)
    else:
        _say_kept(outcome.limited, outcome.unwitnessed)
        say(f"Cleaned {_counts(outcome)}; {human_size(outcome.size)} gained")
    return 1 if outcome.error or outcome.limited or outcome.unwitnessed else 0


def _audit(conf: cfg.ConfigOpts) -> AuditLog | None:
    path = conf[GROUP].audit_log
    return AuditLog(path) if path else None


def _plan(conf: cfg.ConfigOpts, staging: Staging, cleaner: Cleaner, *, as_json: bool) -> int:
    totals = list_entries(staging, cleaner, as_json=as_json)
    error, gain = totals[ERROR].files, totals[REMOVE].size
    outcome = Tally(totals[REMOVE].files, totals.ignored, error, gain)
    if as_json:
        kept = totals.limited, totals.unwitnessed
        _say_summary(staging, outcome, totals.kinds.values(), totals, kept=kept)
    else:
        say_totals(totals)
        _say_kept(totals.limited, totals.unwitnessed)
        say(f"Would clean {_counts(outcome)}; {human_size(gain)} to gain")
    return 1 if error or totals.limited or totals.unwitnessed else 0


def _counts(tally: Tally) -> str:
    files = counted(tally.cleaned, "stale staging file")
    return f"{files}, {tally.ignored} ignored ({counted(tally.error, 'error')})"


def _say_kept(limited: int, unwitnessed: int) -> None:
    if limited:
        files = counted(limited, "more file")
        say(f"Reached max_absent_removals; kept: {files} without a database row")
    if unwitnessed:
        say(
            f"None of the image files here has a row in the database; kept: "
            f"{counted(unwitnessed, 'file')}; is [database] connection this Glance's database? If "
            "so: --trust-database"
        )


def _say_summary(
    staging: Staging,
    outcome: Tally,
    kinds: Iterable[Kinds],
    totals: Totals | None,
    *,
    kept: tuple[int, int],
) -> None:
    say_json(
        "summary",
        {
            "dry_run": totals is not None,
            "directory": staging.path,
            "cleaned": outcome.cleaned,
            "ignored": outcome.ignored,
            "error": outcome.error,
            "size": outcome.size,
            "limited": kept[0],
            "unwitnessed": kept[1],
            "actions": totals and totals_fields(totals),
            "kinds": kinds_fields(kinds),
        },
    )
