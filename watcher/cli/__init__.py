# SPDX-License-Identifier: Apache-2.0
"""The program ``glance-staging-watcher``: the service, and commands for people and programs."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from watcher.cli.signals import Interrupted

if TYPE_CHECKING:
    from oslo_config import cfg

    from watcher.conf import Config

PROGRAM = "glance-staging-watcher"
CONFIG = (
    "It reads the configuration files of this host's Glance, then "
    "/etc/glance-staging-watcher/glance-staging-watcher.conf, unless --config-file or --config-dir "
    "name others; its own options are in [staging_watcher]. "
)
#: options for any command that take a value; those of oslo.config and oslo.log
VALUED = (
    *("--config-file", "--config-dir", "--format", "--shell_completion"),
    *("--log-config-append", "--log-config", "--log_config", "--log-date-format"),
    *("--log-file", "--logfile", "--log-dir", "--logdir", "--syslog-log-facility"),
)
OWN_LOG = ("--log-f", "--logf", "--log-di", "--logd")  # as oslo.log has them, short forms too
CANNOT = "2 the configuration, the database or the staging directory can't be used"


class Command(NamedTuple):
    """One sub-command.

    :param usage: its own options
    :param summary: for the list of commands; at most 36 characters
    :param flags: names of its options that are on or off, with their help
    :param run: what it does; the exit code
    :param values: names of its options with a value, with their help
    """

    usage: list[str]
    summary: str
    description: str
    exit_codes: str
    flags: dict[str, str]
    run: Callable[[Config], int]
    values: dict[str, str] = {}  # noqa: RUF012 - constant


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with these arguments; its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    name, args = split(args)
    if name is not None and name not in COMMANDS:
        print(
            f"{PROGRAM}: Unknown command {name!a}; expected one of {', '.join(COMMANDS)}, "
            "or none for the service",
            file=sys.stderr,
        )
        return 2
    if name is None:
        # Until the service waits for them; the imports below take a while.
        early = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2}
        signal.pthread_sigmask(signal.SIG_BLOCK, early)
    else:
        for number in (signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
    from watcher.conf import exit_code  # noqa: PLC0415 - see above
    from watcher.errors import ConfigError, DatabaseError  # noqa: PLC0415 - see above

    try:
        return _serve(args) if name is None else _command(name, args)
    except SystemExit as end:
        return exit_code(end)
    except ConfigError as error:
        cause = str(error)
    except DatabaseError as error:
        cause = f"Cannot ask the database for images: {error}"
    except Interrupted as end:
        return _end_by_signal(end)
    print(f"{PROGRAM}: {cause}", file=sys.stderr)
    return 2


def split(args: list[str]) -> tuple[str | None, list[str]]:
    """The command and the other arguments; options may stand before it."""
    words = iter(enumerate(args))
    for place, word in words:
        if not word.startswith("-"):
            return word, args[:place] + args[place + 1 :]
        if word.startswith("--") and any(option.startswith(word) for option in VALUED):
            next(words, None)
    return None, args


def _end_by_signal(end: Interrupted) -> int:
    # By the signal itself, so that a shell breaks off its loop too.
    from watcher.cli import terminal  # noqa: PLC0415 - see above
    from watcher.errors import ConfigError  # noqa: PLC0415

    with suppress(ConfigError):
        terminal.flush()
    if end.done:
        print(f"{PROGRAM}: Stopped: {end.done}", file=sys.stderr)
    signal.signal(end.number, signal.SIG_DFL)
    signal.raise_signal(end.number)
    return 128 + end.number  # the first process of a container is still there


def _serve(args: Sequence[str]) -> int:
    from watcher import conf  # noqa: PLC0415

    lines = [("[option]...", "the service")]
    lines += [(" ".join([name, *each.usage]), each.summary) for name, each in COMMANDS.items()]
    width = max(len(usage) for usage, _ in lines)
    loaded = conf.load(
        args,
        usage="\n       ".join(f"{PROGRAM} {usage:{width}}  {what}" for usage, what in lines),
        description="Removes files that deleted images left in Glance's staging directory. "
        "Without a command it runs as a service beside glance-api: a full sweep at start, then "
        "image.delete notifications and file events, and a sweep now and then.",
        epilog=f"{CONFIG}Exit codes: 0 all well, or stopped by SIGTERM or SIGINT; 1 the service "
        f"failed; {CANNOT}. Those of a command, and its options: {PROGRAM} COMMAND --help",
    )
    from watcher import logs, service  # noqa: PLC0415

    logs.setup(loaded)
    return service.run(loaded)


def _command(name: str, args: Sequence[str]) -> int:
    from oslo_config import cfg  # noqa: PLC0415

    from watcher import conf  # noqa: PLC0415

    command = COMMANDS[name]
    options: list[cfg.Opt] = [
        cfg.BoolOpt(flag, default=False, help=text) for flag, text in command.flags.items()
    ]
    options += [cfg.StrOpt(name, help=text) for name, text in command.values.items()]
    form = cfg.StrOpt(
        "format",
        default="table",
        choices=["table", "json"],
        help="A table for people, or JSON for programs.",
    )
    loaded = conf.load(
        args,
        cli_opts=[*options, form],
        usage=" ".join([PROGRAM, name, *command.usage, "[--format table|json] [option]..."]),
        description=command.description,
        epilog=f"{CONFIG}Exit codes: {command.exit_codes}",
    )
    loaded.set_default("use_stderr", True)  # stdout is for the result
    if not any(arg.startswith(OWN_LOG) for arg in args):
        # Glance's own: run by root, a command would make a log there that Glance can't write.
        for option in ("log_file", "log_dir"):
            loaded.set_override(option, None)
    from watcher import logs  # noqa: PLC0415
    from watcher.cli import terminal  # noqa: PLC0415

    logs.setup(loaded)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files in any encoding
    code = command.run(loaded)
    terminal.flush()
    return code


def _sweep(loaded: Config) -> int:
    from watcher.cli import sweep  # noqa: PLC0415

    return sweep.run(
        loaded,
        dry_run=loaded.dry_run,
        trusted=loaded.trust_database,
        as_json=loaded.format == "json",
    )


def _status(loaded: Config) -> int:
    from watcher.cli import status  # noqa: PLC0415

    return status.run(loaded, every=loaded.all, as_json=loaded.format == "json")


def _check(loaded: Config) -> int:
    from watcher.cli import check  # noqa: PLC0415

    return check.run(loaded, as_json=loaded.format == "json")


def _history(loaded: cfg.ConfigOpts) -> int:
    from watcher.cli import history  # noqa: PLC0415

    return history.run(
        loaded, since=loaded.since, image=loaded.image, as_json=loaded.format == "json"
    )


COMMANDS = {
    "sweep": Command(
        usage=["[--dry-run] [--trust-database]"],
        summary="one sweep, or what it would do",
        description="Does one sweep and ends. With --dry-run it removes nothing and says of each "
        "file what a sweep would do with it, and why. With --debug a real sweep logs the lines of "
        "Glance's cleaner on each removal, as the service does.",
        exit_codes="0 all well; 1 some files could not be removed, or a safeguard keeps some; "
        f"{CANNOT}, and nothing (more) was removed; 130 stopped by SIGINT; 143 stopped by SIGTERM.",
        flags={
            "dry-run": "Remove nothing; say what would be done.",
            "trust-database": "Remove files without a database row although no image file here "
            "has one: say that [database] connection is this Glance's database.",
        },
        run=_sweep,
    ),
    "status": Command(
        usage=["[--all]"],
        summary="the state at a glance",
        description="Says how the staging directory and the database are, counts the files, and "
        "lists the residue: first what can't be removed, then the largest, at most 20 files in a "
        "table. It changes nothing.",
        exit_codes="0 nothing to remove; 1 there is residue, or files that can't be removed; "
        "2 it could not look.",
        flags={"all": "List all files, however many, also those that stay."},
        run=_status,
    ),
    "check": Command(
        usage=[],
        summary="whether all is set up well",
        description="Checks what the watcher needs: configuration, staging directory, database, "
        "notifications. It changes nothing.",
        exit_codes="0 all well; 1 something deserves a look; 2 something does not work, or the "
        "configuration can't be read.",
        flags={},
        run=_check,
    ),
    "history": Command(
        usage=["[--since AGE]", "[--image ID]"],
        summary="past removals, from the audit log",
        description="Lists removed files, the oldest first, from [staging_watcher] audit_log and "
        "its rotated files. It changes nothing.",
        exit_codes="0 listed; 1 a rotated file can't be read; 2 no audit log is configured, or it "
        "can't be read.",
        flags={},
        values={
            "since": "Only removals since then: an age as 90m, 12h, 2d or 1w, or a date as "
            "2026-11-25 or 2026-11-25T10:00.",
            "image": "Only files of this image.",
        },
        run=_history,
    ),
}
