# SPDX-License-Identifier: Apache-2.0
"""The program ``glance-staging-watcher-status``: ``upgrade check``, as OpenStack's services have.

Exit codes: 0 ready, 1 warnings, 2 failures, or the configuration can't be used.
"""

import itertools
import logging
import sys
from collections.abc import Sequence
from typing import Any, cast

from oslo_config import cfg
from oslo_upgradecheck import upgradecheck

from watcher import conf as configuration
from watcher.checks.result import Check, Result
from watcher.cli.check import SECTIONS, printable
from watcher.errors import ConfigError

PROGRAM = "glance-staging-watcher-status"


def _section(commands: "Commands", title: str) -> upgradecheck.Result:
    return summary(list(SECTIONS[title](commands.conf)))


class Commands(upgradecheck.UpgradeCommands):
    """The checks of ``glance-staging-watcher check``, one for each of its sections."""

    conf: cfg.ConfigOpts

    _upgrade_checks = tuple((title, (_section, {"title": title})) for title in SECTIONS)


class _Options(list[cfg.Opt]):
    """Takes the options that oslo.upgradecheck registers, for `watcher.conf.load`."""

    def register_cli_opt(self, opt: cfg.SubCommandOpt) -> None:
        self.append(_Command(opt.name, handler=opt.handler, title="commands"))


class _Command(cfg.SubCommandOpt):
    """Has errors and help say this program's name."""

    def _add_to_cli(self, parser: Any, group: Any = None) -> None:
        usage = parser.usage
        parser.prog = parser.usage = PROGRAM  # goes before the usage of a command
        super()._add_to_cli(parser, group)
        parser.usage = usage


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with these arguments; its exit code."""
    logging.getLogger().addHandler(logging.NullHandler())  # stdout has it all
    commands, options = Commands(), _Options()
    upgradecheck.register_cli_options(cast(cfg.ConfigOpts, options), commands)
    try:
        commands.conf = configuration.load(
            _reordered(list(sys.argv[1:] if argv is None else argv)),
            cli_opts=options,
            usage=f"{PROGRAM} upgrade check [--json] [option]...",
            description="Checks what the watcher needs. It changes nothing.",
            epilog="Exit codes: 0 ready; 1 warnings; 2 failures, or the configuration can't be "
            "used; 255 an error in the check itself.",
        )
    except SystemExit as end:
        return configuration.exit_code(end)
    except ConfigError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return int(Result.FAILURE)
    if commands.conf.command.name is None:
        commands.conf.print_usage(sys.stderr)
        return int(Result.FAILURE)
    upgradecheck.CONF = commands.conf
    return upgradecheck.run(commands.conf)


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
