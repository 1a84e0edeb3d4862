# SPDX-License-Identifier: Apache-2.0
"""Notification → file gone, on RabbitMQ and MariaDB: one at a time, in bursts, and a backlog."""

import functools
import time

from benchmarks.bus import Listening
from benchmarks.figures import OURS, Comparison, percentile
from benchmarks.proc import settle
from benchmarks.rows import fill, some
from benchmarks.site import Cached, Site, in_turn, new_ids

CROWDED = "watcher, {:,} live files beside"
OSLO, SELECT, KOMBU = "oslo.messaging, unlink only", "oslo.messaging, SELECT, unlink", "kombu"
PAUSE = 0.015  # seconds; each subject is idle when its notification comes


def latency(site: Site) -> list[Comparison]:
    """One notification at a time, to each subject in turn."""
    crowd, count = (10_000, 60) if site.quick else (100_000, 400)
    database = site.database("mariadb")
    fill(database, 2 * crowd)
    crowded = CROWDED.format(crowd)
    subjects = {
        OURS: Listening(site, "watcher", database),
        crowded: Listening(site, "watcher", database, some(database, crowd, deleted=False)),
        OSLO: Listening(site, "oslo", database),
        SELECT: Listening(site, "select", database),
        KOMBU: Listening(site, "kombu", database),
    }
    comparison = Comparison("notification", "notification → file gone", "ms")
    for listening in subjects.values():
        settle(listening.pid)

    def run(subject: str) -> None:
        milliseconds = _one(subjects[subject])
        if warm:
            comparison.add(subject, milliseconds)

    for warm in (False, True):
        in_turn(count if warm else 10, *(functools.partial(run, subject) for subject in subjects))
    comparison.at_most(1.15, SELECT)
    p99 = percentile(comparison.series[OURS], 99)
    comparison.bound("p99 in ms", 5.0, value=p99)
    comparison.at_most(1.1, OURS, "times that of an empty directory", ours=crowded)
    for listening in subjects.values():
        listening.close()
    return [comparison]


def _one(listening: Listening) -> float:
    (image,) = new_ids(1)
    listening.images.insert(image, status="importing")
    listening.write(image)
    time.sleep(PAUSE)
    listening.images.delete(image)
    started = time.perf_counter()
    listening.notifier.deleted(image)
    return (listening.removals.wait(image) - started) * 1e3


def drain(site: Site) -> list[Comparison]:
    """Notifications that wait, and bursts of them, with a file of each image."""
    count, rounds = (2_000, 2) if site.quick else (20_000, 3)
    database = site.database("mariadb")
    fill(database, 10_000)
    subjects = {
        OURS: Listening(site, "watcher", database),
        OSLO: Listening(site, "oslo", database),
    }
    rate = Comparison("drain", f"{count:,} waiting notifications, with removal", "files/s")
    queries = Comparison("drain-queries", f"SELECTs in that drain of {count:,}", "queries")
    burst = Comparison("burst", "burst of 1,000 deletions, until the last file is gone", "ms")

    def run_drain(subject: str) -> None:
        listening = subjects[subject]
        ids = _stage(listening, count)
        listening.halt()
        listening.images.delete(*ids)
        listening.publish(ids)
        before = _selects(site)
        started = time.perf_counter()
        listening.go_on()
        rate.add(subject, count / (listening.removals.wait_for_all(count) - started))
        queries.add(subject, _selects(site) - before)

    def run_burst(subject: str) -> None:
        listening = subjects[subject]
        ids = _stage(listening, 1000)
        listening.images.delete(*ids)
        started = time.perf_counter()
        listening.publish(ids)
        burst.add(subject, (listening.removals.wait_for_all(1000) - started) * 1e3)

    in_turn(rounds, *(functools.partial(run_drain, subject) for subject in subjects))
    in_turn(rounds + 2, *(functools.partial(run_burst, subject) for subject in subjects))
    if not site.quick:
        rate.bound("files a second", 2000, at_most=False)
        queries.bound("queries, so they coalesce", count / 10)
    for listening in subjects.values():
        listening.close()
    return [rate, queries, burst]


def _stage(listening: Listening, count: int) -> list[str]:
    ids = new_ids(count)
    listening.images.insert(*ids, status="importing")
    for image in ids:
        listening.write(image)
    settle(listening.pid)
    return ids


def _selects(site: Site) -> int:
    (row,) = site.server(Cached).execute("SHOW GLOBAL STATUS LIKE 'Com_select'")
    return int(row[1])
