# SPDX-License-Identifier: Apache-2.0
"""The program at a terminal, as a person sees it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.functional.program import PROGRAM

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# up, erase a line, other control sequences, anything else
_PARTS = re.compile(r"\x1b\[(\d+)A|\x1b\[(2K)|(\x1b\[[?0-9;]*[A-Za-z])|(.)", re.DOTALL)


class Terminal:
    """A program whose stdout and stderr are a terminal.

    :param command: instead of the installed program
    :param stdout: where stdout goes instead
    :param environment: variables, in addition to ours
    """

    def __init__(
        self,
        *arguments: str | Path,
        columns: int = 80,
        command: Sequence[str | Path] = (PROGRAM,),
        stdout: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        ours = {
            name: value
            for name, value in os.environ.items()
            if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
        }
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [*command, *arguments],
            env=ours | {"TERM": "xterm-256color"} | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
        )
        os.close(slave)
        #: all that was written so far, control sequences included
        self.raw = ""

    def read_until(self, text: str) -> None:
        """Read until that text is there, or all."""
        while text not in self.raw:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # EIO: the program has closed it
                return
            self.raw += data.decode()

    def end(self) -> int:
        """Read all, and wait for the program's end; its exit code."""
        self.read_until("\0")
        os.close(self._master)
        return self.process.wait(30)

    @property
    def lines(self) -> list[str]:
        """What a person sees at last."""
        screen, row, column = [""], 0, 0
        for up, erase, control, letter in _PARTS.findall(self.raw):
            if up:
                row -= int(up)
            elif erase:
                screen[row] = ""
            elif letter == "\n":
                row += 1
                screen += [""] * (row == len(screen))
            elif letter == "\r":
                column = 0
            elif not control:
                line = screen[row].ljust(column)
                screen[row] = line[:column] + letter + line[column + 1 :]
                column += 1
        return [line.rstrip() for line in screen]
