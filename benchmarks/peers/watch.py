# SPDX-License-Identifier: Apache-2.0
"""Watchers of a directory that remove at once what comes, or do nothing: watch.py KIND DIRECTORY.

``inotify``: the kernel's, bare. ``watchfiles``: that library as it comes. ``watchdog``: the
library below the watcher as it comes, with a handler that does nothing.
"""

import os
import sys
import threading
from contextlib import suppress


def by_inotify(directory: str) -> None:
    """Remove at once."""
    from benchmarks.inotify import CLOSE_WRITE, CREATE, MOVED_TO, Inotify

    inotify = Inotify(directory, CREATE | CLOSE_WRITE | MOVED_TO)
    held = os.open(directory, os.O_RDONLY)
    print("ready", flush=True)
    while True:
        for name in inotify.read():
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=held)


def by_watchfiles(directory: str) -> None:
    """Remove when it reports a file."""
    import watchfiles

    print("ready", flush=True)
    for changes in watchfiles.watch(directory):
        for _, path in changes:
            with suppress(FileNotFoundError):
                os.unlink(path)


def by_watchdog(directory: str) -> None:
    """Do nothing."""
    from watchdog.events import FileSystemEventHandler
    from watchdog.observers import Observer

    observer = Observer()
    observer.schedule(FileSystemEventHandler(), directory)
    observer.start()
    print("ready", flush=True)
    threading.Event().wait()


def main() -> None:
    """Serve until killed."""
    kind, directory = sys.argv[1:]
    {"inotify": by_inotify, "watchfiles": by_watchfiles, "watchdog": by_watchdog}[kind](directory)


if __name__ == "__main__":
    main()
