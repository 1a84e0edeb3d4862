# SPDX-License-Identifier: Apache-2.0
import re
import time
from collections.abc import Iterator, Mapping

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families as parse

from watcher.reconcile.cleaner import Outcome
from watcher.reconcile.kinds import Kind, Share
from watcher.stats import LAG_BUCKETS, Stats, Tally, Trigger
from watcher.telemetry.metrics import PREFIX, Metrics, new_registry
from watcher.workqueue import Image, Sweep, WorkQueue

# Prometheus, "Metric and label naming"
BASE_UNITS = {"seconds", "bytes"}
OTHER_UNITS = {"milliseconds", "ms", "minutes", "hours", "kilobytes", "kb", "mb", "gb", "percent"}


CONDITIONS = {"database": "host s can't be reached", "directory": None}


def families(
    stats: Stats,
    queue: WorkQueue | None = None,
    conditions: Mapping[str, str | None] = CONDITIONS,
) -> list[Metric]:
    metrics = Metrics(
        stats,
        queue or WorkQueue(),
        conditions=lambda: conditions,
        sweep_interval=lambda: 600,
    )
    return list(parse(generate_latest(new_registry(metrics)).decode()))


def value(found: list[Metric], name: str, **labels: str) -> float | None:
    values = [
        sample.value
        for family in found
        for sample in family.samples
        if sample.name == PREFIX + name and sample.labels == labels
    ]
    assert len(values) <= 1
    return values[0] if values else None


@pytest.fixture
def stats() -> Stats:
    """With a different number everywhere."""
    made = Stats()
    for number, tally in enumerate(made.tallies.values()):
        counts = Tally(10 * number + 1, 10 * number + 2, 10 * number + 3, 10 * number + 4)
        tally.add(counts, less=Tally())
    made.swept(0.25, Tally(5, 6, 7, 8))
    made.notifications, made.rechecks = 71, 72
    for lag in (-1.0, 0.0004, 0.001, 0.03, 4000.0):
        made.lag.add(lag)
    return made


def test_each_number_has_its_place(stats: Stats) -> None:
    queue = WorkQueue()
    queue.put(Sweep(), delay=60)
    queue.put(Image("y"), delay=60)
    queue.put(Image("x"))
    found = families(stats, queue)
    for number, trigger in enumerate(Trigger):
        for place, result in enumerate(("cleaned", "ignored", "error"), start=1):
            labels = {"trigger": trigger.value, "result": result}
            assert value(found, "files_total", **labels) == 10 * number + place
        assert value(found, "freed_bytes_total", trigger=trigger.value) == 10 * number + 4
    last = stats.last_sweep
    assert last is not None
    for name, expected in {
        "sweeps_total": 1,
        "sweep_interval_seconds": 600,
        "last_sweep_timestamp_seconds": last.ended,
        "last_sweep_duration_seconds": 0.25,
        "notifications_total": 71,
        "rechecks_total": 72,
    }.items():
        assert value(found, name) == expected, name
    assert value(found, "queue_depth", state="due") == 1
    assert value(found, "queue_depth", state="delayed") == 2
    for result, count in {"cleaned": 5, "ignored": 6, "error": 7}.items():
        assert value(found, "last_sweep_files", result=result) == count
    assert value(found, "healthy", component="database") == 0
    assert value(found, "healthy", component="directory") == 1


@pytest.mark.parametrize(
    ("conditions", "reached"),
    [
        ({}, 0),
        ({"absent_removals_limit": None}, 0),
        ({"absent_removals_limit": "1000 files removed in 24 hours"}, 1),
    ],
)
def test_the_limit_is_a_gauge(conditions: dict[str, str | None], reached: int) -> None:
    """It stays up as long as the limit is used up, however often it is met."""
    for _ in range(2):
        assert (
            value(families(Stats(), None, conditions), "absent_removals_limit_reached") == reached
        )


def test_files_held_back() -> None:
    stats = Stats()
    assert value(families(stats), "files_held_back") is None, "before the first sweep"
    stats.swept(0.25, Tally())
    assert value(families(stats), "files_held_back") == 0
    stats.swept(0.25, Outcome(ignored=7, unwitnessed=5))
    assert value(families(stats), "files_held_back") == 5


def test_what_a_sweep_left() -> None:
    stats = Stats()
    assert value(families(stats), "staged_files", kind="foreign", image_status="") is None
    share, outcome = Share(), Outcome(ignored=2)
    share.files, share.size, share.oldest = 2, 8192, time.time() - 3600
    outcome.kinds[Kind("live", "uploading")] = share
    stats.swept(0.25, outcome)
    found = families(stats)
    live, foreign = {"kind": "live", "image_status": "uploading"}, {"kind": "foreign"}
    assert value(found, "staged_files", **live) == 2
    assert value(found, "staged_bytes", **live) == 8192
    assert 3600 <= (value(found, "staged_oldest_age_seconds", **live) or 0) < 3700
    for name in ("staged_files", "staged_bytes", "staged_oldest_age_seconds"):
        assert value(found, name, **foreign, image_status="") == 0


def test_the_lag_is_a_histogram(stats: Stats) -> None:
    found = families(stats)
    bucket = "notification_lag_seconds_bucket"
    within = {bound: value(found, bucket, le=str(bound)) for bound in LAG_BUCKETS}
    assert within[0.001] == 3, "a bound belongs to its bucket, a clock that is ahead to the first"
    assert within[0.025] == 3 and within[0.05] == 4 and within[300.0] == 4
    assert value(found, bucket, le="+Inf") == 5
    assert value(found, "notification_lag_seconds_count") == 5
    assert value(found, "notification_lag_seconds_sum") == pytest.approx(4000.0314)


def test_before_anything_has_happened() -> None:
    """Counters start at 0, or increase() would miss their first step; no sweep is invented."""
    found = families(Stats())
    assert value(found, "files_total", trigger="sweep", result="error") == 0
    assert value(found, "sweeps_total") == 0
    assert value(found, "notification_lag_seconds_count") == 0
    assert value(found, "last_sweep_timestamp_seconds") is None


def ours(found: list[Metric]) -> Iterator[Metric]:
    return (family for family in found if not family.name.startswith("process_"))


def test_names_follow_the_conventions(stats: Stats) -> None:
    found = families(stats)
    assert {"process_cpu_seconds", "process_resident_memory_bytes"} <= {f.name for f in found}
    for family in ours(found):
        assert re.fullmatch(PREFIX + "[a-z]+(_[a-z]+)*", family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        words = family.name.split("_")
        assert not OTHER_UNITS & set(words), family.name
        assert not BASE_UNITS & set(words[:-1]), f"{family.name}: the unit comes last"
        for sample in family.samples:
            is_counter = family.type == "counter"
            assert sample.name.endswith("_total") == is_counter, sample.name
            assert not sample.name.endswith("_created"), sample.name
            assert not {"job", "instance"} & sample.labels.keys(), sample.name
