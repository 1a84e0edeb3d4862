# SPDX-License-Identifier: Apache-2.0
"""What a service of ``Type=notify`` tells systemd: sd_notify(3), of which oslo.service knows the
first word only. Started by anything else nothing is told."""

import os
import socket
import time
from collections.abc import Mapping

from oslo_log import log

from watcher.stats import Stats

LOG = log.getLogger(__name__)


class Manager:
    """The service manager that started this process; if it doesn't listen, nobody waits for it."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        #: whether there is one
        self.is_there = bool(address)
        #: seconds without a ping after which the process is killed; None: never
        self.watchdog = _watchdog(environ) if address else None
        self._pinged: float | None = None
        self._status = ""
        self._is_ready = False

    def ready(self) -> None:
        """The start, or a reload, is over; told until it was heard, then no more."""
        if not self._is_ready:
            self._is_ready = self._send("READY=1")

    def status(self, text: str) -> None:
        """What the service is about, in one line; told when it differs from the last one."""
        text = " ".join(text.split())
        if text != self._status and self._send(f"STATUS={text}"):
            self._status = text

    def ping(self) -> None:
        """The service is alive; told a few times in each interval of the watchdog."""
        now = time.monotonic()
        if self.watchdog is None or (
            self._pinged is not None and now - self._pinged < self.watchdog / 4
        ):
            return
        if self._send("WATCHDOG=1"):
            self._pinged = now

    def reloading(self) -> None:
        """A reload begins; `reloaded` must follow. Before the start is over nothing is told."""
        if self._is_ready:
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """The reload is over; if that isn't heard, `ready` tells it again."""
        if self._is_ready:
            self._is_ready = self._send("READY=1")

    def stopping(self) -> None:
        """The end begins."""
        self._send("STOPPING=1")

    def _send(self, assignments: str) -> bool:
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(0.0)
                sender.connect(self._address)
                sender.sendall(assignments.encode(errors="backslashreplace"))
        except OSError as error:
            LOG.debug("systemd can't be told %s: %s", assignments, error)
            return False
        return True


def _watchdog(environ: Mapping[str, str]) -> float | None:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(environ.get("WATCHDOG_USEC", "")) / 1e6 or None
    except ValueError:
        return None


_IN_ORDER = {"notifications": "notifications connected", "database": "database answers"}


def status_text(stats: Stats, conditions: Mapping[str, str | None]) -> str:
    """Last sweep's counts, and the state of the parts, in one line.

    :param conditions: causes of faults by part; None: in order
    """
    last = stats.last_sweep
    if last is None:
        words = ["No sweep yet"]
    else:
        words = [
            f"Last sweep: {last.tally.cleaned} cleaned, {last.tally.ignored} ignored, "
            f"{last.tally.error} errors in {last.duration:.1f} s"
        ]
    if "notifications" not in conditions:
        words.append("notifications off")
    for part, cause in sorted(conditions.items(), reverse=True):
        name = part.replace("_", " ")
        if cause is not None:
            words.append(f"{name}: {cause}")
        elif part in _IN_ORDER and last is not None:
            words.append(_IN_ORDER[part])
    return "; ".join(words)
