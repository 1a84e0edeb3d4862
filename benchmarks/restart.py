# SPDX-License-Identifier: Apache-2.0
"""What happens to all hosts at once: how many come back at the same moment, with and without
jitter in their waits."""

import re
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

from benchmarks import bus
from benchmarks.crowd import Crowd, InStep
from benchmarks.figures import OURS, Comparison
from benchmarks.rows import fill
from benchmarks.site import Cached, Site, new_ids
from tests.functional.program import Program
from tests.services import RabbitMQ, wait_for

SUBJECTS = {OURS: Program, "without jitter": InStep}
OUTAGE = 10.0  # seconds from the broker's end to its new start
RECHECKS = 4  # of each host: after 0.5, 1, 2 and 4 seconds
WINDOW = 0.1  # seconds
TIMEOUT = 180.0  # seconds

_SERVES = re.compile(r"(\d{4}-\S+ \S+) \[info\] \S+ started TCP listener")
_CONNECTED = re.compile(r"(\d{4}-\S+ \S+) \[info\] .* user 'glance' authenticated")


class Reads:
    """When the watchers ask the database, by its own log of statements."""

    def __init__(self, site: Site) -> None:
        self._server = site.server(Cached)
        self._server.execute("SET GLOBAL log_output = 'TABLE', GLOBAL general_log = 1")

    def since(self, start: float) -> list[tuple[int, float]]:
        """Session and moment, in seconds since the epoch, of each question of later."""
        statement = (
            "SELECT thread_id, event_time FROM mysql.general_log "
            "WHERE command_type = 'Query' AND argument LIKE 'SELECT images.%%' ORDER BY event_time"
        )
        rows = [(session, _seconds(moment)) for session, moment in self._server.execute(statement)]
        return [row for row in rows if row[1] >= start]

    def close(self) -> None:
        """Log no more."""
        self._server.execute("SET GLOBAL general_log = 0")


def measure(site: Site) -> Iterator[Comparison]:
    """The broker is killed and started again; all hear of a deletion whose row lags."""
    count = 6 if site.quick else 100
    titles = {
        "connections": "the broker serves again → each host connects",
        "sweeps": "the broker serves again → each host asks the database",
        "rechecks": "a deletion with a lagging row → each host asks again",
    }
    moments = {name: Comparison(f"restart-{name}", title, "s") for name, title in titles.items()}
    peaks = {
        name: Comparison(f"restart-peak-{name}", f"{title}: the most of {count} hosts", "in 100 ms")
        for name, title in titles.items()
    }
    reads = Reads(site)
    for subject, program in SUBJECTS.items():
        for name, found in _one(site, count, program, reads).items():
            peaks[name].add(subject, peak(found))
            for moment in found:
                moments[name].add(subject, moment)
    reads.close()
    yield from (*moments.values(), *peaks.values())


def peak(moments: Sequence[float]) -> int:
    """How many of them come within 100 ms, at most."""
    ordered, first, most = sorted(moments), 0, 0
    for last, moment in enumerate(ordered):
        while moment - ordered[first] > WINDOW:
            first += 1
        most = max(most, last - first + 1)
    return most


def _one(site: Site, count: int, program: type[Program], reads: Reads) -> dict[str, list[float]]:
    database = site.database("mariadb")
    fill(database, 1000)
    live, reported = new_ids(2)
    images = site.images(database)
    images.insert(live, reported, status="importing")
    broker = RabbitMQ(site.new_directory("broker"))
    site.at_close(broker.stop)
    broker.start()
    crowd = Crowd(site, count, database, broker.url(), [live, reported], program)

    log = broker.directory / "log"
    before = log.stat().st_size
    broker.kill()
    time.sleep(OUTAGE)
    killed = time.time()
    broker.start()
    for watcher in crowd.programs:
        watcher.wait_for_line("Notification listener connected again", TIMEOUT)
    wait_for(lambda: len(reads.since(killed)) >= count, TIMEOUT, "a sweep of each")
    text = log.read_text()[before:]
    serves = _seconds(_SERVES.findall(text)[0])
    connected = [_seconds(moment) - serves for moment in _CONNECTED.findall(text)]
    swept = [moment - serves for _, moment in reads.since(killed)]

    start = time.time()
    bus.publish(broker, broker.url(), [reported])
    wait_for(lambda: len(reads.since(start)) >= count * (1 + RECHECKS), TIMEOUT, "rechecks of each")
    images.delete(reported)
    again, seen = [], set()
    for session, moment in reads.since(start):
        if session in seen:
            again.append(moment - start)
        seen.add(session)
    crowd.close()
    broker.stop()
    return {"connections": connected, "sweeps": swept, "rechecks": again}


def _seconds(moment: str | datetime) -> float:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
