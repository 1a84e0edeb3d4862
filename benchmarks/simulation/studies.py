# SPDX-License-Identifier: Apache-2.0
"""The questions of docs/scale.md, each a few scenarios that differ in one thing."""

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product

from benchmarks.simulation import costs
from benchmarks.simulation.cloud import Figures, Scenario, simulate

Curves = dict[str, list[tuple[float, float]]]
Point = tuple[str, float, Scenario]

# Where only the wait of residue is asked for, each deletion has a file: there is more to average.
DENSE = Scenario(hosts=10, rate=1, staged=1, imports=0, late=0)
BROKER = 2 / costs.DELIVER  # messages a second of a broker with two processors for itself
JITTER = {"without jitter": False, "with jitter": True}
BIN = 0.1  # seconds in which reads are counted together for their peak


def loss(pool: ProcessPoolExecutor) -> Curves:
    """Seconds that a file is residue, by the share of lost events, for each interval."""
    points = [
        (
            f"{interval:g}",
            share,
            replace(
                DENSE,
                late=0.1,
                loss=share,
                event_loss=share,
                sweep_interval=interval,
                warm=1.2 * interval,
                seconds=max(12_000.0, 5 * interval),
            ),
        )
        for interval, share in product(
            (60.0, 600.0, 3600.0), (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
        )
    ]
    return _curves(pool, points, lambda found: found.wait)


def lag(pool: ProcessPoolExecutor) -> Curves:
    """Seconds that a file is residue, by how late the bus is, or the database."""
    lags = (0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
    # shorter than the grace, as the documentation demands of a replica
    points = [("bus", each, replace(DENSE, delay=each, seconds=1000.0)) for each in lags]
    # and far shorter than an image lives
    lagging = replace(DENSE, lives=1000.0, warm=3000.0, seconds=2000.0)
    points += [("database", each, replace(lagging, lag=each)) for each in lags]
    return _curves(pool, points, lambda found: found.wait)


def fan_out(pool: ProcessPoolExecutor) -> Curves:
    """Median of the seconds that a file is residue, by the rate of deletions, on one broker."""
    points: list[Point] = []
    rates = (0.3, 1, 1.5, 2, 3, 5, 10, 15, 20, 25, 30, 40, 60, 100, 150, 200, 250, 300, 400, 1000)
    for hosts, others, rate in product((10, 100, 1000), (0, costs.OTHERS), (*rates, 2000, 3000)):
        most = min(BROKER / hosts, 1 / costs.LISTEN) / (1 + others)
        if rate < 2.5 * most:
            scenario = replace(
                DENSE,
                hosts=hosts,
                sample=3,
                rate=rate,
                others=others,
                broker=BROKER,
                seconds=max(20.0, 15 * hosts / rate),
                warm=20.0,
            )
            points.append((f"{hosts} {others}", rate, scenario))
    return _curves(pool, points, lambda found: found.percentile(50))


def load(pool: ProcessPoolExecutor) -> dict[str, Curves]:
    """Bytes a second out of the broker, and reads a second of the database, by the rate."""
    points: list[Point] = []
    for hosts, rate in product((10, 100, 1000), (0.1, 1, 10, 100, 1000)):
        scenario = Scenario(
            hosts=hosts, sample=10, rate=rate, live=5, seconds=max(20.0, min(3600.0, 600 / rate))
        )
        points.append((f"{hosts}", rate, scenario))
    figures = list(pool.map(simulate, [scenario for _, _, scenario in points]))
    return {
        "sent": _collect(points, [found.sent for found in figures]),
        "reads": _collect(points, [found.reads for found in figures]),
    }


def shared(pool: ProcessPoolExecutor) -> Curves:
    """Reads of the database for each file that is removed, by the hosts that share a directory."""
    sharing = replace(DENSE, hosts=60, event_loss=1, sweep_interval=86400, seconds=2000.0)
    points = [
        (name, float(count), replace(sharing, shared=count, jitter=on))
        for name, on in JITTER.items()
        for count in (1, 2, 3, 5, 10, 20)
    ]
    return _curves(pool, points, lambda found: found.reads * 2000 / len(found.waits))


def restart(_: ProcessPoolExecutor) -> dict[str, Curves]:
    """Reads in the busiest tenth of each second, with jitter and without: after the broker of
    1,000 hosts was away for half a minute, and while 1,000 watchers, started together, sweep."""
    quiet = Scenario(hosts=1000, rate=1, live=5, imports=0, warm=60.0)
    away = replace(quiet, outage=(5.0, 30.0), seconds=60.0)
    sweeps = replace(quiet, sweep_interval=60.0, together=True, rate=0.0, warm=5.0, seconds=400.0)
    return {
        what: {name: _bins(simulate(replace(each, jitter=on))) for name, on in JITTER.items()}
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
    figures = zip(("1,000 hosts", "50 of them"), pool.map(simulate, [everyone, some]), strict=True)
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
        for name, found in figures
    }


STUDIES: dict[str, Callable[[ProcessPoolExecutor], object]] = {
    study.__name__: study for study in (loss, lag, fan_out, load, shared, restart, full)
}


def _curves(
    pool: ProcessPoolExecutor, points: Iterable[Point], measure: Callable[[Figures], float]
) -> Curves:
    points = list(points)
    figures = pool.map(simulate, [scenario for _, _, scenario in points])
    return _collect(points, [measure(found) for found in figures])


def _collect(points: Iterable[Point], values: Iterable[float]) -> Curves:
    curves: Curves = {}
    for (label, where, _), value in zip(points, values, strict=True):
        curves.setdefault(label, []).append((where, value))
    return curves


def _bins(found: Figures) -> list[tuple[float, float]]:
    first = min(found.times)
    bins = Counter(int((moment - first) / BIN) for moment in found.times)
    seconds: dict[int, int] = {}
    for number, reads in bins.items():
        second = int(number * BIN)
        seconds[second] = max(seconds.get(second, 0), reads)
    return [(float(second), float(seconds.get(second, 0))) for second in range(max(seconds) + 1)]
