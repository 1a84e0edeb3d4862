# SPDX-License-Identifier: Apache-2.0
"""Faults that last: one line when one begins, one when it ends, none for the tries between."""

from oslo_log.log import BaseLoggerAdapter


class Condition:
    """One thing that can be out of order.

    :param log: logger of the module that meets the fault
    :param began: ERROR line with ``%s`` for the cause
    :param ended: INFO line
    """

    def __init__(self, log: BaseLoggerAdapter, began: str, ended: str) -> None:
        self._log, self._began, self._ended = log, began, ended
        self._causes: frozenset[str] = frozenset()  # replaced, never changed: others read it

    @property
    def active(self) -> bool:
        """Whether it lasts."""
        return bool(self._causes)

    @property
    def cause(self) -> str | None:
        """What put it out of order, in one line; None while it is in order."""
        return "; ".join(sorted(self._causes)) or None

    def begin(self, cause: str) -> None:
        """It is out of order; each cause is told once."""
        if cause not in self._causes:
            self._causes |= {cause}
            try:
                # oslo.log adds the exception in hand to a line, and so the cause a second time;
                # it doesn't for exceptions of this kind.
                raise ValueError
            except ValueError:
                self._log.error(self._began, cause)

    def end(self) -> bool:
        """It is in order; True when it wasn't."""
        lasted = self.forget()
        if lasted:
            self._log.info(self._ended)
        return lasted

    def forget(self) -> bool:
        """What was out of order is there no more, which is for others to tell; as `end`."""
        lasted, self._causes = self.active, frozenset()
        return lasted
