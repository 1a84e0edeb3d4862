# SPDX-License-Identifier: Apache-2.0
"""Checks of the configuration: is it Glance's, and does Glance send what the watcher listens to."""

from collections.abc import Iterator

from oslo_config import cfg

from watcher import config_files
from watcher.checks.result import Check, Result
from watcher.conf import GROUP, Config, unknown_names
from watcher.config_files import Unknown
from watcher.errors import ConfigError
from watcher.triggers.listener import EVENT_TYPE, why_not_sent
from watcher.triggers.transport import new_transport


def configuration(conf: Config) -> Iterator[Check]:
    """What was read."""
    read = config_files.read(conf.arguments)
    yield files(read)
    yield from options(list(unknown_names(read)))


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


def options(unknown: list[Unknown]) -> Iterator[Check]:
    """Whether each of our options is one, for oslo.config passes over what it doesn't know."""
    for each in unknown:
        yield Check(
            "options",
            Result.WARNING,
            f"{each.found} in {each.place} is unknown and has no effect",
            f"{each.nearest} may be meant; else remove it" if each.nearest else "remove it",
        )
    if not unknown:
        yield Check("options", Result.OK, f"all names in [{GROUP}] are known")


def notifications(conf: cfg.ConfigOpts) -> Iterator[Check]:
    """Whether Glance sends what the watcher listens to, as far as Glance's file says."""
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
        pass  # reported as the broker
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
