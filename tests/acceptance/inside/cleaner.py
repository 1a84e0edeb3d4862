# SPDX-License-Identifier: Apache-2.0
"""Glance's own cleaner, in Glance's environment: cleaner.py CONFIG-FILE.

For each line on stdin it cleans once and writes a JSON list of [level, message] to stdout.
"""

import json
import logging
import sys

import glance.db
import glance_store
from glance import housekeeping
from glance.common import config
from oslo_config import cfg


class Messages(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.said.append((record.levelname, record.getMessage()))


def main() -> None:
    """Serve until the end of stdin."""
    config.set_config_defaults()
    cfg.CONF([], project="glance", prog="glance-api", default_config_files=[sys.argv[1]])
    if cfg.CONF.enabled_backends:
        glance_store.register_store_opts(
            cfg.CONF, reserved_stores={"os_glance_staging_store": "file"}
        )
    messages = Messages()
    logger = logging.getLogger(housekeeping.__name__)
    logger.addHandler(messages)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    database = glance.db.get_api()
    for _ in sys.stdin:
        messages.said.clear()
        housekeeping.StagingStoreCleaner(database).clean_orphaned_staging_residue()
        print(json.dumps(messages.said), flush=True)


if __name__ == "__main__":
    main()
