# SPDX-License-Identifier: Apache-2.0
"""The options that the service and every command have: those of oslo.config and oslo.log.

Help, completion and the search for the command in a line are made from this list. A test compares
it with the parser, which belongs to the installed libraries.
"""

from typing import NamedTuple

FILE, DIRECTORY, ANYTHING = "file", "directory", "anything"
FACILITIES = (
    *("auth", "authpriv", "cron", "daemon", "kern", *(f"local{n}" for n in range(8))),
    *("lpr", "mail", "news", "syslog", "user", "uucp"),
)


class Option(NamedTuple):
    """One option.

    :param names: the first one is the usual one
    :param text: for the help, one line
    :param value: name of its value; empty: it is on or off
    :param values: what completion offers: the values, or one of `FILE`, `DIRECTORY`, `ANYTHING`
    :param inverse: it has an inverse, --noNAME
    """

    names: tuple[str, ...]
    text: str
    value: str = ""
    values: tuple[str, ...] | str = ANYTHING
    inverse: bool = False

    @property
    def spellings(self) -> tuple[str, ...]:
        """All names, the inverse included."""
        inverse = (f"--no{self.names[0].removeprefix('--')}",) if self.inverse else ()
        return (*self.names, *inverse)

    @property
    def usage(self) -> str:
        """As in a help: with its first name and a single letter."""
        names = [self.names[0], *(name for name in self.names[1:] if len(name) == 2)]
        return ", ".join(names) + (f" {self.value}" if self.value else "")


def switch(name: str, text: str, *others: str) -> Option:
    """Return an option that is on or off."""
    return Option((f"--{name}", *others), text, inverse=True)


HELP = Option(("--help", "-h"), "print this help and exit")
FORMAT = Option(
    ("--format",), "a table for people, or JSON for programs", "table|json", ("table", "json")
)
GLOBAL = (
    Option(
        ("--config-file",),
        "a configuration file; may be repeated; replaces those that are read by default",
        *("PATH", FILE),
    ),
    Option(
        ("--config-dir",),
        "a directory whose *.conf files are read after those named before",
        *("DIR", DIRECTORY),
    ),
    switch("debug", "log what is looked at and removed, in the words of Glance's cleaner", "-d"),
    Option(("--log-file", "--logfile"), "where to log", "PATH", FILE),
    Option(("--log-dir", "--logdir"), "where a relative log file is", "DIR", DIRECTORY),
    Option(
        ("--log-config-append", "--log-config", "--log_config"),
        "a logging configuration of Python's; replaces all other logging options",
        *("PATH", FILE),
    ),
    Option(("--log-date-format",), "how the log writes the time", "FORMAT"),
    switch("use-journal", "log to the journal of systemd"),
    switch("use-syslog", "log to syslog"),
    Option(("--syslog-log-facility",), "facility of syslog", "FACILITY", FACILITIES),
    switch("use-json", "log each line as JSON"),
    Option(
        ("--shell_completion",),
        "an option of oslo.config that knows no commands; see the completion that is installed",
        *("SHELL", ("bash", "zsh")),
    ),
    Option(("--version",), "print the version and exit"),
    HELP,
)
