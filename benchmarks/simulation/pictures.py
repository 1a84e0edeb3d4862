# SPDX-License-Identifier: Apache-2.0
"""The pictures of docs/scale.md."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import pyplot

from benchmarks.figures import OURS
from benchmarks.pictures import COLORS, PEER_COLORS, save
from benchmarks.simulation import costs
from benchmarks.simulation.studies import BROKER, Curves

GREEN, RED = COLORS[OURS], COLORS["Glance's cleaner"]
BLUE, ORANGE, GREY = PEER_COLORS
SIZES = {"10": GREEN, "100": BLUE, "1000": ORANGE}
RATE = "deletions/s"


def draw(results: dict[str, Any], directory: Path) -> None:
    """Draw all."""
    pyplot.rcParams.update({"lines.markersize": 4, "legend.frameon": False})
    with _pair(directory / "scale-residue.svg") as (left, right):
        _loss(left, results["loss"])
        _lag(right, results["lag"])
    with _pair(directory / "scale-bus.svg") as (left, right):
        _fan_out(left, results["fan_out"])
        _sent(right, results["load"]["sent"])
    with _pair(directory / "scale-cost.svg") as (left, right):
        _reads(left, results["load"]["reads"])
        _sweeps(right)
    with _pair(directory / "scale-restart.svg") as (left, right):
        _peaks(left, results["restart"]["broker"], "the broker of 1,000 hosts was away for 30 s")
        left.set_ylabel("reads in the busiest 0.1 s")
        title = "1,000 watchers started together, sweep_interval = 60"
        _peaks(right, results["restart"]["sweeps"], title)


@contextmanager
def _pair(path: Path) -> Iterator[tuple[Any, Any]]:
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.4))
    yield axes
    for axis in axes:
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    save(figure, path)


def _loss(axis: Any, curves: Curves) -> None:
    for (interval, points), color in zip(curves.items(), (GREEN, BLUE, ORANGE), strict=True):
        shares, waits = zip(*points, strict=True)
        axis.plot(shares, waits, "o", color=color, label=f"a sweep every {interval} s")
        axis.plot(shares, [share * float(interval) / 2 for share in shares], color=color)
    where = "share of events that is lost; lines: share x interval / 2"
    _label(axis, "lost events", where, "mean seconds a file is residue")


def _lag(axis: Any, curves: Curves) -> None:
    for what, color in (("bus", GREEN), ("database", BLUE)):
        axis.plot(*zip(*curves[what], strict=True), "o-", color=color, label=f"{what} late")
    axis.plot((0.003, 50), (0.003, 50), color=GREY, linewidth=1, label="as late")
    _label(axis, "late events, late rows", "seconds late")


def _fan_out(axis: Any, curves: Curves) -> None:
    for name, points in curves.items():
        hosts, others = name.split()
        style, label = ("-", f"{hosts} hosts") if others == "0" else ("--", None)
        axis.plot(*zip(*points, strict=True), style, color=SIZES[hosts], label=label)
    title = f"one broker of {BROKER:,.0f} messages/s (dashed: all that Glance sends)"
    _label(axis, title, RATE, "median seconds a file is residue")


def _sent(axis: Any, curves: Curves) -> None:
    whole = 1 + costs.OTHERS * costs.OTHER_BYTES / costs.DELETE_BYTES
    for hosts, points in curves.items():
        rates, sent = zip(*points, strict=True)
        axis.plot(rates, [each / 1e6 for each in sent], "o-", color=SIZES[hosts])
        axis.plot(rates, [whole * each / 1e6 for each in sent], "--", color=SIZES[hosts])
    axis.axhline(BROKER * costs.DELETE_BYTES / 1e6, color=GREY, linestyle=":")
    _label(axis, "MB/s out of the broker (dotted: the most of this one)", RATE)


def _reads(axis: Any, curves: Curves) -> None:
    for hosts, points in curves.items():
        axis.plot(*zip(*points, strict=True), "o-", color=SIZES[hosts], label=f"{hosts} hosts")
    _label(axis, "reads of the database a second", RATE)


def _sweeps(axis: Any) -> None:
    rates = (0.1, 1.0, 10.0, 100.0, 1000.0)
    for files, color in ((10, GREEN), (100, BLUE), (1000, ORANGE)):
        takes = costs.HAND_OVER + costs.OPEN + costs.READ + files * costs.LOOK
        intervals = [takes / (rate * costs.LISTEN) for rate in rates]
        axis.plot(rates, intervals, color=color, label=f"{files} staged files a host")
    axis.axhline(1, color=GREY, linewidth=1)
    title = "sweeps that cost a host what listening costs it"
    _label(axis, title, "notifications/s", "sweep_interval, seconds")


def _peaks(axis: Any, curves: Curves, title: str) -> None:
    for name, color in (("without jitter", RED), ("with jitter", GREEN)):
        axis.plot(*zip(*curves[name], strict=True), color=color, linewidth=1, label=name)
    axis.set(yscale="symlog", title=title, xlabel="seconds")


def _label(axis: Any, title: str, x: str, y: str = "") -> None:
    axis.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    axis.set_title(title, fontsize=10)
