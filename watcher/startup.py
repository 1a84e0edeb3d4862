# SPDX-License-Identifier: Apache-2.0
"""The first lines of the service's log: what it runs with, and what in its files has no effect."""

from importlib.metadata import version

from oslo_log import log

from watcher import config_files
from watcher.conf import DISTRIBUTION, GROUP, Config, limits, staging_path, unknown_names

LOG = log.getLogger(__name__)


def announce(conf: Config) -> None:
    """Log what the service starts with, without secrets.

    :raises ConfigError: the broker can't be used as configured
    """
    values = limits(conf)
    files = config_files.read(conf.arguments)
    LOG.info(
        "Starting %s %s; configuration: %s; staging directory: %s; database: %s; broker: %s; "
        "sweep_interval: %d s; absent_grace: %d s; max_absent_removals: %d",
        DISTRIBUTION,
        version(DISTRIBUTION),
        ", ".join(files) or "no file",
        staging_path(conf),
        server_of(conf.database.connection or ""),
        _broker(conf),
        values.sweep_interval,
        values.absent_grace,
        values.max_absent_removals,
    )
    for each in unknown_names(files):
        if each.nearest is None:
            LOG.warning("Unknown: %s in %s has no effect", each.found, each.place)
        else:
            LOG.warning(
                "Unknown: %s in %s has no effect; %s may be meant",
                each.found,
                each.place,
                each.nearest,
            )


def server_of(url: str) -> str:
    """Kind and host in a URL; all up to its last @ is taken for a secret."""
    scheme, separator, rest = url.partition("://")
    kind = scheme.partition("+")[0]
    if not separator or not kind.isidentifier():
        return "none that can be read"
    if kind == "sqlite":
        return f"sqlite at {rest.partition('?')[0].removeprefix('/')}"
    host = rest.rpartition("@")[2].partition("?")[0].partition("/")[0]
    return f"{kind} at {host or 'localhost'}"


def _broker(conf: Config) -> str:
    if not conf[GROUP].notifications:
        return "none, notifications are off"
    from watcher.triggers.transport import (  # noqa: PLC0415 - only where it is used
        messaging,
        new_transport,
    )

    if "oslo_messaging_notifications" not in conf:
        new_transport(conf)  # registers the options
    text = conf.oslo_messaging_notifications.transport_url or conf.transport_url
    url = messaging.TransportURL.parse(conf, text)
    if text.count("@") > len(url.hosts):  # one in a password
        return server_of(text)
    hosts = [f"{each.hostname}:{each.port}" if each.port else each.hostname for each in url.hosts]
    return f"{url.transport} at {', '.join(filter(None, hosts)) or 'localhost'}"
