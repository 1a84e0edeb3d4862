# SPDX-License-Identifier: Apache-2.0
"""The running numbers as Prometheus' metrics, made when they are asked for."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from watcher.conf import DISTRIBUTION
from watcher.stats import LAG_BUCKETS, Stats, Tally
from watcher.workqueue import WorkQueue

PREFIX = "glance_staging_watcher_"


class Metrics:
    """A collector for prometheus_client; it only reads, so a scrape holds nobody up.

    :param conditions: parts of the watcher, each with its fault, None while it is in order
    :param sweep_interval: seconds, as configured now
    """

    def __init__(
        self,
        stats: Stats,
        queue: WorkQueue,
        *,
        conditions: Callable[[], Mapping[str, str | None]],
        sweep_interval: Callable[[], float],
    ) -> None:
        self._stats, self._queue = stats, queue
        self._conditions, self._sweep_interval = conditions, sweep_interval
        self._version = version(DISTRIBUTION)

    def collect(self) -> Iterator[Metric]:
        """Every metric, as of now."""
        yield InfoMetricFamily(
            f"{PREFIX}build", "Version of the running program.", {"version": self._version}
        )
        yield from self._work()
        yield from self._sweeps()
        yield from self._notifications()
        yield self._depth()
        conditions = GaugeMetricFamily(
            f"{PREFIX}condition", "1 while a part is in order, else 0.", labels=["part"]
        )
        for part, cause in self._conditions().items():
            conditions.add_metric([part], cause is None)
        yield conditions

    def _depth(self) -> Metric:
        delayed = self._queue.delayed
        depth = GaugeMetricFamily(
            f"{PREFIX}queue_depth",
            "Keys that are due, and that wait for their time.",
            labels=["state"],
        )
        depth.add_metric(["due"], max(0, self._queue.depth - delayed))
        depth.add_metric(["delayed"], delayed)
        return depth

    def _work(self) -> Iterator[Metric]:
        files = CounterMetricFamily(
            f"{PREFIX}files",
            "Files looked at, by what made the watcher look and by what came of it.",
            labels=["trigger", "result"],
        )
        freed = CounterMetricFamily(
            f"{PREFIX}freed_bytes", "Disk space that removed files held.", labels=["trigger"]
        )
        for trigger, tally in self._stats.tallies.items():
            for result, count in _results(tally):
                files.add_metric([trigger.value, result], count)
            freed.add_metric([trigger.value], tally.size)
        yield files
        yield freed
        yield _counter(
            "rechecks", "Files and images put back to be looked at later.", self._stats.rechecks
        )

    def _sweeps(self) -> Iterator[Metric]:
        yield _counter("sweeps", "Sweeps that came to their end.", self._stats.sweeps)
        yield _gauge(
            "sweep_interval_seconds",
            "From the end of one sweep to the next, as configured.",
            self._sweep_interval(),
        )
        last = self._stats.last_sweep
        if last is None:
            return
        yield _gauge(
            "last_sweep_timestamp_seconds", "Unix time at which the last sweep ended.", last.ended
        )
        yield _gauge("last_sweep_duration_seconds", "How long the last sweep took.", last.duration)
        files = GaugeMetricFamily(
            f"{PREFIX}last_sweep_files",
            "Files that the last sweep looked at, by what came of it.",
            labels=["result"],
        )
        for result, count in _results(last.tally):
            files.add_metric([result], count)
        yield files

    def _notifications(self) -> Iterator[Metric]:
        yield _counter(
            "notifications",
            "image.delete notifications that named an image.",
            self._stats.notifications,
        )
        lag = self._stats.lag
        within = itertools.accumulate(list(lag.counts))
        bounds = [*map(str, LAG_BUCKETS), "+Inf"]
        yield HistogramMetricFamily(
            f"{PREFIX}notification_lag_seconds",
            "From the sending of a notification, by the sender's clock, to its arrival.",
            buckets=list(zip(bounds, within, strict=True)),
            sum_value=lag.total,
        )


def new_registry(metrics: Metrics) -> CollectorRegistry:
    """The metrics and those of the process, apart from what libraries register of their own."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(metrics)
    ProcessCollector(registry=registry)
    return registry


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value)


def _results(tally: Tally) -> Iterator[tuple[str, int]]:
    for result in ("cleaned", "ignored", "error"):
        yield result, getattr(tally, result)
