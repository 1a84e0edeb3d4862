# SPDX-License-Identifier: Apache-2.0
"""One sweep by hand, or the account of what it would do."""

import stat
import sys
from collections.abc import Iterable

from oslo_config import cfg

from watcher.cleaner import Cleaner
from watcher.conf import ConfigError, database_url
from watcher.images import Images
from watcher.judge import Decision
from watcher.service import new_cleaner, open_staging
from watcher.staging import Staging
from watcher.verdict import Verdict


def run(conf: cfg.ConfigOpts, *, dry_run: bool) -> int:
    """Sweep once; 0, or 1 when some files can't be removed.

    :raises ConfigError: the configuration or the directory can't be used
    :raises DatabaseError: the database can't tell; nothing (more) was removed
    """
    staging = open_staging(conf)
    images = Images(database_url(conf))
    cleaner = new_cleaner(conf, staging, images)
    try:
        images.check()
        with staging:
            return _explain(staging, cleaner.plan()) if dry_run else _sweep(cleaner)
    except FileNotFoundError:
        _say(f"Staging directory {staging.path} does not exist: nothing to do")
        return 0
    except OSError as error:
        raise ConfigError(f"Cannot read the staging directory: {error}") from None
    finally:
        images.close()


def _sweep(cleaner: Cleaner) -> int:
    if sys.stderr.isatty():
        outcome = cleaner.sweep(_show_progress)
        sys.stderr.write("\n")
    else:
        outcome = cleaner.sweep()
    _say(
        f"Cleaned {outcome.cleaned} stale staging files, {outcome.ignored} ignored "
        f"({outcome.error} errors)"
    )
    return 1 if outcome.error else 0


def _show_progress(done: int, count: int) -> None:
    sys.stderr.write(f"\r{done} of {count} files")
    sys.stderr.flush()


def _explain(staging: Staging, decisions: Iterable[Decision]) -> int:
    cleaned = ignored = error = gain = 0
    for decision in decisions:
        status = staging.lstat(decision.name)
        size = status.st_blocks * 512 if status else 0
        action, reason = decision.verdict.value, decision.reason
        if decision.verdict is not Verdict.REMOVE:
            ignored += 1
            action = "keep"
        elif status and not stat.S_ISREG(status.st_mode):
            error += 1
            action, reason = "error", f"{reason}, but this is not a regular file"
        else:
            cleaned += 1
            gain += size
        _say(f"{action:<6} {human_size(size):>9}  {_printable(decision.name)}  ({reason})")
    _say(
        f"Would clean {cleaned} stale staging files, {ignored} ignored ({error} errors); "
        f"{human_size(gain)} to gain"
    )
    return 1 if error else 0


def human_size(size: float) -> str:
    """Bytes in binary units."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    power = min(max(0, (int(size).bit_length() - 1) // 10), len(units) - 1)
    return f"{size / 1024**power:.{1 if power else 0}f} {units[power]}"


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
