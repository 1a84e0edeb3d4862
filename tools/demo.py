# SPDX-License-Identifier: Apache-2.0
"""The main job in half a minute, with nothing installed but this package.

The real service runs on SQLite, a temporary staging directory and oslo.messaging's in-process
bus, beside a small scripted Glance. The program fails if anything stayed that should have gone,
or the reverse.
"""

import os
import sqlite3
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from oslo_config import cfg
from watchdog.events import FileDeletedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from watcher import conf, logs
from watcher.service import Service
from watcher.triggers.transport import messaging

SWEEP_INTERVAL = 6  # seconds
ABSENT_GRACE = 2  # seconds
TIMEOUT = 10.0  # seconds for each thing that should go

CONFIGURATION = """\
[DEFAULT]
node_staging_uri = file://{staging}/
transport_url = fake://
log_file = {log}
debug = true
logging_debug_format_suffix =
[database]
connection = sqlite:///{database}
[oslo_messaging_notifications]
driver = messagingv2
[staging_watcher]
sweep_interval = {interval}
absent_grace = {grace}
"""


class ScriptedGlance:
    """Does to the database, the staging directory and the bus what Glance does."""

    def __init__(self, configuration: cfg.ConfigOpts, database: Path, staging: Path) -> None:
        self.staging = staging
        self._database = sqlite3.connect(database, isolation_level=None)
        self._database.execute(
            "CREATE TABLE images (id VARCHAR(36) PRIMARY KEY, status VARCHAR(30) NOT NULL,"
            " deleted BOOLEAN NOT NULL)"
        )
        self._notifier = messaging.Notifier(
            messaging.get_notification_transport(configuration),
            publisher_id="image.demo",
            driver="messagingv2",
            topics=["notifications"],
        )

    def create(self) -> str:
        """Create an image; its id."""
        image = str(uuid.uuid4())
        self._database.execute("INSERT INTO images VALUES (?, 'queued', 0)", (image,))
        return image

    def stage(self, name: str, size: int = 1 << 20) -> str:
        """Write a file into the staging directory; its name."""
        (self.staging / name).write_bytes(bytes(size))
        return name

    def delete(self, image: str, *, notify: bool = True) -> float:
        """Delete an image, but not its staged files; the moment of the notification."""
        self._database.execute(
            "UPDATE images SET status = 'deleted', deleted = 1 WHERE id = ?", (image,)
        )
        moment = time.monotonic()
        if notify:
            self._notifier.info({}, "image.delete", {"id": image, "status": "deleted"})
        return moment

    def stage_residue(self) -> str:
        """Write a file of a deleted image; its name."""
        image = self.create()
        self.delete(image, notify=False)
        return self.stage(image, 0)


class Removals(FileSystemEventHandler):
    """Records the moment at which each name left the directory."""

    def __init__(self, directory: Path) -> None:
        self._gone: dict[str, float] = {}
        self._changed = threading.Condition()
        self._observer = Observer()
        self._observer.schedule(self, str(directory), event_filter=[FileDeletedEvent])
        self._observer.start()

    def on_deleted(self, event: FileSystemEvent) -> None:
        """Called by watchdog for each removal."""
        with self._changed:
            self._gone[os.path.basename(os.fsdecode(event.src_path))] = time.monotonic()
            self._changed.notify_all()

    def wait(self, name: str) -> float | None:
        """Wait until a name is gone; the moment, or None when it stays."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._gone, TIMEOUT)
            return self._gone.get(name)

    def stop(self) -> None:
        """End the watch."""
        self._observer.stop()
        self._observer.join()


class Report:
    """What happened, for people; and whether it was right."""

    def __init__(self, removals: Removals, staging: Path) -> None:
        self._removals, self._staging = removals, staging
        self.right = True

    def heading(self, text: str) -> None:
        """Say what comes."""
        print(f"\n{text}", flush=True)

    def went(self, name: str, since: float, what: str) -> None:
        """Say that a file went, and when; wait for it."""
        moment = self._removals.wait(name)
        if moment is None:
            self.right = False
            print(f"  KEPT     {name}  {what}", flush=True)
        else:
            print(f"  removed after {(moment - since) * 1000:7.1f} ms  {name}  {what}", flush=True)

    def settle(self, marker: str) -> None:
        """Wait until the file events up to that residue are dealt with."""
        self.right = self._removals.wait(marker) is not None and self.right

    def stayed(self, name: str, why: str) -> None:
        """Say that a file is still there, and why."""
        there = (self._staging / name).exists()
        self.right = self.right and there
        print(f"  {'kept' if there else 'REMOVED'}  {name}  {why}", flush=True)


def play(glance: ScriptedGlance, service: Service, report: Report) -> None:
    """The script."""
    report.heading("1. Left from before the start: the first sweep removes it")
    live, stale, converting = glance.create(), glance.create(), glance.create()
    kept = [
        (glance.stage(live), "its image is live"),
        (glance.stage("notanimageid"), "not an image's file"),
        (glance.stage(f"running-task-{uuid.uuid4()}"), "not an image's file"),
    ]
    residue = [
        (glance.stage(stale), "image deleted while staged"),
        (glance.stage(converting), "killed in conversion"),
        (glance.stage(f"{converting}.qcow2"), "killed in conversion"),
    ]
    for image in (stale, converting):
        glance.delete(image, notify=False)
    start = time.monotonic()
    service.start()
    for name, what in residue:
        report.went(name, start, f"{what} (since start)")

    report.heading("2. An image is deleted: the notification removes all of its files")
    print("  (this in-process bus is polled 20 times a second; a broker delivers at once)")
    image = glance.create()
    names = [glance.stage(image + suffix) for suffix in ("", ".uc", ".raw")]
    report.settle(glance.stage_residue())
    deleted = glance.delete(image)
    for name in names:
        report.went(name, deleted, "after the notification")

    report.heading("3. Written after the deletion: the file event removes it")
    image = glance.create()
    glance.delete(image)
    moment = time.monotonic()
    report.went(glance.stage(image), moment, "created by a late import")
    outside = glance.staging.parent / "elsewhere"
    outside.write_bytes(b"data")
    moment = time.monotonic()
    os.rename(outside, glance.staging / f"{image}.raw")
    report.went(f"{image}.raw", moment, "renamed into the directory")

    report.heading("4. No row in the database: removed once it is older than absent_grace")
    moment = time.monotonic()
    report.went(glance.stage(str(uuid.uuid4())), moment, f"absent_grace = {ABSENT_GRACE} s")

    report.heading("5. No event arrives: the next sweep removes it")
    image = glance.create()
    name = glance.stage(image)
    kept.append((glance.stage(f"{live}.uc"), "its image is live"))
    report.settle(glance.stage_residue())
    moment = glance.delete(image, notify=False)
    report.went(name, moment, f"sweep_interval = {SWEEP_INTERVAL} s")

    report.heading("Kept, and why")
    for name, why in kept:
        report.stayed(name, why)


def main() -> int:
    """Run the demo; 0 when all that should have gone is gone, and nothing else."""
    begun = time.monotonic()
    print("Setting up a staging directory, a database and a scripted Glance", flush=True)
    with tempfile.TemporaryDirectory(prefix="glance-staging-watcher-") as directory:
        home = Path(directory)
        staging = home / "staging"
        staging.mkdir()
        log_file, database = home / "glance-staging-watcher.log", home / "glance.sqlite"
        configuration = home / "glance-api.conf"
        configuration.write_text(
            CONFIGURATION.format(
                staging=staging,
                database=database,
                log=log_file,
                interval=SWEEP_INTERVAL,
                grace=ABSENT_GRACE,
            )
        )
        loaded = conf.load(["--config-file", str(configuration)])
        logs.setup(loaded)
        service = Service(loaded)
        try:
            removals = Removals(staging)
        except OSError as error:
            print(
                f"The demo can't watch its directory: {error.strerror}; "
                "raise fs.inotify.max_user_instances or max_user_watches",
                file=sys.stderr,
            )
            return 2
        report = Report(removals, staging)
        play(ScriptedGlance(loaded, database, staging), service, report)
        service.stop()
        removals.stop()
        if report.right:
            print("\nThe log of the first sweep, at DEBUG, in the words of Glance's cleaner:")
            for line in _first_sweep(log_file.read_text().splitlines()):
                print(f"  {line}")
    result = "All as expected" if report.right else "NOT as expected"
    print(f"\n{result}, after {time.monotonic() - begun:.1f} s")
    return 0 if report.right else 1


def _first_sweep(lines: list[str]) -> list[str]:
    words = [line.partition("watcher.reconcile.cleaner ")[2].partition("] ")[2] for line in lines]
    words = [line for line in words if line]
    end = next(i for i, line in enumerate(words) if line.startswith("Cleaned"))
    return words[: end + 1]


if __name__ == "__main__":
    sys.exit(main())
