# SPDX-License-Identifier: Apache-2.0
"""Every option: ours in ``[staging_watcher]``, and those of Glance's file that we read.

Glance's options are declared here again, since importing glance or oslo.db for a handful of
names would cost most of a second and 40 MB at each start.
"""

import re
import socket
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

from oslo_config import cfg
from oslo_log import log

from watcher.errors import ConfigError

GROUP = "staging_watcher"
DISTRIBUTION = "glance-staging-watcher"

# how oslo.config tells where a value is from
_LOCATION = re.compile(r" from LocationInfo\(location=[^,]*, [^,]*, detail=(['\"])(.*)\1\)")

watcher_opts = [
    cfg.IntOpt(
        "sweep_interval",
        default=600,
        min=1,
        max=86400,
        mutable=True,
        help="Seconds from the end of one full sweep of the staging directory to the next one, "
        "a tenth less or more, lest many hosts sweep in step. Sweeps remove what no event told of.",
    ),
    cfg.IntOpt(
        "absent_grace",
        default=60,
        min=0,
        max=86400,
        mutable=True,
        help="Age in seconds from which on a file is removed whose image has no row in the "
        "database at all (a row marked as deleted needs no wait). It must be longer than the "
        "lag of a replicated database. 0 is what Glance's own cleaner does.",
    ),
    cfg.IntOpt(
        "max_absent_removals",
        default=1000,
        min=0,
        mutable=True,
        help="At most so many files of images without a row are removed from one sweep to the "
        "next: a brake, should [database] connection name the wrong database.",
    ),
    cfg.BoolOpt(
        "notifications",
        default=True,
        help="Listen for the image.delete notifications that Glance sends. Without them residue "
        "is found by file events and sweeps.",
    ),
    cfg.StrOpt(
        "exchange",
        sample_default="glance",
        help="Exchange to which Glance sends notifications. Default: [DEFAULT] control_exchange, "
        "which is 'glance' where the file doesn't set it.",
    ),
    cfg.ListOpt(
        "topics",
        sample_default="notifications",
        help="Topics on which Glance sends notifications. Default: those of "
        "[oslo_messaging_notifications] topics.",
    ),
    cfg.StrOpt(
        "pool",
        default=f"{DISTRIBUTION}-{socket.gethostname()}",
        sample_default=f"{DISTRIBUTION}-HOST",
        help="Name of this watcher's own queue. It must differ from host to host and stay the "
        "same over restarts: watchers with the same pool share one queue, and each of them "
        "misses a part of the deletions.",
    ),
    cfg.HostAddressOpt(
        "metrics_host",
        default="127.0.0.1",
        help="Address on which metrics (/metrics, for Prometheus) and health (/healthz, /readyz) "
        "are served, if metrics_port is set. They tell no secrets, but need no password either.",
    ),
    cfg.PortOpt(
        "metrics_port",
        default=0,
        help="Port for metrics and health; 0: none are served.",
    ),
    cfg.StrOpt(
        "audit_log",
        help="File to which one line of JSON is appended for each file that is removed. The "
        "usual tools may rotate it. Default: none is written.",
    ),
]

glance_opts = [
    cfg.DictOpt("enabled_backends"),
    cfg.StrOpt("node_staging_uri", default="file:///tmp/staging/"),
    cfg.ListOpt("disabled_notifications", default=[]),
]
staging_store_opts = [
    cfg.StrOpt("filesystem_store_datadir", default="/var/lib/glance/os_glance_staging_store"),
]
database_opts = [
    cfg.StrOpt(
        "connection",
        secret=True,
        deprecated_opts=[
            cfg.DeprecatedOpt("sql_connection", group="DEFAULT"),
            cfg.DeprecatedOpt("sql_connection", group="DATABASE"),
            cfg.DeprecatedOpt("connection", group="sql"),
        ],
    ),
]


class Limits(NamedTuple):
    """Options that a reload can change; of `watcher_opts`."""

    sweep_interval: int
    absent_grace: int
    max_absent_removals: int


def limits(conf: cfg.ConfigOpts) -> Limits:
    """Their values now."""
    return Limits(*(conf[GROUP][name] for name in Limits._fields))


def list_opts() -> list[tuple[str, Sequence[cfg.Opt]]]:
    """Options for oslo-config-generator: our own only."""
    return [(GROUP, watcher_opts)]


def load(args: Sequence[str], **parser: Any) -> cfg.ConfigOpts:
    """Read Glance's configuration files as ``args`` name them, else where Glance has them.

    :param parser: ``cli_opts``, ``usage``, ``description`` and ``epilog`` of the command line
    :raises ConfigError: a file is missing or can't be parsed, or a value is out of bounds
    """
    try:
        return _read(args, **parser)
    except (cfg.Error, ValueError, OSError) as error:
        raise ConfigError(f"Cannot use the configuration: {_one_line(error)}") from None


def _read(
    args: Sequence[str], *, cli_opts: Sequence[cfg.Opt] = (), **parser: Any
) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf.register_cli_opts(cli_opts)
    conf.register_opts(watcher_opts, group=GROUP)
    conf.register_opts(glance_opts)
    conf.register_opts(staging_store_opts, group="os_glance_staging_store")
    conf.register_opts(database_opts, group="database")
    conf(
        args,
        project="glance",
        prog=DISTRIBUTION,
        version=version(DISTRIBUTION),
        default_config_files=cfg.find_config_files(project="glance", prog="glance-api"),
        default_config_dirs=cfg.find_config_dirs(project="glance", prog="glance-api"),
        **parser,
    )
    # oslo.config converts a value when it is asked for; ask now, so that a mistake ends the
    # program at its start.
    for opt in watcher_opts:
        conf[GROUP][opt.name]
    for opt in glance_opts:
        conf[opt.name]
    return conf


def exit_code(end: SystemExit) -> int:
    """Exit code with which to follow the parser of options, which has said what was wrong or
    asked for. oslo.config has a code of its own, and no end of line."""
    if end.code == 1:
        sys.stderr.write("\n")
    return 2 if end.code else 0


def reload(conf: cfg.ConfigOpts) -> list[str]:
    """Read the files anew; the options that changed and can without a restart. Of each that
    can't oslo.config warns.

    :raises ConfigError: a file is missing or can't be parsed, or a value is out of bounds;
        nothing is taken over then
    """
    try:
        _read(conf._args or [])  # by itself, before anything is taken over
        changed = conf.mutate_config_files()
    except Exception as error:  # noqa: BLE001 - the log's own file is evaluated, whatever is in it
        raise ConfigError(f"Cannot use the changed configuration: {_one_line(error)}") from None
    except SystemExit:  # what a value of a command line's option does; oslo.config said why
        raise ConfigError("Cannot use the changed configuration") from None
    return sorted(f"[{group or 'DEFAULT'}] {name}" for group, name in changed)


def _one_line(error: Exception) -> str:
    if isinstance(error, cfg.ConfigFilesPermissionDeniedError):
        return f"Permission denied: {', '.join(error.config_files)}"
    text = " ".join(str(error).split())
    # The line that can't be parsed follows, and that may be one with a password.
    parsing = isinstance(error, cfg.ConfigFileParseError)
    if parsing and (place := re.match(r"(.*? at .*?:\d+), ", text)):
        return place[1]
    return _LOCATION.sub(r" in \2", text)


def staging_path(conf: cfg.ConfigOpts) -> str:
    """Absolute path of Glance's staging directory, as configured.

    :raises ConfigError: it isn't a ``file://`` URI of an absolute path
    """
    if conf.enabled_backends:
        option = "[os_glance_staging_store] filesystem_store_datadir"
        uri = "file://" + conf.os_glance_staging_store.filesystem_store_datadir
    else:
        option = "[DEFAULT] node_staging_uri"
        uri = conf.node_staging_uri
    path: str = uri.removeprefix("file://")
    if path == uri:
        raise ConfigError(
            f"Unexpected scheme in staging store; unable to scan for residue: {option} = {uri}, "
            "expected file:///an/absolute/path"
        )
    if not path.startswith("/") or not path.strip("/"):
        raise ConfigError(
            f"{option} names no absolute directory below /: {path!r}; "
            "set it to the staging directory of this host's Glance"
        )
    return path


def database_url(conf: cfg.ConfigOpts) -> str:
    """``[database] connection``; a secret.

    :raises ConfigError: it isn't set
    """
    url: str | None = conf.database.connection
    if not url:
        raise ConfigError(
            "[database] connection is not set; use --config-file to name the glance-api.conf "
            "of this host's Glance"
        )
    return url
