# SPDX-License-Identifier: Apache-2.0
"""The program ``glance-staging-watcher-status``: ``upgrade check``, as OpenStack's services have.

Exit codes: 0 ready, 1 warnings, 2 failures, or the configuration can't be used.
"""

import itertools
import logging
import sys
from collections.abc import Sequence

from oslo_upgradecheck import upgradecheck

from watcher import conf as configuration
from watcher.checks.result import Check, Result
from watcher.cli.check import SECTIONS
from watcher.cli.terminal import printable
from watcher.errors import ConfigError

UPGRADE_PROGRAM = "glance-staging-watcher-status"


def _section(commands: "Commands", title: str) -> upgradecheck.Result:
    return summary(list(SECTIONS[title](commands.conf)))


class Commands(upgradecheck.UpgradeCommands):
    """The checks of ``glance-staging-watcher check``, one for each of its sections."""

    def __init__(self, conf: configuration.Config) -> None:
        super().__init__()
        self.conf = conf

    _upgrade_checks = tuple((title, (_section, {"title": title})) for title in SECTIONS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with these arguments; its exit code."""
    logging.getLogger().addHandler(logging.NullHandler())  # stdout has it all
    conf = configuration.Config(
        prog=UPGRADE_PROGRAM,
        description="upgrade check [--json]: checks what the watcher needs. It changes nothing.",
        epilog="Exit codes: 0 ready; 1 warnings; 2 failures, or the configuration can't be "
        "used; 255 an error in the check itself.",
    )
    args = _reordered(list(sys.argv[1:] if argv is None else argv))
    try:
        return upgradecheck.main(conf, "glance", Commands(conf), args)
    except SystemExit as end:
        return configuration.exit_code(end)
    except ConfigError as error:
        sys.stderr.write(f"{UPGRADE_PROGRAM}: {error}\n")
        return int(Result.FAILURE)


def _reordered(args: list[str]) -> list[str]:
    """Options of the program may follow its command too, where argparse refuses them."""
    for place, pair in enumerate(itertools.pairwise(args)):
        if pair == ("upgrade", "check"):
            after = args[place + 2 :]
            own = [each for each in after if each != "--json"]
            theirs = [each for each in after if each == "--json"]
            return [*args[:place], *own, *pair, *theirs]
    return args


def summary(checks: list[Check]) -> upgradecheck.Result:
    """One result of several checks: the worst, and the text of those that aren't OK."""
    said = [
        f"{check.found} -> {check.remedy}" if check.remedy else check.found
        for check in checks
        if check.result is not Result.OK
    ]
    worst = max((check.result for check in checks), default=Result.OK)
    return upgradecheck.Result(upgradecheck.Code(worst), printable(" | ".join(said)) or None)
