# SPDX-License-Identifier: Apache-2.0
"""How long residue stayed, collected for the end of the run."""

from collections import defaultdict
from collections.abc import Iterator


class Timings:
    """Milliseconds by scenario and kind of file."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.remarks: list[str] = []

    def note(self, scenario: str, suffix: str, seconds: float) -> None:
        """One file of this suffix was residue for so long; negative: gone before the answer."""
        self._seconds[scenario, suffix].append(seconds)

    def remark(self, line: str) -> None:
        """A line of its own."""
        self.remarks.append(line)

    def lines(self) -> Iterator[str]:
        """The table."""
        if self._seconds:
            yield f"{'scenario':<72} {'file':<10} {'n':>3} {'fastest':>8} {'slowest':>8}"
        for (scenario, suffix), found in sorted(self._seconds.items()):
            low, high = min(found) * 1000, max(found) * 1000
            yield f"{scenario:<72} {'<id>' + suffix:<10} {len(found):>3} {low:>8.1f} {high:>8.1f}"
        yield from self.remarks


TIMINGS = Timings()
