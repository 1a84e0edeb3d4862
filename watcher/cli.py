# SPDX-License-Identifier: Apache-2.0
"""The program ``glance-staging-watcher``: the service, and ``sweep`` for one sweep by hand.

Exit codes: 0 all well, 1 some files could not be removed or the service failed, 2 the
configuration, the database or the staging directory can't be used.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oslo_config import cfg

USAGE = "glance-staging-watcher [sweep [--dry-run]] [--config-file PATH]... [option]..."
DESCRIPTION = (
    "Removes files that deleted images left in Glance's staging directory. Without a command it "
    "runs as a service beside glance-api: a full sweep at start, then image.delete notifications "
    "and file events, and a sweep now and then. 'sweep' does one sweep and ends; with --dry-run "
    "it removes nothing and says what it would do, and why."
)
EPILOG = (
    "It reads the glance-api.conf of this host's Glance, /etc/glance/glance-api.conf unless "
    "--config-file or --config-dir say otherwise; its own options are in [staging_watcher]. "
    "Exit codes: 0 all well; 1 some files could not be removed; 2 the configuration, the database "
    "or the staging directory can't be used, nothing was removed."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with these arguments; its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    sweeping = args[:1] == ["sweep"]
    if sweeping:
        for number in (signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
    else:
        # Until the service waits for them; the imports below take a while.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    from watcher.conf import ConfigError  # noqa: PLC0415 - see above
    from watcher.images import DatabaseError  # noqa: PLC0415

    try:
        return _sweep(args[1:]) if sweeping else _serve(args)
    except ConfigError as error:
        cause = str(error)
    except DatabaseError as error:
        cause = f"Cannot ask the database for images: {error}"
    print(f"glance-staging-watcher: {cause}", file=sys.stderr)
    return 2


def _load(args: Sequence[str], cli_opts: Sequence[cfg.Opt] = ()) -> cfg.ConfigOpts:
    from watcher import conf  # noqa: PLC0415

    return conf.load(args, cli_opts=cli_opts, usage=USAGE, description=DESCRIPTION, epilog=EPILOG)


def _serve(args: Sequence[str]) -> int:
    loaded = _load(args)
    from watcher import logs, service  # noqa: PLC0415

    logs.setup(loaded)
    return service.run(loaded)


def _sweep(args: Sequence[str]) -> int:
    from oslo_config import cfg  # noqa: PLC0415

    dry_run = cfg.BoolOpt("dry-run", default=False, help="Remove nothing; say what would be done.")
    loaded = _load(args, [dry_run])
    loaded.set_default("use_stderr", True)  # stdout is for the result
    from watcher import logs, sweep  # noqa: PLC0415

    logs.setup(loaded)
    return sweep.run(loaded, dry_run=loaded.dry_run)
