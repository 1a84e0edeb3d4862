# SPDX-License-Identifier: Apache-2.0
"""The questions of docs/scale.md, each a few scenarios that differ in one thing."""

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from typing import TypeVar

from benchmarks.simulation import costs
from benchmarks.simulation.cloud import Figures, Scenario, simulate

Curves = dict[str, list[tuple[float, float]]]
Point = tuple[str, float]  # name of the curve, and x
T = TypeVar("T")

# Where only the wait of residue is asked for, each deletion has a file: there is more to average.
DENSE = Scenario(hosts=10, rate=1, staged=1, imports=0, late=0)
BROKER = 2 / costs.DELIVER  # messages a second of a broker with two processors for itself
JITTER = {"without jitter": False, "with jitter": True}
TENTH = 0.1  # of a second: reads in it are counted together for their peak


def loss(pool: ProcessPoolExecutor) -> Curves:
    """Seconds that a file is residue, by the share of lost events, for each interval."""
    intervals, shares = (60.0, 600.0, 3600.0), (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    points = {
        (f"{interval:g}", share): replace(
            DENSE,
            late=0.1,
            loss=share,
            event_loss=share,
            sweep_interval=interval,
            warm=1.2 * interval,
            seconds=max(12_000.0, 5 * interval),
        )
        for interval, share in product(intervals, shares)
    }
    return _curves(_run(pool, points), lambda found: found.wait)


def lag(pool: ProcessPoolExecutor) -> Curves:
    """Seconds that a file is residue, by how late the bus is, or the database."""
    lags = (0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
    # shorter than the grace, as the documentation demands of a replica
    points = {("bus", each): replace(DENSE, delay=each, seconds=1000.0) for each in lags}
    # and far shorter than an image lives
    lagging = replace(DENSE, lives=1000.0, warm=3000.0, seconds=2000.0)
    points |= {("database", each): replace(lagging, lag=each) for each in lags}
    return _curves(_run(pool, points), lambda found: found.wait)


def fan_out(pool: ProcessPoolExecutor) -> Curves:
    """Median of the seconds that a file is residue, by the rate of deletions, on one broker."""
    rates = (0.3, 1, 1.5, 2, 3, 5, 10, 15, 20, 25, 30, 40, 60, 100, 150, 200, 250, 300, 400, 1000)
    points = {
        (f"{hosts} {others}", rate): replace(
            DENSE,
            hosts=hosts,
            sample=3,
            rate=rate,
            others=others,
            broker=BROKER,
            seconds=max(20.0, 15 * hosts / rate),
            warm=20.0,
        )
        for hosts, others, rate in product((10, 100, 1000), (0, costs.OTHERS), (*rates, 2000, 3000))
        if rate < 2.5 * min(BROKER / hosts, 1 / costs.LISTEN) / (1 + others)
    }
    return _curves(_run(pool, points), lambda found: found.percentile(50))


def load(pool: ProcessPoolExecutor) -> dict[str, Curves]:
    """Bytes a second out of the broker, and reads a second of the database, by the rate."""
    points = {
        (f"{hosts}", rate): Scenario(
            hosts=hosts, sample=10, rate=rate, live=5, seconds=max(20.0, min(3600.0, 600 / rate))
        )
        for hosts, rate in product((10, 100, 1000), (0.1, 1, 10, 100, 1000))
    }
    figures = _run(pool, points)
    return {
        "sent": _curves(figures, lambda found: found.sent),
        "reads": _curves(figures, lambda found: found.reads),
    }


def shared(pool: ProcessPoolExecutor) -> Curves:
    """Reads of the database for each file that is removed, by the hosts that share a directory."""
    sharing = replace(DENSE, hosts=60, event_loss=1, sweep_interval=86400, seconds=2000.0)
    points = {
        (name, float(count)): replace(sharing, shared=count, jitter=on)
        for (name, on), count in product(JITTER.items(), (1, 2, 3, 5, 10, 20))
    }
    return _curves(_run(pool, points), lambda found: found.reads * 2000 / len(found.waits))


def restart(_: ProcessPoolExecutor) -> dict[str, Curves]:
    """Reads in the busiest tenth of each second, with jitter and without: after the broker of
    1,000 hosts was away for half a minute, and while 1,000 watchers, started together, sweep."""
    quiet = Scenario(hosts=1000, rate=1, live=5, imports=0, warm=60.0)
    away = replace(quiet, outage=(5.0, 30.0), seconds=60.0)
    sweeps = replace(quiet, sweep_interval=60.0, together=True, rate=0.0, warm=5.0, seconds=400.0)
    return {
        what: {name: _peaks(simulate(replace(each, jitter=on))) for name, on in JITTER.items()}
        for what, each in (("broker", away), ("sweeps", sweeps))
    }


def full(pool: ProcessPoolExecutor) -> dict[str, dict[str, float]]:
    """All of 1,000 hosts at 1,000 deletions a second, and a sample of them for longer.

    No broker hands out so much: here each host's queue is one that nothing else slows.
    """
    everyone = Scenario(
        hosts=1000, rate=1000, staged=0.5, imports=0.5, lives=2.0, warm=5, seconds=10
    )
    some = replace(everyone, sample=50, seconds=100, seed=2)
    return {
        name: {
            "files removed": len(found.waits),
            "residue, files": found.residue,
            "p50, ms": 1000 * found.percentile(50),
            "p99, ms": 1000 * found.percentile(99),
            "reads/s": found.reads,
            "messages/s": found.messages,
            "MB/s": found.sent / 1e6,
            "live files removed": found.wrong,
        }
        for name, found in _run(pool, {"1,000 hosts": everyone, "50 of them": some}).items()
    }


STUDIES: dict[str, Callable[[ProcessPoolExecutor], object]] = {
    study.__name__: study for study in (loss, lag, fan_out, load, shared, restart, full)
}


def _run(pool: ProcessPoolExecutor, scenarios: Mapping[T, Scenario]) -> dict[T, Figures]:
    return dict(zip(scenarios, pool.map(simulate, scenarios.values()), strict=True))


def _curves(figures: Mapping[Point, Figures], measure: Callable[[Figures], float]) -> Curves:
    curves: Curves = {}
    for (name, x), found in figures.items():
        curves.setdefault(name, []).append((x, measure(found)))
    return curves


def _peaks(found: Figures) -> list[tuple[float, float]]:
    first = min(found.times)
    tenths = Counter(int((moment - first) / TENTH) for moment in found.times)
    return [
        (float(second), float(max(tenths[10 * second + tenth] for tenth in range(10))))
        for second in range(max(tenths) // 10 + 1)
    ]
