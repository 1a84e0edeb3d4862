# SPDX-License-Identifier: Apache-2.0
"""Draws the Grafana dashboard of etc/ from a real run: python -m benchmarks.dashboard [FILE].

Grafana itself is in none of the package registries that the tests use, so its panels are drawn
here: the same queries, asked of a Prometheus that scrapes a service at work.
"""

import itertools
import json
import os
import random
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.pictures import write
from benchmarks.site import ROOT
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.services import Images, RabbitMQ, wait_for
from tests.services.ports import free_port
from tests.services.prometheus import Prometheus, without_variables

SECONDS = 90
STEP = 5  # seconds from point to point
FAULT = range(45, 60)  # seconds in which the database has no table of images
MIB = 1 << 20
STATES = {0.0: "#c0392b", 1.0: "#0b6e4f"}
COLUMNS = 24  # of Grafana's grid
UNITS: dict[str, Callable[[float], str]] = {
    "bytes": lambda value: f"{value / MIB:.0f} MiB",
    "s": lambda value: f"{value:.3g} s",
    "percentunit": lambda value: f"{100 * value:.2g} %",
}


def main(path: Path) -> None:
    """Have a service work for a while, and draw what Prometheus knows of it then."""
    with tempfile.TemporaryDirectory(prefix="dashboard-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        places = [directory / each for each in ("broker", "host", "prometheus")]
        for place in places:
            place.mkdir()
        broker = RabbitMQ(places[0])
        port = free_port()
        prometheus = Prometheus(places[2], port)
        broker.start()
        try:
            host = _host(places[1], broker, port)
            host.start().wait_for_line("Listening for notifications")
            prometheus.start()
            wait_for(lambda: prometheus.query("up == 1"), 60, "the first scrape")
            began = time.time()
            _work(host, GlanceNotifier(broker.url()))
            _draw(prometheus, began, time.time(), path)
            host.close()
        finally:
            prometheus.stop()
            broker.stop()


def _host(directory: Path, broker: RabbitMQ, port: int) -> Host:
    url = f"sqlite:///{directory / 'glance.sqlite'}"
    images = Images(url)
    images.create_table()
    return Host(
        directory,
        images,
        database_url=url,
        transport_url=broker.url(),
        watcher=f"metrics_port = {port}\nsweep_interval = 10",
    )


def _work(host: Host, notifier: GlanceNotifier) -> None:
    """Some deletions a second, imports that go on, and a database that is away for a while."""
    chance = random.Random(1)  # the same picture each time
    host.stage("disk.img", b"\0" * MIB)
    for status in ("importing", "uploading", "active"):
        image = new_id()
        host.images.insert(image, status=status)
        host.stage(image, os.urandom(chance.randrange(1, 8) * MIB))
    database = sqlite3.connect(host.directory / "glance.sqlite")
    began = time.monotonic()
    for second in range(SECONDS):
        if second in (FAULT.start, FAULT.stop):
            there, then = ("images", "away") if second == FAULT.start else ("away", "images")
            database.execute(f"ALTER TABLE {there} RENAME TO {then}")
        if second not in FAULT:
            for _ in range(chance.randrange(4)):
                image = new_id()
                host.images.insert(image, deleted=True, status="deleted")
                host.stage(image, os.urandom(chance.randrange(1, 4) * MIB))
                notifier.deleted(image)
        time.sleep(max(0.0, began + second + 1 - time.monotonic()))


def _draw(prometheus: Prometheus, start: float, end: float, path: Path) -> None:
    panels = json.loads((ROOT / "etc/grafana-dashboard.json").read_text())["panels"]
    places = [panel["gridPos"] for panel in panels]
    rows = max(place["y"] + place["h"] for place in places)
    figure = pyplot.figure(figsize=(12, rows / 3.4))
    figure.subplots_adjust(left=0.15, right=0.99, top=0.98, bottom=0.03)
    grid = figure.add_gridspec(rows, COLUMNS, hspace=4.0, wspace=6.0)
    draw = {"stat": _stat, "state-timeline": _states, "timeseries": _lines}
    for panel, place in zip(panels, places, strict=True):
        part = grid[
            place["y"] : place["y"] + place["h"] - 1, place["x"] : place["x"] + place["w"] - 1
        ]
        axis = figure.add_subplot(part)
        axis.set_title(panel["title"], loc="left", fontsize=9)
        unit = UNITS.get(panel["fieldConfig"]["defaults"]["unit"], lambda value: f"{value:.3g}")
        found = []
        for target in panel["targets"]:
            query = without_variables(target["expr"], __rate_interval="10s", __range=f"{SECONDS}s")
            for series in prometheus.query_range(query, start, end, STEP):
                points = [(float(moment) - start, float(text)) for moment, text in series["values"]]
                if panel["type"] != "timeseries" or any(value for _, value in points):
                    found.append((_label(target["legendFormat"], series["metric"]), points))
        draw[panel["type"]](axis, found, unit)
    write(figure, path)


Series = list[tuple[str, list[tuple[float, float]]]]


def _label(text: str, labels: dict[str, Any]) -> str:
    named = labels | {"instance": "glance-1"}
    return re.sub(r"{{(\w+)}}", lambda found: str(named.get(found[1], "")), text).strip()


def _stat(axis: Axes, found: Series, unit: Callable[[float], str]) -> None:
    axis.axis("off")
    last = found[0][1][-1][1] if found else 0.0
    axis.text(0.0, 0.3, unit(last), fontsize=20, color="#0b6e4f", transform=axis.transAxes)


def _states(axis: Axes, found: Series, unit: Callable[[float], str]) -> None:
    for row, (_, points) in enumerate(reversed(found)):
        for value, several in itertools.groupby(points, lambda point: point[1]):
            moments = [moment for moment, _ in several]
            whole = (moments[0], moments[-1] + STEP - moments[0])
            axis.broken_barh([whole], (row - 0.4, 0.8), color=STATES[value], linewidth=0)
    axis.set_yticks(range(len(found)), [label for label, _ in reversed(found)], fontsize=7)
    axis.grid(visible=False)


def _lines(axis: Axes, found: Series, unit: Callable[[float], str]) -> None:
    for label, points in found:
        axis.plot(*zip(*points, strict=True), linewidth=1.2, label=label)
    axis.yaxis.set_major_formatter(lambda value, _: unit(value))
    axis.tick_params(labelsize=7)
    axis.locator_params(axis="y", nbins=4)
    axis.grid(visible=False)
    axis.set_ylim(0, 1.4 * (axis.get_ylim()[1] or 1.0))  # with room for the legend
    if found:
        axis.legend(frameon=False, fontsize=6, loc="upper left", ncol=3)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/dashboard.svg")
