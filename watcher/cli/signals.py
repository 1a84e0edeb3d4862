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
    """A context manager, for the main thread. In it the first signal raises `Interrupted`: at
    once where nothing is in hand, else after that. The second one ends the process.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._busy = False

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._came) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def asked(self) -> bool:
        """Whether a signal came; from now on something is in hand."""
        self._busy = True
        return self._number is not None

    def at_rest(self) -> None:
        """Nothing is in hand.

        :raises Interrupted: a signal came meanwhile
        """
        self._busy = False
        if self._number is not None:
            raise Interrupted(self._number)

    def _came(self, number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self._number = number
        if not self._busy:
            raise Interrupted(number)
