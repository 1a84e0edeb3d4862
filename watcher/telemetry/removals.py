# SPDX-License-Identifier: Apache-2.0
"""Report each removal: one INFO line, and one of the audit where that is configured."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from watcher.reconcile.cleaner import Removal
from watcher.reconcile.planner import Reason
from watcher.units import human_size

if TYPE_CHECKING:
    from watcher.telemetry.audit import AuditLog

# Not oslo.log's adapter: collecting a request's context, of which there is none, takes half of the
# time of a line, and a sweep writes thousands.
LOG = logging.getLogger(__name__)

KEPT = 5  # removals


class Removals:
    """What the operator is shown of removed files.

    :param audit: None where none is configured
    """

    def __init__(self, audit: AuditLog | None) -> None:
        self._audit = audit
        #: the newest ones, each with the seconds since the epoch; the newest last
        self.last: deque[tuple[float, Removal]] = deque(maxlen=KEPT)

    def report(self, removal: Removal) -> None:
        """Report a file that was just removed."""
        if LOG.isEnabledFor(logging.INFO):
            LOG.info(
                "Removed %r, %s, image %s, by %s%s: %s",
                removal.path,
                human_size(removal.size),
                removal.image_id,
                removal.trigger.value,
                "" if removal.waited is None else f" after {removal.waited:.3f} s",
                Reason[removal.state.name].value,
            )
        self.last.append((time.time(), removal))
        if self._audit is not None:
            self._audit.record(removal)

    def flush(self) -> None:
        """Write records of the audit that wait; to be called often."""
        if self._audit is not None:
            self._audit.flush()

    def close(self) -> None:
        """Write them for the last time."""
        if self._audit is not None:
            self._audit.close()
