# SPDX-License-Identifier: Apache-2.0
"""Figures: what was measured of whom, and what was to be reached."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

OURS = "watcher"


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which that many percent lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


@dataclass(frozen=True)
class Target:
    """One thing to reach."""

    text: str
    value: float
    bound: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        relation = "at most" if self.at_most else "at least"
        met = "met" if self.met else "NOT MET"
        return f"{self.text}: {number(self.value)}, {relation} {number(self.bound)}: {met}"


@dataclass
class Comparison:
    """Values of several subjects, taken in turn in one run.

    :param name: for machines and pictures
    :param unit: of the values
    """

    name: str
    title: str
    unit: str
    series: dict[str, list[float]] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)

    def add(self, subject: str, value: float) -> None:
        """One more value of a subject; five digits of it."""
        self.series.setdefault(subject, []).append(float(f"{value:.5g}"))

    def thin(self) -> None:
        """Keep of each subject's values the least, the worst, and 99 between them: enough for each
        percentile."""
        for subject, values in self.series.items():
            if len(values) > 100:
                found = [percentile(values, percent) for percent in range(101)]
                self.series[subject] = found

    def ratio(self, subject: str, to: str) -> float | None:
        """Ratio of the medians; None where one wasn't measured."""
        if not self.series.get(subject) or not self.series.get(to):
            return None
        return median(self.series[subject]) / (median(self.series[to]) or float("nan"))

    def at_most(self, bound: float, peer: str, text: str | None = None, ours: str = OURS) -> None:
        """Ours is to take at most that many times what a peer takes."""
        if (value := self.ratio(ours, peer)) is not None:
            self.targets.append(Target(text or f"times {peer}", value, bound))

    def faster(self, bound: float, peer: str) -> None:
        """Ours is to be at least that many times faster than a peer."""
        if (value := self.ratio(peer, OURS)) is not None:
            self.targets.append(Target(f"times faster than {peer}", value, bound, at_most=False))

    def bound(
        self, text: str, bound: float, *, value: float | None = None, at_most: bool = True
    ) -> None:
        """Ours is to stay below (or above) a bound."""
        if OURS in self.series:
            found = median(self.series[OURS]) if value is None else value
            self.targets.append(Target(text, found, bound, at_most))

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Comparison":
        """From a file."""
        targets = [Target(**target) for target in data["targets"]]
        return cls(data["name"], data["title"], data["unit"], data["series"], targets)


def number(value: float) -> str:
    """Three digits that count."""
    if value and abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}"
