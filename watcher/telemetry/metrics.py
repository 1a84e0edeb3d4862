# SPDX-License-Identifier: Apache-2.0
"""Metrics for Prometheus, made from the running counts at each scrape."""

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
from watcher.reconcile.cleaner import Outcome
from watcher.reconcile.kinds import ALL, Kinds, Share
from watcher.stats import LAG_BUCKETS, Stats, Tally
from watcher.workqueue import WorkQueue

PREFIX = "glance_staging_watcher_"
NOTHING = Share()


class Metrics:
    """A collector for prometheus_client; it only reads, so a scrape delays no removal.

    :param conditions: every component, with the cause of its failure; None: healthy
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
        """Yield every metric with its current values."""
        yield InfoMetricFamily(
            f"{PREFIX}build", "Version of the running program.", {"version": self._version}
        )
        yield from self._work()
        yield from self._sweeps()
        yield from self._notifications()
        yield self._depth()
        yield from self._health()

    def _health(self) -> Iterator[Metric]:
        conditions = self._conditions()
        healthy = GaugeMetricFamily(
            f"{PREFIX}healthy",
            "1 if a component is healthy, 0 if it is failing.",
            labels=["component"],
        )
        for component, cause in conditions.items():
            healthy.add_metric([component], cause is None)
        yield healthy
        yield _gauge(
            "absent_removals_limit_reached",
            "1 while max_absent_removals is used up for the last 24 hours, else 0.",
            conditions.get("absent_removals_limit") is not None,
        )

    def _depth(self) -> Metric:
        depth = GaugeMetricFamily(
            f"{PREFIX}queue_depth",
            "Queued keys, due now or delayed.",
            labels=["state"],
        )
        depth.add_metric(["due"], self._queue.due)
        depth.add_metric(["delayed"], self._queue.delayed)
        return depth

    def _work(self) -> Iterator[Metric]:
        files = CounterMetricFamily(
            f"{PREFIX}files",
            "Files checked, by trigger and result.",
            labels=["trigger", "result"],
        )
        freed = CounterMetricFamily(
            f"{PREFIX}freed_bytes", "Disk space freed by removed files.", labels=["trigger"]
        )
        for trigger, tally in self._stats.tallies.items():
            for result, count in _results(tally):
                files.add_metric([trigger.value, result], count)
            freed.add_metric([trigger.value], tally.size)
        yield files
        yield freed
        yield _counter(
            "rechecks", "Files and images requeued for a later check.", self._stats.rechecks
        )

    def _sweeps(self) -> Iterator[Metric]:
        yield _counter("sweeps", "Finished sweeps.", self._stats.sweeps)
        yield _gauge(
            "sweep_interval_seconds",
            "Configured time between two sweeps.",
            self._sweep_interval(),
        )
        last = self._stats.last_sweep
        if last is None:
            return
        yield _gauge(
            "last_sweep_timestamp_seconds", "Unix time of the end of the last sweep.", last.ended
        )
        yield _gauge("last_sweep_duration_seconds", "Duration of the last sweep.", last.duration)
        files = GaugeMetricFamily(
            f"{PREFIX}last_sweep_files",
            "Files checked by the last sweep, by result.",
            labels=["result"],
        )
        for result, count in _results(last.tally):
            files.add_metric([result], count)
        yield files
        outcome = last.tally if isinstance(last.tally, Outcome) else Outcome()
        yield from self._staged(outcome.kinds, last.ended)
        yield _gauge(
            "files_held_back",
            "Files without a database row that the last sweep kept because no image of this Glance "
            "was found in the database yet.",
            outcome.unwitnessed,
        )

    @staticmethod
    def _staged(kinds: Kinds, now: float) -> Iterator[Metric]:
        """Yield what the last sweep left; each kind is there, so that no series begins late."""
        labels = ["kind", "image_status"]
        files = GaugeMetricFamily(
            f"{PREFIX}staged_files", "Files that the last sweep left, by kind.", labels=labels
        )
        size = GaugeMetricFamily(f"{PREFIX}staged_bytes", "Their bytes on disk.", labels=labels)
        age = GaugeMetricFamily(
            f"{PREFIX}staged_oldest_age_seconds",
            "Time from the last change of the one that has not changed for longest to the end of "
            "the sweep; 0 without a file.",
            labels=labels,
        )
        for kind in ALL:
            share = kinds.get(kind, NOTHING)
            files.add_metric(kind, share.files)
            size.add_metric(kind, share.size)
            age.add_metric(kind, share.age(now))
        yield from (files, size, age)

    def _notifications(self) -> Iterator[Metric]:
        yield _counter(
            "notifications",
            "Received image.delete notifications that name an image.",
            self._stats.notifications,
        )
        lag = self._stats.lag
        within = itertools.accumulate(list(lag.counts))
        bounds = [*map(str, LAG_BUCKETS), "+Inf"]
        yield HistogramMetricFamily(
            f"{PREFIX}notification_lag_seconds",
            "Time from sending a notification, by the sender's clock, to receiving it.",
            buckets=list(zip(bounds, within, strict=True)),
            sum_value=lag.total,
        )


def new_registry(metrics: Metrics) -> CollectorRegistry:
    """Return a registry of these metrics and those of the process, and nothing else."""
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
