# SPDX-License-Identifier: Apache-2.0
"""Notify systemd, sd_notify(3), of start, reload, status, watchdog and stop.

oslo.service knows READY=1 only. Without NOTIFY_SOCKET nothing is sent."""

import os
import socket
import time
from collections.abc import Mapping

from oslo_log import log

from watcher.stats import Stats

LOG = log.getLogger(__name__)

STATUS_CAUSE = 200  # characters of one cause in the status


class Manager:
    """The service manager that started this process; one that doesn't listen delays nothing."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        #: whether a service manager started this process
        self.is_there = bool(address)
        #: seconds without a ping after which the process is killed; None: never
        self.watchdog = _watchdog(environ) if address else None
        self._pinged: float | None = None
        self._status = ""
        self._is_ready = False

    def ready(self) -> None:
        """Report the end of the start or of a reload, until systemd has received it."""
        if not self._is_ready:
            self._is_ready = self._send("READY=1")

    def status(self, text: str) -> None:
        """Report what the service does, in one line, if it differs from the last report."""
        text = " ".join(text.split())
        if text != self._status and self._send(f"STATUS={text}"):
            self._status = text

    def ping(self) -> None:
        """Report that the service is alive, a few times in each watchdog interval."""
        now = time.monotonic()
        if self.watchdog is None or (
            self._pinged is not None and now - self._pinged < self.watchdog / 4
        ):
            return
        if self._send("WATCHDOG=1"):
            self._pinged = now

    def reloading(self) -> None:
        """Report the begin of a reload, unless still starting; `reloaded` must follow."""
        if self._is_ready:
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """Report the end of a reload; if systemd doesn't receive it, `ready` repeats it."""
        if self._is_ready:
            self._is_ready = self._send("READY=1")

    def stopping(self) -> None:
        """Report the begin of the stop."""
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
            LOG.debug("Cannot notify systemd of %s: %s", assignments, error)
            return False
        return True


def _watchdog(environ: Mapping[str, str]) -> float | None:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(environ.get("WATCHDOG_USEC", "")) / 1e6 or None
    except ValueError:
        return None


def status_text(stats: Stats, conditions: Mapping[str, str | None]) -> str:
    """Describe the last sweep and every failing component in one line of bounded length.

    :param conditions: every component, with the cause of its failure; None: healthy
    """
    last = stats.last_sweep
    if last is None:
        words = ["No sweep yet"]
    else:
        words = [
            f"Last sweep: {last.tally.cleaned} cleaned, {last.tally.ignored} ignored, "
            f"{last.tally.error} errors in {last.duration:.1f} s"
        ]
    failing = [
        f"{component.replace('_', ' ')}: {shortened(cause, STATUS_CAUSE)}"
        for component, cause in conditions.items()
        if cause is not None
    ]
    words.append(f"failing: {'; '.join(failing)}" if failing else "healthy")
    if "notifications" not in conditions:
        words.append("notifications disabled")
    return "; ".join(words)


def shortened(text: str, length: int) -> str:
    """Cut a text to a length in characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
