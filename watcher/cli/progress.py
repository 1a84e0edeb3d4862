# SPDX-License-Identifier: Apache-2.0
"""A progress bar on stderr, for a person at a terminal."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from watcher.telemetry import removals
from watcher.units import human_size

if TYPE_CHECKING:
    from rich.progress import Progress


class Bar:
    """Files done of all, and what was removed of them.

    :param progress: where it shows; nowhere when it is None
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, result="") if progress else None
        self._done = self._cleaned = self._gained = 0

    def step(self, done: int, count: int) -> None:
        """Show how many files of ``count`` are done."""
        self._done = done
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=max(done, count))

    def removed(self, size: int) -> None:
        """One more file is done: it was removed, and held ``size`` bytes."""
        self._done += 1
        self._cleaned += 1
        self._gained += size
        if self._progress is not None and self._task is not None:
            result = f"{self._cleaned} cleaned, {human_size(self._gained)} gained"
            self._progress.update(self._task, completed=self._done, result=result)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Out of the way of what is written to the same terminal."""
        if self._progress is None:
            yield
        else:
            self._progress.stop()
            sys.stdout.flush()
            yield
            sys.stdout.flush()
            self._progress.start()
            self._progress.console.show_cursor(True)


@contextmanager
def bar(*, listing: bool) -> Iterator[Bar]:
    """A bar, if anyone sees it.

    :param listing: lines go to stdout meanwhile, and the bar disappears at the end. In a pipe
        those may go to a pager, which has the terminal for itself.
    """
    if not sys.stderr.isatty() or (listing and stat.S_ISFIFO(os.fstat(1).st_mode)):
        yield Bar()
        return
    from rich import progress  # noqa: PLC0415 - only at a terminal
    from rich.console import Console  # noqa: PLC0415

    shown = progress.Progress(
        progress.BarColumn(bar_width=20),
        progress.MofNCompleteColumn(separator=" of "),
        progress.TextColumn("files"),
        progress.TimeRemainingColumn(compact=True),
        progress.TextColumn("{task.fields[result]}", markup=False),
        console=Console(stderr=True),
        transient=listing,
        redirect_stdout=False,
    )
    with shown, _logs_above_it():
        shown.console.show_cursor(True)  # a signal that ends us at once leaves it so
        yield Bar(shown)


@contextmanager
def _logs_above_it() -> Iterator[None]:
    """Log lines go through what the bar has put in place of stderr; it takes milliseconds for each,
    so those of removals, which it counts, don't."""
    moved = [
        (handler, before)
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler)
        and handler.stream is sys.__stderr__
        and (before := handler.setStream(sys.stderr)) is not None
    ]
    for handler, _ in moved:
        handler.addFilter(_is_no_removal)
    try:
        yield
    finally:
        for handler, before in moved:
            handler.removeFilter(_is_no_removal)
            handler.setStream(before)


def _is_no_removal(record: logging.LogRecord) -> bool:
    return record.name != removals.__name__
