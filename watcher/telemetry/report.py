# SPDX-License-Identifier: Apache-2.0
"""Write the Guru Meditation Report: the current state of the process.

oslo.reports makes it, from its own sections and one of ours. Not by its class
TextGuruMeditation, which prints oslo.config's global configuration.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from oslo_config import cfg
from oslo_log import log
from oslo_reports import opts
from oslo_reports.generators.conf import ConfigReportGenerator
from oslo_reports.generators.process import ProcessReportGenerator
from oslo_reports.generators.threading import ThreadReportGenerator
from oslo_reports.generators.version import PackageReportGenerator
from oslo_reports.models.with_default_views import ModelWithDefaultViews
from oslo_reports.report import TextReport
from oslo_reports.views.text.generic import KeyValueView

from watcher.conf import DISTRIBUTION
from watcher.stats import Stats, Tally
from watcher.telemetry import MODE
from watcher.telemetry.systemd import shortened
from watcher.workqueue import WorkQueue

LOG = log.getLogger(__name__)

MAX_REPORT = 262_144  # characters
MAX_CAUSE = 1000  # characters of one cause

Model = Callable[[], Any]


class _Package:
    """Has what oslo.reports expects of a version object."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self.product_string = lambda: DISTRIBUTION
        self.version_string_with_package = lambda: conf.version


def write(conf: cfg.ConfigOpts, watcher: Mapping[str, Any]) -> None:
    """Write a report to stderr, or to a file in ``[oslo_reports] log_dir``.

    :param watcher: our own section, nested names and values
    """
    opts.set_defaults(conf)
    text = make(conf, watcher)
    directory = conf.oslo_reports.log_dir
    if not directory:
        with contextlib.suppress(OSError):  # a pipe without a reader
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        return
    moment = time.strftime("%Y%m%d%H%M%S", time.gmtime())
    path = os.path.join(directory, f"{DISTRIBUTION}_gurumeditation_{moment}")
    cause = None
    try:
        with open(
            path, "w", encoding="utf-8", errors="backslashreplace", opener=_open_no_link
        ) as file:
            file.write(text + "\n")
    except OSError as error:
        cause = error.strerror
    if cause is None:
        LOG.info("Guru Meditation Report written to %s", path)
    else:
        LOG.error("Cannot write the Guru Meditation Report to %s: %s", path, cause)


def make(conf: cfg.ConfigOpts, watcher: Mapping[str, Any]) -> str:
    """Return the report, at most `MAX_REPORT` characters; secret options are masked."""
    report = TextReport("Guru Meditation")
    sections: dict[str, Model] = {
        "Package": PackageReportGenerator(_Package(conf)),
        "Watcher": lambda: ModelWithDefaultViews(watcher, text_view=KeyValueView(dict_sep=":")),
        "Threads": ThreadReportGenerator(),
        "Processes": ProcessReportGenerator(),
        "Configuration": ConfigReportGenerator(conf),
    }
    for title, model in sections.items():
        report.add_section(title, _or_reason(model))
    text: str = report.run()
    if len(text) <= MAX_REPORT:
        return text
    note = f"\n... cut, {len(text)} characters in all"
    return text[: MAX_REPORT - len(note)] + note


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, MODE)


def _or_reason(model: Model) -> Model:
    """Return the model, or the reason for its failure: it must not prevent the other sections."""

    def generate() -> Any:
        try:
            return model()
        except Exception as error:  # noqa: BLE001 - of psutil, or an invalid value of an option
            return f"not available: {type(error).__name__}"

    return generate


def watcher_section(
    stats: Stats, queue: WorkQueue, conditions: Mapping[str, str | None]
) -> dict[str, Any]:
    """Return our own section: queue, components, counts.

    :param conditions: every component, with the cause of its failure; None: healthy
    """
    last = stats.last_sweep
    return {
        "queue": {"due": queue.due, "delayed": queue.delayed},
        "conditions": {
            component: "healthy" if cause is None else shortened(cause, MAX_CAUSE)
            for component, cause in conditions.items()
        },
        "last sweep": "none"
        if last is None
        else {
            "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(last.ended)),
            "seconds": f"{last.duration:.3f}",
            "files": _counts(last.tally),
        },
        "since start": {
            "sweeps": stats.sweeps,
            "notifications": stats.notifications,
            "rechecks": stats.rechecks,
            "files": {trigger.value: _counts(tally) for trigger, tally in stats.tallies.items()},
        },
    }


def _counts(tally: Tally) -> str:
    return (
        f"{tally.cleaned} cleaned ({tally.size} bytes), {tally.ignored} ignored, "
        f"{tally.error} errors"
    )
