# SPDX-License-Identifier: Apache-2.0
"""Which configuration files are read, and what is written in them that oslo.config passes over."""

import difflib
import glob
import os
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from oslo_config import cfg

GLANCE_DIRECTORY = "/etc/glance"
OWN_DIRECTORY = "/etc/glance-staging-watcher"
OWN_NAME = "glance-staging-watcher"

#: names by section of one file
Sections = Mapping[str, Mapping[str, Sequence[str]]]


class _Reference(string.Template):
    """A ``$name``, as oslo.config has them."""

    idpattern = r"[_a-z][\._a-z0-9]*"


class Unknown(NamedTuple):
    """A name in a file or in the environment that has no effect.

    :param place: file, or "the environment"
    :param found: what is written there
    :param nearest: what may be meant
    """

    place: str
    found: str
    nearest: str | None


def defaults(arguments: Sequence[str]) -> list[str]:
    """Files that are read where these arguments name none, in the order of reading.

    As with oslo.config, ``--config-file`` replaces the files and ``--config-dir`` the directories;
    the first one leaves out the directories too.
    """
    named = {option for option, _ in _named(arguments)}
    if "--config-file" in named:
        return []
    directory = os.environ.get("OS_GLANCE_CONFIG_DIR", "").strip()
    main = os.path.join(directory or GLANCE_DIRECTORY, "glance-api.conf")
    glances = [os.path.join(directory or GLANCE_DIRECTORY, "glance-image-import.conf"), main]
    own = os.path.join(OWN_DIRECTORY, f"{OWN_NAME}.conf")
    files = [each for each in glances if (directory and each == main) or _is_there(each)]
    with_directories = "--config-dir" not in named
    if with_directories:
        for each in cfg.find_config_dirs(project="glance", prog="glance-api"):
            files += _in_directory(each)
    if _is_there(own):
        files.append(own)
    if with_directories:
        files += _in_directory(os.path.join(OWN_DIRECTORY, f"{OWN_NAME}.conf.d"))
    return files


def read(arguments: Sequence[str]) -> list[str]:
    """All files that are read with these arguments, in order."""
    files = defaults(arguments)
    for option, value in _named(arguments):
        path = os.path.abspath(os.path.expanduser(value))
        files += [path] if option == "--config-file" else _in_directory(path)
    return files


def is_glances(file: str, arguments: Sequence[str]) -> bool:
    """Whether a file is Glance's rather than our own: by its name, or as the first one read."""
    directory, name = os.path.split(file)
    if os.path.basename(directory) in ("glance.conf.d", "glance-api.conf.d"):
        return True
    return name in ("glance-api.conf", "glance-image-import.conf") or read(arguments)[:1] == [file]


def parsed(files: Iterable[str]) -> list[tuple[str, Sections]]:
    """Names and values in each file, as written.

    :raises ParseError: of oslo.config, which has read the same file before
    :raises OSError: the file can't be read
    """
    found: list[tuple[str, Sections]] = []
    for file in files:
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(file, sections).parse()
        found.append((file, {_section(name): names for name, names in sections.items()}))
    return found


def file_of(arguments: Sequence[str], *names: tuple[str, str]) -> str | None:
    """The file that sets an option. The location that oslo.config has is that of the last file
    with the same section.

    :param names: group and name, of today and from earlier releases
    """
    for file, sections in reversed(parsed(read(arguments))):
        if any(name in sections.get(_section(group), {}) for group, name in names):
            return file
    return None


def where(arguments: Sequence[str], *names: tuple[str, str]) -> str:
    """The place that sets an option, for the operator to read; see `file_of`. The environment comes
    before all files."""
    for each in (variable(*name) for name in names):
        if each in os.environ:
            return f"the environment ({each})"
    return file_of(arguments, *names) or "a source that is no file"


def unknown_reference(conf: cfg.ConfigOpts, value: str) -> bool:
    """Whether a value as written refers with $ to an option that isn't there."""
    for match in _Reference.pattern.finditer(value.replace(r"\$", "$$")):
        name = match["named"] or match["braced"]
        if name is None:
            continue
        group, _, option = name.rpartition(".")
        if not (option in conf[group] if group and group in conf else name in conf):
            return True
    return False


def unknown(
    files: Iterable[tuple[str, Sections]],
    environment: Iterable[str],
    group: str,
    known: Sequence[str],
) -> Iterator[Unknown]:
    """Names in our section that are no option, sections that are meant to be ours, and options of
    ours in ``[DEFAULT]``.

    :param environment: names of variables
    """
    for file, sections in files:
        for section, names in sections.items():
            if section == group:
                for name in sorted(set(names) - set(known)):
                    yield Unknown(file, f"[{group}] {name}", _nearest(name, known))
            elif section == "DEFAULT":
                for name in sorted(set(names) & {each for each in known if "_" in each}):
                    yield Unknown(file, f"[DEFAULT] {name}", f"[{group}] {name}")
            elif near := _nearest(section, [group]):
                yield Unknown(file, f"[{section}]", f"[{near}]")
    expected = [variable(group, name) for name in known]
    for name in sorted(environment):
        if name.startswith(variable(group, "")) and name not in expected:
            yield Unknown("the environment", name, _nearest(name, expected))


def variable(group: str, name: str) -> str:
    """Name of the environment variable by which oslo.config takes an option."""
    return f"OS_{group}__{name}".upper()


def _named(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        for option in ("--config-file", "--config-dir"):
            if len(name) > len("--config-") and option.startswith(name):
                yield option, value if equals else next(words, "")


def _in_directory(directory: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(directory), "*.conf")))


def _is_there(path: str) -> bool:
    # What can't be looked at is read all the same, so that the error says so.
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _section(name: str) -> str:
    return name if name == "DEFAULT" else name.lower()


def _nearest(name: str, known: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.8)), None)
