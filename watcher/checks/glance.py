# SPDX-License-Identifier: Apache-2.0
"""Checks of the configuration: is it Glance's, and does Glance send what the watcher listens to."""

import difflib
from collections.abc import Iterable, Iterator, Mapping

from oslo_config import cfg

from watcher.checks.result import Check, Result
from watcher.conf import GROUP, watcher_opts
from watcher.errors import ConfigError
from watcher.triggers.listener import EVENT_TYPE, new_transport, why_not_sent


def configuration(conf: cfg.ConfigOpts) -> Iterator[Check]:
    """What was read."""
    yield files([*(conf.config_file or []), *(conf.config_dir or [])])
    if conf._namespace is not None:
        yield from options(conf._namespace._normalized)


def files(read: list[str]) -> Check:
    """Whether there is a configuration at all."""
    if not read:
        return Check(
            "configuration",
            Result.FAILURE,
            "no file was found, all options have their defaults",
            "name this host's glance-api.conf with --config-file",
        )
    return Check("configuration", Result.OK, ", ".join(read))


def options(parsed: Iterable[Mapping[str, Iterable[str]]]) -> Iterator[Check]:
    """Whether each own option is one, for oslo.config passes over what it doesn't know.

    :param parsed: of each file the names in it by section
    """
    known = [opt.dest for opt in watcher_opts]
    unknown = {}
    for sections in parsed:
        for section, names in sections.items():
            if section == GROUP:
                for name in set(names) - set(known):
                    unknown[f"[{GROUP}] {name} is no option, it has no effect"] = _near(name, known)
            elif right := _near(section, [GROUP]):
                unknown[f"[{section}] is no section, it has no effect"] = f"[{right}]"
    for found, right in sorted(unknown.items()):
        remedy = f"{right} may be meant; else take it away" if right else "take it away"
        yield Check("options", Result.WARNING, found, remedy)
    if not unknown:
        yield Check("options", Result.OK, f"all names in [{GROUP}] are known")


def _near(name: str, known: list[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.8)), None)


def notifications(conf: cfg.ConfigOpts) -> Iterator[Check]:
    """Whether Glance sends what the watcher listens to, as far as Glance's file tells."""
    if not conf[GROUP].notifications:
        yield Check(
            "notifications",
            Result.OK,
            "off: residue is found by file events and sweeps",
            "[staging_watcher] notifications = true, to have it removed at once",
        )
        return
    try:
        new_transport(conf)  # registers the options
    except ConfigError:
        pass  # told of the broker
    else:
        yield sent(
            why_not_sent(conf),
            (conf.control_exchange, conf[GROUP].exchange or conf.control_exchange),
            (
                conf.oslo_messaging_notifications.topics,
                conf[GROUP].topics or conf.oslo_messaging_notifications.topics,
            ),
        )


def sent(
    why_not: tuple[str, str] | None,
    exchanges: tuple[str, str],
    topics: tuple[list[str], list[str]],
) -> Check:
    """Whether what Glance sends comes to where the watcher listens.

    :param exchanges: Glance's, and the watcher's
    :param topics: Glance's, and the watcher's
    """
    if why_not is not None:
        return Check("notifications", Result.WARNING, *why_not)
    if exchanges[0] != exchanges[1]:
        return Check(
            "notifications",
            Result.WARNING,
            f"Glance sends to exchange {exchanges[0]}, the watcher listens to {exchanges[1]}",
            "leave out [staging_watcher] exchange",
        )
    if not set(topics[0]) & set(topics[1]):
        return Check(
            "notifications",
            Result.WARNING,
            f"Glance sends on topics {', '.join(topics[0]) or 'none'}, the watcher listens on "
            f"{', '.join(topics[1]) or 'none'}",
            "leave out [staging_watcher] topics",
        )
    return Check("notifications", Result.OK, f"Glance sends {EVENT_TYPE}")
