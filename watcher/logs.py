# SPDX-License-Identifier: Apache-2.0
"""The log, as Glance's file sets it up, in a file of our own."""

import logging
import os
import sys

from oslo_config import cfg
from oslo_log import formatters, log

from watcher import config_files
from watcher.conf import DISTRIBUTION, Config, one_line
from watcher.errors import ConfigError

LOG = log.getLogger(__name__)

_OURS, _GLANCES = "watcher", "glance"  # names of the loggers above all others
_OUR_WORDS_INSTEAD = ("oslo_service", "sqlalchemy.pool", "stevedore", "watchdog")
_AS_CONFIGURED = "Cannot log as the configuration says"


def setup(conf: Config) -> None:
    """Start logging by oslo.log.

    :raises ConfigError: the log file can't be written, or a log option is wrong
    """
    configured, path = _configured_path(conf), file_path(conf)
    if path is not None:
        conf.set_override("log_file", path)
        conf.set_override("log_dir", None)
    try:
        log.setup(conf, DISTRIBUTION)
    except RuntimeError:
        raise ConfigError(
            "use_journal is set, but the Python module systemd.journal is not installed: apt "
            "install python3-systemd or pip install systemd-python, or leave it out: systemd sends "
            "stdout to the journal"
        ) from None
    except OSError as error:
        raise ConfigError(f"{_AS_CONFIGURED}: {error}; name another file with --log-file") from None
    except log.LogConfigError as error:
        raise ConfigError(
            f"{_AS_CONFIGURED}: {one_line(error)}; correct [DEFAULT] log_config_append or its file"
        ) from None
    except Exception as error:  # noqa: BLE001 - log_config_append is evaluated: it may raise anything
        raise ConfigError(
            f"{_AS_CONFIGURED}: {one_line(error)}; correct the option or the logging file"
        ) from None
    quieten()
    if conf.log_config_append and not _arrives(logging.getLogger(_OURS)):
        _use_other_handlers(conf)
    elif path is not None and configured != path and not conf.log_config_append:
        LOG.info("Logging to %s; %s is Glance's", path, configured)


def file_path(conf: Config) -> str | None:
    """The file to log to: as configured, but beside Glance's own; None where none is set."""
    path = _configured_path(conf)
    if path is None:
        return None
    directory, name = os.path.split(path)
    if not conf.log_file or (_is_glances(conf) and not name.startswith(DISTRIBUTION)):
        return os.path.join(directory, f"{DISTRIBUTION}.log")
    return path


def _configured_path(conf: cfg.ConfigOpts) -> str | None:
    """That of oslo.log, for which a directory alone is enough."""
    if not (conf.log_file or conf.log_dir):
        return None
    return os.path.join(conf.log_dir or "", conf.log_file or f"{DISTRIBUTION}.log")


def _is_glances(conf: Config) -> bool:
    """Whether log_file is what Glance's own file says: neither the command line, nor the
    environment, nor a file of ours sets it."""
    if config_files.variable("DEFAULT", "log_file") in os.environ:
        return False
    if any(argument.startswith(("--log-f", "--logf")) for argument in conf.arguments):
        return False
    names = ("DEFAULT", "log_file"), ("DEFAULT", "logfile")
    file = config_files.file_of(conf.arguments, *names)
    return file is not None and config_files.is_glances(file, conf.arguments)


def _arrives(logger: logging.Logger) -> bool:
    """Whether a handler takes its lines."""
    at: logging.Logger | None = logger
    while at is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in at.handlers):
            return True
        at = at.parent if at.propagate else None
    return False


def _use_other_handlers(conf: cfg.ConfigOpts) -> None:
    """Log where Glance does, else to stderr: a logging file which names Glance's loggers only
    must not make us silent."""
    ours, glances = logging.getLogger(_OURS), logging.getLogger(_GLANCES)
    unfit = logging.NullHandler, logging.FileHandler
    handlers = [each for each in glances.handlers if not isinstance(each, unfit)]
    if not handlers:
        handlers = [logging.StreamHandler(sys.stderr)]
        handlers[0].setFormatter(formatters.ContextFormatter(project=DISTRIBUTION, config=conf))
    for handler in handlers:
        ours.addHandler(handler)
    ours.setLevel(logging.DEBUG if conf.debug else glances.level or logging.INFO)
    LOG.info(
        "No handler in %s for logger %s; logging as %s",
        conf.log_config_append,
        _OURS,
        f"logger {_GLANCES}" if handlers[0] in glances.handlers else "stderr",
    )


def quieten() -> None:
    """Silence those whose faults are logged in our words; again after the log's own reload."""
    for name in _OUR_WORDS_INSTEAD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
