# SPDX-License-Identifier: Apache-2.0
"""The log, as Glance's file sets it up."""

import logging

from oslo_config import cfg
from oslo_log import log

from watcher.conf import DISTRIBUTION
from watcher.errors import ConfigError

_OUR_WORDS_INSTEAD = ("oslo_service", "sqlalchemy.pool", "stevedore", "watchdog")


def setup(conf: cfg.ConfigOpts) -> None:
    """Start logging by oslo.log.

    :raises ConfigError: the log file can't be written, or a log option is wrong
    """
    try:
        log.setup(conf, DISTRIBUTION)
    except RuntimeError:
        raise ConfigError(
            "use_journal is set, but the Python module systemd.journal is not installed: pip "
            "install systemd-python, or leave it out: systemd sends stdout to the journal"
        ) from None
    except Exception as error:  # noqa: BLE001 - log_config_append is evaluated, whatever is in it
        raise ConfigError(
            f"Cannot log as the configuration says: {error}; name another file with --log-file"
        ) from None
    quieten()


def quieten() -> None:
    """Silence those whose faults are told in our words; again after the log's own reload."""
    for name in _OUR_WORDS_INSTEAD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
