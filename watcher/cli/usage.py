# SPDX-License-Identifier: Apache-2.0
"""The help of the program and of each command: short, in place of what the parser prints."""

import shutil
import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from watcher.cli.options import GLOBAL, Option

if TYPE_CHECKING:
    from watcher.cli import Command

WIDEST = 100  # columns; longer lines are hard to read
COLUMN = 24  # of the texts of options

ABOUT = (
    "Removes files that deleted images left in Glance's staging directory. Without a command it "
    "runs as a service beside glance-api: a full sweep at start, then image.delete notifications "
    "and file events, and a sweep now and then."
)
CONFIG = (
    "It reads the configuration files of this host's Glance, then "
    "/etc/glance-staging-watcher/glance-staging-watcher.conf, unless --config-file or --config-dir "
    "name others; its own options are in [staging_watcher]."
)
EXAMPLES = {
    "sweep --dry-run": "what a sweep would remove, and why",
    "--config-file /etc/glance/glance-api.conf --debug": "the service, in the foreground",
}


def of_command(program: str, name: str, command: "Command") -> str:
    """Help of a command."""
    return _joined(
        f"usage: {' '.join([program, name, *command.usage])} [--format table|json] [option]...",
        _filled(command.description),
        _listed("options", command.options),
        _filled(
            "Options of every command, before or after it: --config-file PATH, --config-dir DIR, "
            f"--debug, --log-file PATH and more; see {program} --help"
        ),
        _examples(f"{program} {name}", command.examples),
        _filled(f"Exit codes: {command.exit_codes}"),
    )


def of_program(program: str, commands: Mapping[str, "Command"], exit_codes: str) -> str:
    """Help of the service."""
    lines = {"": "the service"} | {name: each.summary for name, each in commands.items()}
    return _joined(
        f"usage: {program} [COMMAND] [option]...",
        _filled(ABOUT),
        "\n".join(
            ["commands:", *(f"  {name:<{COLUMN - 2}}{what}" for name, what in lines.items())]
        ),
        _listed("options", GLOBAL),
        _filled(CONFIG),
        _examples(program, EXAMPLES),
        _filled(
            f"Exit codes: {exit_codes} Those of a command, and its options: {program} COMMAND "
            "--help"
        ),
    )


def _joined(*parts: str) -> str:
    return "\n\n".join(parts)


def _width() -> int:
    return min(max(shutil.get_terminal_size().columns, 40), WIDEST)


def _filled(text: str, indent: int = 0) -> str:
    blank = " " * indent
    return textwrap.fill(
        text, _width(), subsequent_indent=blank, break_on_hyphens=False, break_long_words=False
    )


def _listed(title: str, options: Iterable[Option]) -> str:
    lines = [f"{title}:"]
    for option in options:
        names = f"  {option.usage}"
        if len(names) > COLUMN - 2:
            lines += [names, _filled(f"{'':{COLUMN}}{option.text}", COLUMN)]
        else:
            lines.append(_filled(f"{names:<{COLUMN}}{option.text}", COLUMN))
    return "\n".join(lines)


def _examples(program: str, examples: Mapping[str, str]) -> str:
    lines = ["examples:"]
    for arguments, what in examples.items():
        lines += [f"  {program} {arguments}".rstrip(), f"      {what}"]
    return "\n".join(lines)
