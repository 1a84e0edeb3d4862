# SPDX-License-Identifier: Apache-2.0
"""The audit: one line of JSON for each removed file, appended to a file that others may rotate."""

import datetime
import json
import logging
import logging.handlers
import os
from typing import Any

from oslo_log import log

from watcher.account import Removal
from watcher.conf import ConfigError
from watcher.faults import Fault

LOG = log.getLogger(__name__)

MODE = 0o640


class AuditLog:
    """Takes note of removals; a file that can't be written to never holds them up.

    :raises ConfigError: the file can't be opened
    """

    def __init__(self, path: str) -> None:
        try:
            self._file = _RotatedByOthers(path)
        except OSError as error:
            raise ConfigError(
                f"Cannot write [staging_watcher] audit_log {path}: {error.strerror}; "
                "run as the user that runs glance-api"
            ) from None
        self._fault = Fault(
            LOG,
            f"Cannot write the audit to {path}, removals go on without it: %s",
            f"The audit is written to {path} again",
        )

    def record(self, removal: Removal) -> None:
        """Append one line: ``time`` (UTC, ISO 8601), ``file``, ``image``, ``size`` (bytes on
        disk), ``trigger``, ``state`` (of the image's row), ``latency`` (seconds from the event
        to the removal; null in a sweep).

        A name that isn't UTF-8 has ``\\udcXX`` in place of each byte XX that is none.
        """
        now = datetime.datetime.now(datetime.UTC)
        line = json.dumps(
            {
                "time": now.isoformat(timespec="milliseconds"),
                "file": removal.path,
                "image": removal.image_id,
                "size": removal.size,
                "trigger": removal.trigger.value,
                "state": removal.state.value,
                "latency": None if removal.waited is None else round(removal.waited, 6),
            }
        )
        try:
            self._file.handle(logging.makeLogRecord({"msg": line}))
        except OSError as error:
            self._fault.begin(error.strerror or str(error))
        else:
            self._fault.end()


class _RotatedByOthers(logging.handlers.WatchedFileHandler):
    """Opens its file anew after it was renamed or removed, and lets the caller see errors."""

    def _open(self) -> Any:
        return open(self.baseFilename, "a", encoding="ascii", opener=_open)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        raise  # noqa: PLE0704 - called by logging from its except clause


def _open(path: str, flags: int) -> int:
    return os.open(path, flags, MODE)
