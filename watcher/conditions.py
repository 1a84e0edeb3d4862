# SPDX-License-Identifier: Apache-2.0
"""Conditions: one log line when a fault begins, one when it ends, none for the tries between."""

import logging
import re
import threading

from oslo_log.log import BaseLoggerAdapter

MAX_CAUSES = 3  # shown at a time
MAX_LENGTH = 500  # characters of one cause

_NUMBER = re.compile(r"\d+")


class Condition:
    """One component that is healthy or failing. Any thread may read and report.

    :param log: logger of the module that meets the fault
    :param began: log line with ``%s`` for the cause
    :param ended: INFO line
    :param level: of the line when it begins
    """

    def __init__(
        self, log: BaseLoggerAdapter, began: str, ended: str, *, level: int = logging.ERROR
    ) -> None:
        self._log, self._began, self._ended, self._level = log, began, ended, level
        self._lock = threading.Lock()
        # by their text without numbers, which differ from try to try; the newest last
        self._causes: dict[str, str] = {}

    @property
    def active(self) -> bool:
        """Whether the component is failing."""
        return bool(self._causes)

    @property
    def cause(self) -> str | None:
        """Why it is failing, in one line; None while it is healthy."""
        with self._lock:
            return "; ".join(self._causes.values()) or None

    def begin(self, cause: str) -> None:
        """Report a fault; only the first cause of it is logged, the newest are kept."""
        cause = cause[:MAX_LENGTH]
        with self._lock:
            is_new = not self._causes
            masked = _NUMBER.sub("#", cause)
            self._causes.pop(masked, None)
            self._causes[masked] = cause
            while len(self._causes) > MAX_CAUSES:
                del self._causes[next(iter(self._causes))]
        if is_new:
            try:
                # oslo.log adds the exception that is being handled to a line, and so the cause
                # a second time; it doesn't for exceptions of this kind.
                raise ValueError
            except ValueError:
                self._log.log(self._level, self._began, cause)

    def end(self) -> bool:
        """Report that it is healthy; True when it wasn't."""
        lasted = self.forget()
        if lasted:
            self._log.info(self._ended)
        return lasted

    def forget(self) -> bool:
        """End the fault without a line, where another line says more; as `end`."""
        with self._lock:
            lasted = bool(self._causes)
            self._causes.clear()
        return lasted
