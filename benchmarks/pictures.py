# SPDX-License-Identifier: Apache-2.0
"""The pictures of README.md and docs/performance.md."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from scour import scour

matplotlib.use("svg")
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "benchmarks",  # the same figures make the same file
        "svg.fonttype": "none",  # text as text: smaller, and it can be searched
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
        "font.size": 9,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "white",
    }
)

from matplotlib import pyplot  # noqa: E402

from benchmarks.figures import OURS, Comparison, median, percentile  # noqa: E402

COLORS = {
    OURS: "#0b6e4f",
    "Glance's cleaner": "#c0392b",
    "scandir + IN + unlink": "#8e9aa6",
    "unlink alone": "#c9d1d9",
}
PEER_COLORS = ("#1f77b4", "#e67e22", "#8e9aa6")
POINTS = 60  # of a line that shows a distribution
RESTART = ("restart-connections", "restart-sweeps", "restart-rechecks")
KINDS = {"sqlite": "SQLite", "mariadb": "MariaDB", "postgresql": "PostgreSQL"}


def draw(comparisons: Sequence[Comparison], directory: Path) -> None:
    """Draw what the figures suffice for."""
    known = {found.name: found for found in comparisons}
    directory.mkdir(exist_ok=True)
    if sweeps := [found for name, found in known.items() if _is_growth(name)]:
        _growth(sweeps, directory / "performance-growth.svg")
    if "notification" in known and "event" in known:
        pair = [known["notification"], known["event"]]
        _latency(pair, directory / "performance-latency.svg")
    if "delays" in known:
        _worst(known["delays"], directory / "performance-delays.svg")
    if restarts := [known[name] for name in RESTART if name in known]:
        _in_step(restarts, directory / "hosts-restart.svg")


def _is_growth(name: str) -> bool:
    return name.startswith("sweep-") and name.endswith("-half-small")


def _growth(sweeps: Iterable[Comparison], path: Path) -> None:
    points: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for found in sweeps:
        _, kind, files, _, _ = found.name.split("-")
        for subject, values in found.series.items():
            subjects = points.setdefault(kind, {})
            subjects.setdefault(subject, []).append((int(files), median(values)))
    figure, axes = pyplot.subplots(
        1, len(points), figsize=(3.3 * len(points), 3.2), sharex=True, sharey=True, squeeze=False
    )
    for axis, (kind, subjects) in zip(axes[0], points.items(), strict=True):
        for subject, color in COLORS.items():
            line = sorted(subjects.get(subject, ()))
            axis.plot(
                [files for files, _ in line],
                [seconds for _, seconds in line],
                marker="o",
                markersize=4,
                linewidth=2.2 if subject == OURS else 1.4,
                color=color,
                label=subject,
            )
        axis.set(
            xscale="log", yscale="log", title=KINDS[kind], xlabel="files, half of them residue"
        )
    axes[0][0].set_ylabel("seconds for one sweep")
    figure.legend(
        *axes[0][0].get_legend_handles_labels(), loc="lower center", ncol=4, frameon=False
    )
    save(figure, path, bottom=0.08)


def _latency(comparisons: Sequence[Comparison], path: Path) -> None:
    figure, axes = pyplot.subplots(1, len(comparisons), figsize=(10, 3.4))
    for axis, found in zip(axes, comparisons, strict=True):
        peers = iter(PEER_COLORS)
        for subject, values in found.series.items():
            shares = [100 * point / POINTS for point in range(POINTS + 1)]
            ordered = [percentile(values, share) for share in shares]
            ours = subject.startswith(OURS)
            axis.plot(
                ordered,
                shares,
                linewidth=2.2 if subject == OURS else 1.4,
                linestyle="--" if ours and subject != OURS else "-",
                color=COLORS[OURS] if ours else next(peers),
                label=subject,
            )
        axis.set(xscale="log", title=found.title, xlabel="milliseconds")
        ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if _near(tick, found)]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.legend(frameon=False, loc="best")
    axes[0].set_ylabel("% of files gone")
    save(figure, path)


def _worst(found: Comparison, path: Path) -> None:
    """Median, p99 and worst of each subject, on one line."""
    figure, axis = pyplot.subplots(figsize=(10, 0.4 * len(found.series) + 1.1))
    names = list(found.series)[::-1]
    for row, name in enumerate(names):
        values = found.series[name]
        points = [median(values), percentile(values, 99), max(values)]
        axis.plot([points[0], points[2]], [row, row], color="#c9d1d9", linewidth=3, zorder=1)
        axis.scatter(points, [row] * 3, c=[COLORS[OURS], *PEER_COLORS[:2]], s=36, zorder=2)
    for label, color in zip(("median", "p99", "worst"), [COLORS[OURS], *PEER_COLORS], strict=False):
        axis.scatter([], [], color=color, s=36, label=label)
    axis.axvline(50, color="#c0392b", linewidth=1, linestyle="--")
    axis.set_yticks(range(len(names)), ["alone" if name == OURS else name for name in names])
    axis.set(xscale="log", xlabel=f"{found.title}, milliseconds; dashed: at most 50")
    axis.legend(frameon=False, loc="lower right")
    save(figure, path)


def _in_step(comparisons: Sequence[Comparison], path: Path) -> None:
    """How many of a series of moments come in each tenth of a second."""
    figure, axes = pyplot.subplots(1, len(comparisons), figsize=(10, 2.9))
    for axis, found in zip(axes, comparisons, strict=True):
        end = max(max(values) for values in found.series.values())
        edges = [tenth / 10 for tenth in range(int(end * 10) + 2)]
        for subject, values in sorted(found.series.items(), reverse=True):
            color = COLORS[OURS] if subject == OURS else PEER_COLORS[1]
            axis.hist(values, edges, histtype="stepfilled", color=color, alpha=0.8, label=subject)
        before, _, after = found.title.partition(" → ")
        axis.set(title=after, xlabel=f"seconds after {before}")
        axis.title.set_size(9)
    axes[0].set_ylabel("in each tenth of a second")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="lower center", ncol=2, frameon=False)
    save(figure, path, bottom=0.08)


def _near(tick: float, found: Comparison) -> bool:
    values = [value for values in found.series.values() for value in values]
    return min(values) / 2 < tick < max(values) * 2


def save(figure: Any, path: Path, bottom: float = 0.0) -> None:
    """Write a picture, the same for the same figures; ``bottom`` is left for a legend."""
    figure.tight_layout(rect=(0, bottom, 1, 1))
    write(figure, path)


def write(figure: Any, path: Path) -> None:
    """Write a picture as it is laid out."""
    for axis in figure.axes:
        axis.minorticks_off()
    figure.savefig(path, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    pyplot.close(figure)
    small = scour.sanitizeOptions()
    small.digits, small.indent_type, small.newlines = 4, "none", False
    small.strip_comments = small.strip_ids = small.shorten_ids = small.enable_viewboxing = True
    path.write_text(scour.scourString(path.read_text(), small))
