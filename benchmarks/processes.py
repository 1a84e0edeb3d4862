# SPDX-License-Identifier: Apache-2.0
"""The program as a process: idle, at its start, and beside a huge write."""

import functools
import os
import subprocess
import sys
import time

from benchmarks import proc
from benchmarks.bus import Listening
from benchmarks.figures import OURS, Comparison
from benchmarks.inotify import Removals
from benchmarks.rows import fill, some
from benchmarks.site import ROOT, Site, in_turn, new_ids, stage
from tests.functional.program import Program

OSLO = "oslo.messaging listener"
GLANCE = "Glance's cleaner"


def idle(site: Site) -> list[Comparison]:
    """A minute with broker and database connected, and nothing to do; three watchers at once."""
    seconds = 10 if site.quick else 60
    database = site.database("mariadb")
    fill(database, 1000)
    listening = [(OURS, Listening(site, "watcher", database)) for _ in range(3)]
    listening.append((OSLO, Listening(site, "oslo", database)))
    time.sleep(3)
    cpu = Comparison("idle-cpu", "idle for a minute: processor time", "ms")
    wakeups = Comparison("idle-wakeups", "idle for a minute: wake-ups", "context switches")
    memory = Comparison("idle-memory", "idle: resident memory", "MB")
    threads = Comparison("idle-threads", "idle: threads", "threads")
    before = [(proc.cpu(each.pid), proc.wakeups(each.pid)) for _, each in listening]
    time.sleep(seconds)
    for (subject, each), (cpu_before, wakeups_before) in zip(listening, before, strict=True):
        scale = 60 / seconds
        cpu.add(subject, (proc.cpu(each.pid) - cpu_before) * 1e3 * scale)
        wakeups.add(subject, (proc.wakeups(each.pid) - wakeups_before) * scale)
        memory.add(subject, proc.memory(each.pid))
        threads.add(subject, proc.threads(each.pid))
        each.close()
    cpu.bound("ms", 20)
    wakeups.bound("wake-ups", 120)
    memory.bound("MB", 80)
    return [cpu, wakeups, memory, threads]


def start(site: Site) -> list[Comparison]:
    """From the start of the process to the first removal, and to what systemd receives."""
    rounds = 3 if site.quick else 7
    removal = Comparison("start", "start → first removal", "s")
    ready = Comparison("ready", "start → ready", "s")
    sqlite, mariadb = site.database("sqlite"), site.database("mariadb")
    for url in (sqlite, mariadb):
        fill(url, 1000)
    imports = (
        "import sqlalchemy, oslo_config.cfg, oslo_log.log, watchdog.events, "
        "watcher.triggers.transport"
    )

    def ours(subject: str, url: str, transport: str) -> None:
        directory = site.new_directory("start")
        config = str(site.configure(directory, url, transport))
        removals = Removals(str(directory / "staging"))
        (residue,) = some(url, 1, deleted=True)
        stage(directory / "staging", [residue])
        started = time.perf_counter()
        program = Program(directory, "--config-file", config)
        program.wait_ready()
        ready.add(subject, time.perf_counter() - started)
        removal.add(subject, removals.wait(residue) - started)
        program.kill()

    def glance() -> None:
        directory = site.new_directory("start")
        config, staging = str(site.configure(directory, sqlite)), directory / "staging"
        removals = Removals(str(staging))
        (residue,) = some(sqlite, 1, deleted=True)
        stage(staging, [residue])
        (names := directory / "names").touch()
        started = time.perf_counter()
        peer = site.peer("sweep", "glance", config, sqlite, str(staging))
        peer.ask(str(names))
        removal.add(GLANCE, removals.wait(residue) - started)
        peer.close()

    def python(subject: str, script: str) -> None:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
        removal.add(subject, time.perf_counter() - started)

    in_turn(
        rounds,
        functools.partial(ours, OURS, mariadb, site.vhost()),
        functools.partial(ours, "watcher, SQLite, no broker", sqlite, ""),
        glance,
        functools.partial(python, "import of its libraries alone", imports),
        functools.partial(python, "python3 -c pass", "pass"),
    )
    removal.faster(1.0, GLANCE)
    ready.bound("seconds", 0.8)
    return [removal, ready]


def big_write(site: Site) -> list[Comparison]:
    """A live image's file is written as Glance writes it: what does a watcher make of that?"""
    size, rounds = (1 << 28, 2) if site.quick else (1 << 31, 3)
    database = site.database("mariadb")
    fill(database, 1000)
    images = site.images(database)
    directory, other = site.new_directory("write"), site.new_directory("write")
    site.configure(directory, database, site.vhost())
    (other / "staging").mkdir()
    pids = {
        OURS: site.watcher(directory).process.pid,
        "watchdog's default": site.peer("watch", "watchdog", str(other / "staging")).process.pid,
    }
    title = f"{size >> 20:,} MiB written by a live import: "
    wakeups = Comparison("write-wakeups", title + "wake-ups", "context switches")
    cpu = Comparison("write-cpu", title + "processor time", "ms")
    data = Comparison("write-read", title + "bytes read", "kB")
    chunk = os.urandom(1 << 16)

    def run(subject: str) -> None:
        pid, (image,) = pids[subject], new_ids(1)
        images.insert(image, status="importing")
        path = (directory if subject == OURS else other) / "staging" / image
        proc.settle(pid)
        before = proc.wakeups(pid), proc.cpu(pid), proc.bytes_read(pid)
        with path.open("wb", buffering=0) as file:
            for _ in range(size // len(chunk)):
                file.write(chunk)
        proc.settle(pid)
        wakeups.add(subject, proc.wakeups(pid) - before[0])
        cpu.add(subject, (proc.cpu(pid) - before[1]) * 1e3)
        data.add(subject, (proc.bytes_read(pid) - before[2]) / 1e3)
        path.unlink()

    in_turn(rounds, *(functools.partial(run, subject) for subject in pids))
    wakeups.bound("wake-ups", 20)
    data.bound("kB, none of them the image's", 64)
    for pid in pids.values():
        os.kill(pid, 9)
    return [wakeups, cpu, data]
