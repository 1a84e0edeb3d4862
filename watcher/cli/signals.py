# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM while a command is at work."""

import signal
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asks for the end.

    :param number: of the signal
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        #: what was done until then, for the operator
        self.done = ""


class Interruption:
    """A context manager, for the main thread. The first signal raises `Interrupted` in `check`, or
    `at_once`; the second one ends the process.

    :param at_once: nothing is being changed, see there
    """

    def __init__(self, *, at_once: bool = False) -> None:
        #: the first signal raises wherever the work is
        self.at_once = at_once
        self._number: int | None = None

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def check(self) -> None:
        """Call it where the work may stop.

        :raises Interrupted: a signal was received
        """
        if self._number is not None:
            raise Interrupted(self._number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self._number = number
        if self.at_once:
            self.check()
