# SPDX-License-Identifier: Apache-2.0
"""The pictures of docs/scale.md."""

from pathlib import Path
from typing import Any

from matplotlib import pyplot

from benchmarks.pictures import save
from benchmarks.simulation import costs
from benchmarks.simulation.studies import BROKER, Curves

COLORS = ("#0b6e4f", "#1f77b4", "#e67e22")
GREY, RED = "#8e9aa6", "#c0392b"
SIZES = dict(zip(("10", "100", "1000"), COLORS, strict=True))
RATE = "deletions/s"


def draw(results: dict[str, Any], directory: Path) -> None:
    """Draw all."""
    pyplot.rcParams.update({"lines.markersize": 4, "legend.frameon": False})
    pictures = {
        "residue": (_loss, results["loss"], _lag, results["lag"]),
        "bus": (_fan_out, results["fan_out"], _sent, results["load"]["sent"]),
        "cost": (_reads, results["load"]["reads"], _sweeps, {}),
        "restart": (_broker, results["restart"]["broker"], _in_step, results["restart"]["sweeps"]),
    }
    for name, (left, of_left, right, of_right) in pictures.items():
        figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.4))
        left(axes[0], of_left)
        right(axes[1], of_right)
        axes[0].legend()
        if axes[1].get_legend_handles_labels()[0]:
            axes[1].legend()
        save(figure, directory / f"scale-{name}.svg")


def _loss(axis: Any, curves: Curves) -> None:
    for (interval, points), color in zip(curves.items(), COLORS, strict=True):
        shares, waits = _columns(points)
        axis.plot(shares, waits, "o", color=color, label=f"a sweep every {interval} s")
        axis.plot(shares, [share * float(interval) / 2 for share in shares], color=color)
    where = "share of events that is lost; lines: share x interval / 2"
    _label(axis, "lost events", where, "mean seconds a file is residue")


def _lag(axis: Any, curves: Curves) -> None:
    for (what, points), color in zip(curves.items(), COLORS, strict=False):
        axis.plot(*_columns(points), "o-", color=color, label=f"{what} late")
    axis.plot((0.003, 50), (0.003, 50), color=GREY, linewidth=1, label="as late")
    _label(axis, "late events, late rows", "seconds late")


def _fan_out(axis: Any, curves: Curves) -> None:
    for name, points in curves.items():
        hosts, others = name.split()
        style = "-" if others == "0" else "--"
        label = f"{hosts} hosts" if others == "0" else None
        axis.plot(*_columns(points), style, color=SIZES[hosts], label=label)
    title = f"one broker of {BROKER:,.0f} messages/s (dashed: all that Glance sends)"
    _label(axis, title, RATE, "median seconds a file is residue")


def _sent(axis: Any, curves: Curves) -> None:
    whole = 1 + costs.OTHERS * costs.OTHER_BYTES / costs.DELETE_BYTES
    for hosts, points in curves.items():
        rates, sent = _columns(points)
        axis.plot(rates, [each / 1e6 for each in sent], "o-", color=SIZES[hosts])
        axis.plot(rates, [whole * each / 1e6 for each in sent], "--", color=SIZES[hosts])
    axis.axhline(BROKER * costs.DELETE_BYTES / 1e6, color=GREY, linestyle=":")
    _label(axis, "MB/s out of the broker (dotted: the most of this one)", RATE)


def _reads(axis: Any, curves: Curves) -> None:
    for hosts, points in curves.items():
        axis.plot(*_columns(points), "o-", color=SIZES[hosts], label=f"{hosts} hosts")
    _label(axis, "reads of the database a second", RATE)


def _sweeps(axis: Any, _: Curves) -> None:
    rates = [0.1, 1.0, 10.0, 100.0, 1000.0]
    for files, color in zip((10, 100, 1000), COLORS, strict=True):
        takes = costs.HAND_OVER + costs.OPEN + costs.READ + files * costs.LOOK
        intervals = [takes / (rate * costs.LISTEN) for rate in rates]
        axis.plot(rates, intervals, color=color, label=f"{files} staged files a host")
    axis.axhline(1, color=GREY, linewidth=1)
    title = "sweeps that cost a host what listening costs it"
    _label(axis, title, "notifications/s", "sweep_interval, seconds")


def _broker(axis: Any, curves: Curves) -> None:
    _bins(axis, curves)
    title, where = "the broker of 1,000 hosts was away for 30 s", "seconds"
    axis.set(title=title, xlabel=where, ylabel="reads in the busiest 0.1 s")


def _in_step(axis: Any, curves: Curves) -> None:
    _bins(axis, curves)
    axis.set(title="1,000 watchers started together, sweep_interval = 60", xlabel="seconds")


def _bins(axis: Any, curves: Curves) -> None:
    for (name, points), color in zip(curves.items(), (RED, COLORS[0]), strict=True):
        axis.plot(*_columns(points), color=color, linewidth=1, label=name)
    axis.set(yscale="symlog")


def _label(axis: Any, title: str, x: str, y: str = "") -> None:
    axis.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    axis.set_title(title, fontsize=10)


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
