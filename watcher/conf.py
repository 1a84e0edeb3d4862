# SPDX-License-Identifier: Apache-2.0
"""Every option, and how the files are read: ours in ``[staging_watcher]``, and Glance's.

Glance's options are declared here again, since importing glance or oslo.db for a handful of
names would cost most of a second and 40 MB at each start.
"""

import contextlib
import io
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

from oslo_config import cfg
from oslo_log import log
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from watcher import config_files
from watcher.errors import ConfigError

GROUP = "staging_watcher"
DISTRIBUTION = "glance-staging-watcher"
STATUS_FILE = f"/run/{DISTRIBUTION}/status.json"

# where a value comes from by oslo.config, which may be the wrong one of several files
_LOCATION = re.compile(r" from LocationInfo\(location=[^,]*, [^,]*, detail=(['\"])(.*?)\1\)")

watcher_opts = [
    cfg.IntOpt(
        "sweep_interval",
        default=600,
        min=1,
        max=86400,
        mutable=True,
        help="Seconds from the end of one full sweep of the staging directory to the next, with "
        "10 % jitter so that hosts don't sweep in step. A sweep removes what missed its event: "
        "this is the longest that a missed file can stay.",
    ),
    cfg.IntOpt(
        "absent_grace",
        default=86400,
        min=0,
        max=2592000,
        mutable=True,
        help="Minimum age in seconds of a file whose image has no database row before it is "
        "removed (a row marked as deleted needs no wait). Such files appear only after a purge of "
        "the images table, days after the deletion, so a day costs nothing. It must be longer "
        "than the lag of a replicated database. 0 is what Glance's own cleaner does.",
    ),
    cfg.IntOpt(
        "max_absent_removals",
        default=1000,
        min=0,
        mutable=True,
        help="Maximum removals of files without a database row in 24 hours; guards against a "
        "wrong [database] connection.",
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
        "misses some of the deletions.",
    ),
    cfg.HostAddressOpt(
        "metrics_host",
        default="127.0.0.1",
        help="Address on which metrics (/metrics, for Prometheus) and health (/healthz, /readyz) "
        "are served, if metrics_port is set. They hold no secrets. metrics_web_config "
        "has TLS and passwords.",
    ),
    cfg.PortOpt(
        "metrics_port",
        default=0,
        help="Port for metrics and health; 0 disables them.",
    ),
    cfg.StrOpt(
        "metrics_web_config",
        help="File with a certificate (tls_server_config: cert_file, key_file) and users "
        "(basic_auth_users) for the metrics port, in the format of Prometheus exporters' "
        "--web.config.file. Default: plain HTTP without passwords.",
    ),
    cfg.StrOpt(
        "audit_log",
        help="File to which one line of JSON is appended for each file that is removed. "
        "logrotate may rotate it. Default: no audit is written.",
    ),
    cfg.StrOpt(
        "status_file",
        default=STATUS_FILE,
        help="File in which the service says what it does, for the command status; it is written "
        "at most once a second. It must differ from service to service. Without its directory, or "
        "if it is empty, none is written.",
    ),
]

#: of each file store of Glance's
_DATA_DIRECTORY = cfg.StrOpt("filesystem_store_datadir")
_DATA_DIRECTORIES = cfg.MultiStrOpt("filesystem_store_datadirs", default=[])
STORE_DEFAULT = "/var/lib/glance/images"
STAGING_STORE, TASKS_STORE = "os_glance_staging_store", "os_glance_tasks_store"
SHARED_STORE, SINGLE_STORE = "backend_defaults", "glance_store"

#: options of Glance that we read, or that these may refer to with a $, by group
GLANCE_OPTS: dict[str, list[cfg.Opt]] = {
    "DEFAULT": [
        cfg.DictOpt("enabled_backends"),
        cfg.StrOpt("node_staging_uri", default="file:///tmp/staging/"),
        cfg.ListOpt("disabled_notifications", default=[]),
        cfg.StrOpt("image_cache_dir"),
        cfg.StrOpt("metadata_source_path", default="/etc/glance/metadefs/"),
        cfg.StrOpt("property_protection_file"),
        cfg.StrOpt("worker_self_reference_url"),
    ],
    "task": [cfg.StrOpt("work_dir")],
    "oslo_concurrency": [cfg.StrOpt("lock_path")],
    SINGLE_STORE: [
        cfg.ListOpt("stores", default=["file", "http"]),
        _DATA_DIRECTORY,
        _DATA_DIRECTORIES,
    ],
    SHARED_STORE: [_DATA_DIRECTORY, _DATA_DIRECTORIES],
    STAGING_STORE: [_DATA_DIRECTORY],
    TASKS_STORE: [_DATA_DIRECTORY],
    "database": [
        cfg.StrOpt(
            "connection",
            secret=True,
            deprecated_opts=[
                cfg.DeprecatedOpt("sql_connection", group="DEFAULT"),
                cfg.DeprecatedOpt("sql_connection", group="DATABASE"),
                cfg.DeprecatedOpt("connection", group="sql"),
            ],
        ),
        cfg.StrOpt("connection_parameters", default="", secret=True),
    ],
}
# what oslo.config raises for a $name without an option of that name; the text holds the name,
# which may be a piece of a password
_DANGLING = (cfg.NoSuchOptError, cfg.NoSuchGroupError, cfg.TemplateSubstitutionError)

_FILE_STORES = ("file", "filesystem")
#: of oslo.messaging, which registers them when it is used
_MESSAGING_URLS = (("DEFAULT", "transport_url"), ("oslo_messaging_notifications", "transport_url"))


class Limits(NamedTuple):
    """Options that a reload can change; of `watcher_opts`."""

    sweep_interval: float
    absent_grace: int
    max_absent_removals: int


def limits(conf: cfg.ConfigOpts) -> Limits:
    """Their values now."""
    return Limits(*(conf[GROUP][name] for name in Limits._fields))


def list_opts() -> list[tuple[str, Sequence[cfg.Opt]]]:
    """Options for oslo-config-generator: our own only."""
    return [(GROUP, watcher_opts)]


class Config(cfg.ConfigOpts):
    """The configuration, read where Glance reads it and then from our own files.

    :param prog: name of the program in its usage
    :param cli_opts: more options of the command line
    :param texts: ``usage``, ``description`` and ``epilog`` of its help
    """

    def __init__(
        self, *, prog: str = DISTRIBUTION, cli_opts: Sequence[cfg.Opt] = (), **texts: str
    ) -> None:
        super().__init__()
        self.help_texts: dict[str, Any] = {"prog": prog, **texts}
        self.arguments: list[str] = []
        #: files that are read where the command line names none
        self.sources: list[str] = []
        log.register_options(self)
        self.register_cli_opts(cli_opts)
        self.register_opts(watcher_opts, group=GROUP)
        for group, opts in GLANCE_OPTS.items():
            self.register_opts(opts, group=None if group == "DEFAULT" else group)

    def __call__(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> None:
        """Read command line and files.

        :raises ConfigError: a file is missing or can't be parsed, or a value can't be used
        :raises SystemExit: the command line is wrong, or asks for help
        """
        self.arguments = list(sys.argv[1:] if args is None else args)
        self.sources[:] = config_files.defaults(self.arguments)
        try:
            with _exits_explained(self.arguments), _sources_required():
                super().__call__(
                    self.arguments,
                    project="glance",
                    version=version(DISTRIBUTION),
                    default_config_files=self.sources,
                    default_config_dirs=[],
                    **self.help_texts,
                )
            _read_all(self)
        except (cfg.Error, ValueError, OSError) as error:
            raise ConfigError(f"Cannot use the configuration: {one_line(error)}") from None


def load(args: Sequence[str], *, cli_opts: Sequence[cfg.Opt] = (), **texts: str) -> Config:
    """Read the configuration as the command line says; see `Config`.

    :raises ConfigError: a file is missing or can't be parsed, or a value can't be used
    :raises SystemExit: the command line is wrong, or asks for help
    """
    conf = Config(cli_opts=cli_opts, **texts)
    conf(args)
    return conf


def unknown_names(files: Sequence[str]) -> Iterator[config_files.Unknown]:
    """Names in these files and the environment that are meant for us and have no effect."""
    known = [opt.dest for opt in watcher_opts]
    return config_files.unknown(config_files.parsed(files), os.environ, GROUP, known)


@contextlib.contextmanager
def _exits_explained(arguments: Sequence[str]) -> Iterator[None]:
    """Raise an error where oslo.config prints a line and exits: for a value in a file of an option
    that the command line has too."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as end:
        if end.code == 1:
            option, _, why = " ".join(said.getvalue().split()).partition(": ")
            name = option.removeprefix("argument --")
            named = f"--{name.replace('_', '-')}"
            file = config_files.file_of(arguments, ("DEFAULT", name))
            if file is not None and not any(each.startswith(named) for each in arguments):
                named = f"[DEFAULT] {name} in {file}"
            raise ValueError(f"{named}: {why}") from None
        sys.stderr.write(said.getvalue())
        raise
    sys.stderr.write(said.getvalue())


class _Errors(logging.Handler):
    """Keeps the texts of errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextlib.contextmanager
def _sources_required() -> Iterator[None]:
    """Raise an error where oslo.config logs one and goes on: without a source of [DEFAULT]
    config_source that can't be loaded. Its log is all that it says of that."""
    logger, errors = logging.getLogger("oslo_config.cfg"), _Errors()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(errors)
    try:
        yield
    except (cfg.Error, ValueError):  # of the same cause
        if not errors.texts:
            raise
    finally:
        logger.removeHandler(errors)
        logger.propagate = propagate
    if errors.texts:
        text = re.sub(r"://\S*@", "://***@", one_line(ValueError(errors.texts[0])))
        raise ValueError(f"{text}; correct that section, or [DEFAULT] config_source")


def _read_all(conf: Config) -> None:
    """Ask for each value now, for oslo.config converts it only then, and a mistake must end the
    program at its start."""
    for group, opts in {GROUP: watcher_opts, **GLANCE_OPTS}.items():
        for opt in opts:
            _value(conf, group, opt)
    for store in conf.enabled_backends or {}:
        with contextlib.suppress(cfg.DuplicateOptError):  # a reserved name; Glance refuses it
            conf.register_opts([_DATA_DIRECTORY, _DATA_DIRECTORIES], group=store)
        for opt in (_DATA_DIRECTORY, _DATA_DIRECTORIES):
            _value(conf, store, opt)
    files = config_files.parsed(config_files.read(conf.arguments))
    for group, name in _MESSAGING_URLS:
        variable = config_files.variable(group, name)
        if config_files.unknown_reference(conf, os.environ.get(variable, "")):
            raise ValueError(_bad_reference(group, name, f"the environment ({variable})"))
        for file, sections in files:
            for value in sections.get(group, {}).get(name, []):
                if config_files.unknown_reference(conf, value):
                    raise ValueError(_bad_reference(group, name, file))


def _value(conf: Config, group: str, opt: cfg.Opt) -> None:
    try:
        _ = conf[opt.dest] if group == "DEFAULT" else conf[group][opt.dest]
    except (*_DANGLING, cfg.ConfigSourceValueError) as error:
        older = [(each.group or group, str(each.name)) for each in opt.deprecated_opts]
        place = config_files.where(conf.arguments, (group, opt.dest), *older)
        if isinstance(error, cfg.ConfigSourceValueError):
            why = one_line(error).partition(" is not valid: ")[2]
            raise ValueError(f"[{group}] {opt.dest} in {place} is not valid: {why}") from None
        raise ValueError(_bad_reference(group, opt.dest, place)) from None


def _bad_reference(group: str, name: str, place: str) -> str:
    return (
        f"[{group}] {name} in {place} refers with $ to an option that isn't known; write $$ for "
        "a $ that is meant as such, or the value itself"
    )


def exit_code(end: SystemExit) -> int:
    """Exit code after the parser of the command line, which has printed what was wrong or asked
    for."""
    return 2 if end.code else 0


def reload(conf: Config) -> list[str]:
    """Read the files again; the options that changed and take effect without a restart. For the
    others oslo.config logs a warning.

    :raises ConfigError: a file is missing or can't be parsed, or a value can't be used; the old
        values stay then
    """
    try:
        Config()(conf.arguments)  # before anything is changed
        conf.sources[:] = config_files.defaults(conf.arguments)
        changed = conf.mutate_config_files()
    except ConfigError as error:
        cause = str(error).partition(": ")[2]
        raise ConfigError(f"Cannot use the changed configuration: {cause}") from None
    except Exception as error:  # noqa: BLE001 - the log's own file is evaluated: it may raise anything
        raise ConfigError(f"Cannot use the changed configuration: {one_line(error)}") from None
    return sorted(f"[{group or 'DEFAULT'}] {name}" for group, name in changed)


def one_line(error: Exception) -> str:
    """The text of an error of oslo.config or of the system, without what may be secret."""
    if isinstance(error, cfg.ConfigFilesPermissionDeniedError):
        files = ", ".join(error.config_files)
        return f"Permission denied: {files}; run as the user that runs glance-api"
    if isinstance(error, cfg.ConfigFilesNotFoundError):
        files = ", ".join(error.config_files)
        return f"No such file: {files}; name this host's glance-api.conf with --config-file"
    if isinstance(error, UnicodeDecodeError):
        return "a file is not UTF-8 text"
    if isinstance(error, _DANGLING):
        return "an option refers with $ to one that isn't known; write $$ for a $ meant as such"
    text = " ".join(str(error).split())
    # The line that can't be parsed follows, and that may be one with a password.
    parsing = isinstance(error, cfg.ConfigFileParseError)
    if parsing and (place := re.match(r"(.*? at .*?:\d+), ", text)):
        return f"{place[1]}: expected [section], name = value or # comment"
    return _LOCATION.sub("", text)


class GlanceDirectory(NamedTuple):
    """A directory that Glance is configured to use.

    :param option: that names it
    """

    option: str
    path: str


def staging_path(conf: cfg.ConfigOpts) -> str:
    """Absolute path of Glance's staging directory, as configured; see `staging_directory`."""
    return staging_directory(conf).path


def staging_directory(conf: cfg.ConfigOpts) -> GlanceDirectory:
    """Glance's staging directory, as configured.

    :raises ConfigError: it isn't a ``file://`` URI of an absolute path, or isn't set where its
        default depends on Glance's libraries
    """
    if conf.enabled_backends:
        option = f"[{STAGING_STORE}] filesystem_store_datadir"
        if conf[STAGING_STORE].filesystem_store_datadir is None:
            raise ConfigError(
                f"{option} is not set, and with enabled_backends its default depends on the "
                f"version of glance_store: set it in glance-api.conf to the directory in which "
                "this host's Glance stages, for Glance and the watcher alike"
            )
        uri = "file://" + conf[STAGING_STORE].filesystem_store_datadir
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
    return GlanceDirectory(option, path)


def other_directories(conf: cfg.ConfigOpts) -> list[GlanceDirectory]:
    """Directories in which Glance keeps anything but staged files."""
    found = [
        GlanceDirectory("[DEFAULT] image_cache_dir", conf.image_cache_dir),
        GlanceDirectory("[task] work_dir", conf.task.work_dir),
        GlanceDirectory(
            f"[{TASKS_STORE}] {_DATA_DIRECTORY.name}", conf[TASKS_STORE][_DATA_DIRECTORY.name]
        ),
        *_of_store(conf, SINGLE_STORE),
        *_of_store(conf, SHARED_STORE),
    ]
    backends = conf.enabled_backends or {}
    stores = [store for store, kind in backends.items() if kind in _FILE_STORES]
    shared = _of_store(conf, SHARED_STORE)
    for store in stores:
        found += _of_store(conf, store) or shared or [_default(store)]
    if not backends and set(_FILE_STORES) & set(conf.glance_store.stores):
        found += [] if _of_store(conf, SINGLE_STORE) else [_default(SINGLE_STORE)]
    return [each for each in found if each.path and each.path.startswith("/")]


def _default(store: str) -> GlanceDirectory:
    return GlanceDirectory(f"[{store}] filesystem_store_datadir by default", STORE_DEFAULT)


def _of_store(conf: cfg.ConfigOpts, group: str) -> list[GlanceDirectory]:
    single = conf[group].filesystem_store_datadir
    found = [GlanceDirectory(f"[{group}] filesystem_store_datadir", single)] if single else []
    for value in conf[group].filesystem_store_datadirs:
        path, _, priority = value.rpartition(":")
        path = path if path and priority.strip().isdigit() else value
        found.append(GlanceDirectory(f"[{group}] filesystem_store_datadirs", path.strip()))
    return found


def database_url(conf: cfg.ConfigOpts) -> str:
    """``[database] connection`` with ``connection_parameters``, as oslo.db; a secret.

    :raises ConfigError: it isn't set
    """
    url: str | None = conf.database.connection
    if not url:
        raise ConfigError(
            "[database] connection is not set; use --config-file to name the glance-api.conf "
            "of this host's Glance"
        )
    if parameters := conf.database.connection_parameters:
        with contextlib.suppress(SQLAlchemyError, ValueError):  # it is refused when it is used
            extended = make_url(url).update_query_string(parameters, append=True)
            return extended.render_as_string(hide_password=False)
    return url
