# SPDX-License-Identifier: Apache-2.0
"""The program ``glance-staging-watcher``: the service, and commands for people and programs."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from watcher.cli import usage
from watcher.cli.options import FORMAT, GLOBAL, HELP, Option, switch
from watcher.cli.signals import Interrupted

if TYPE_CHECKING:
    from oslo_config import cfg

    from watcher.conf import Config

PROGRAM = "glance-staging-watcher"
OWN_LOG = ("--log-f", "--logf", "--log-di", "--logd")  # as oslo.log has them, short forms too
SERVICE_CODES = (
    "0 all well, or stopped by SIGTERM or SIGINT; 1 the service failed; 2 the configuration, the "
    "database or the staging directory can't be used."
)
CANNOT = "2 the configuration, the database or the staging directory can't be used"


class Command(NamedTuple):
    """One sub-command.

    :param own: its own options
    :param summary: for the list of commands; at most 36 characters
    :param examples: arguments, each with what they do
    :param run: what it does; the exit code
    """

    own: tuple[Option, ...]
    summary: str
    description: str
    examples: dict[str, str]
    exit_codes: str
    run: Callable[[Config], int]

    @property
    def usage(self) -> list[str]:
        """Its own options, as in a usage line."""
        return [f"[{option.usage}]" for option in self.own]

    @property
    def options(self) -> tuple[Option, ...]:
        """What its help lists."""
        return (*self.own, FORMAT, HELP)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with these arguments; its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    name, args = split(args)
    if not {"-h", "--help"}.isdisjoint(args) and (name is None or name in COMMANDS):
        print(help_of(name))
        return 0
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
        if word.startswith("--") and any(option.startswith(word) for option in valued()):
            next(words, None)
    return None, args


def valued() -> set[str]:
    """Options of the service or of any command that take a value."""
    options = [*GLOBAL, FORMAT, *(option for each in COMMANDS.values() for option in each.own)]
    return {name for option in options if option.value for name in option.names}


def help_of(name: str | None) -> str:
    """Help of a command, or of the service."""
    if name is None:
        return usage.of_program(PROGRAM, COMMANDS, SERVICE_CODES)
    return usage.of_command(PROGRAM, name, COMMANDS[name])


def parser_options(name: str) -> list[cfg.Opt]:
    """Options of a command, for the parser."""
    from oslo_config import cfg  # noqa: PLC0415 - see main

    made: list[cfg.Opt] = []
    for option in (*COMMANDS[name].own, FORMAT):
        dest = option.names[0].removeprefix("--")
        if not option.value:
            made.append(cfg.BoolOpt(dest, default=False, help=option.text))
        elif isinstance(option.values, tuple):
            choices = list(option.values)
            made.append(cfg.StrOpt(dest, default=choices[0], choices=choices, help=option.text))
        else:
            made.append(cfg.StrOpt(dest, help=option.text))
    return made


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

    loaded = conf.load(args)
    from watcher import logs, service  # noqa: PLC0415

    logs.setup(loaded)
    return service.run(loaded)


def _command(name: str, args: Sequence[str]) -> int:
    from watcher import conf  # noqa: PLC0415

    command = COMMANDS[name]
    loaded = conf.load(args, cli_opts=parser_options(name), usage=f"{PROGRAM} {name} [option]...")
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
        own=(
            switch("dry-run", "remove nothing; say what would be done"),
            switch(
                "trust-database",
                "remove files without a database row although no image file here has one: say that "
                "[database] connection is this Glance's database",
            ),
        ),
        summary="one sweep, or what it would do",
        description="Does one sweep and ends. With --dry-run it removes nothing and says of each "
        "file what a sweep would do with it, and why. With --debug a real sweep logs the lines of "
        "Glance's cleaner on each removal, as the service does.",
        examples={
            "--dry-run": "what a sweep would remove, and why",
            "--format json": "sweep, and write a line of JSON for each removal",
        },
        exit_codes="0 all well; 1 some files could not be removed, or a safeguard keeps some; "
        f"{CANNOT}, and nothing (more) was removed; 130 stopped by SIGINT; 143 stopped by SIGTERM.",
        run=_sweep,
    ),
    "status": Command(
        own=(switch("all", "list all files, however many, also those that stay"),),
        summary="the state at a glance",
        description="Says what the service does, how the staging directory and the database are, "
        "counts the files by kind, and lists the residue: first what can't be removed, then the "
        "largest, at most 20 files in a table. It changes nothing.",
        examples={
            "": "the service, the directory, the database, and the residue",
            "--all": "also each file that stays, with its reason",
        },
        exit_codes="0 nothing to remove; 1 there is residue, or files that can't be removed; "
        "2 it could not look.",
        run=_status,
    ),
    "check": Command(
        own=(),
        summary="whether all is set up well",
        description="Checks what the watcher needs: configuration, staging directory, database, "
        "notifications. It changes nothing.",
        examples={
            "": "each check, and what to do about those that fail",
            "--config-file /etc/glance/glance-api.conf": "with this file only",
        },
        exit_codes="0 all well; 1 something deserves a look; 2 something does not work, or the "
        "configuration can't be read.",
        run=_check,
    ),
    "history": Command(
        own=(
            Option(
                ("--since",),
                "only removals since then: an age as 90m, 12h, 2d or 1w, or a date as 2026-11-25 "
                "or 2026-11-25T10:00",
                "AGE",
            ),
            Option(("--image",), "only files of this image", "ID"),
        ),
        summary="past removals, from the audit log",
        description="Lists removed files, the oldest first, from [staging_watcher] audit_log and "
        "its rotated files. It changes nothing.",
        examples={
            "--since 2d": "what was removed in the last two days",
            "--image 7bd19922-72fe-4319-af8d-b161553c7850 --format json": "files of one image",
        },
        exit_codes="0 listed; 1 a rotated file can't be read; 2 no audit log is configured, or it "
        "can't be read.",
        run=_history,
    ),
}
