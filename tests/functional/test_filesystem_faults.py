# SPDX-License-Identifier: Apache-2.0
"""Real faults of the file system and of inotify: what the operator sees, and that nothing is lost.

Mounts and the limits on watches and instances are those of a private name space, so that no other
process of the machine meets them.
"""

import ctypes
import os
import re
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import sqlite_url
from tests.functional import program as program_module
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.program import PROGRAM, Program
from tests.services import RabbitMQ, wait_for
from tests.services.namespaces import MOUNTS, can_run, impossible

WITHOUT_OVERRIDE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]
QUEUED_EVENTS = Path("/proc/sys/fs/inotify/max_queued_events")
CHECKED = 30.0  # seconds; the program looks every 10 s for what no event reports
OFTEN = "sweep_interval = 1"
# without the exception that oslo.log adds to a line that names it already
LINE = re.compile(r"\S+ \S+ \d+ (\w+) \S+ \[.*?\] (.*?)(?:: \w+Error: .*)?")

database_url = sqlite_url


@pytest.fixture
def often(new_host: Callable[..., Host]) -> Host:
    """A host which is swept every second."""
    return new_host(watcher=OFTEN)


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes programs start by way of a command that becomes them."""

    def through(*command: str) -> None:
        monkeypatch.setattr(Program, "command", (*command, str(PROGRAM)))

    return through


@pytest.fixture
def namespace(through: Callable[..., None]) -> None:
    """Makes programs start in a private name space for mounts and limits."""
    if not can_run(*MOUNTS, "true"):
        impossible("private name spaces can't be made here")
    through(*MOUNTS)


@pytest.fixture
def permissions_hold(through: Callable[..., None]) -> None:
    """Makes programs start without root's right to open everything."""
    if os.geteuid() == 0:
        if not can_run(*WITHOUT_OVERRIDE, "true"):
            impossible("setpriv can't take away capabilities here")
        through(*WITHOUT_OVERRIDE)


def said(program: Program) -> list[str]:
    """What an operator sees at INFO and above, with its level, but for the lines on how
    much went; other output as it is."""
    shown = []
    for line in program.log.splitlines():
        level, text = match.groups() if (match := LINE.fullmatch(line)) else ("", line)
        if level != "DEBUG" and not text.startswith(("Starting ", "Removed ", "Sweep finished ")):
            shown.append(f"{level} {text}".lstrip())
    return shown


def watching(host: Host) -> str:
    return f"INFO Watching staging directory {host.staging}"


def waiting(host: Host) -> str:
    return f"INFO Staging directory {host.staging} does not exist, waiting for it"


def unreadable(host: Host, reason: str) -> str:
    return f"ERROR Cannot read the staging directory, retrying: {reason}: '{host.staging}'"


def unwatchable(reason: str) -> str:
    return f"ERROR Cannot watch the staging directory; sweeps and notifications continue: {reason}"


READABLE = "INFO Staging directory readable again"
WATCHABLE = "INFO Watching the staging directory again"
SUCCEED = "Removals succeed again"


def failed(path: Path, reason: str) -> str:
    return f"ERROR Failed to delete stale staging path '{path}': {reason}: '{path}'"


def wait_said(program: Program, *expected: str) -> None:
    """Wait until there are as many lines, and compare them."""
    wait_for(lambda: len(said(program)) >= len(expected), CHECKED, f"{expected} in\n{program.log}")
    assert said(program) == list(expected)


def wait_sweeps(program: Program, number: int, text: str = " errors)") -> None:
    """Wait for the ends of some more sweeps (or passes after events)."""
    program.wait_for_line(text, 60, len(program.lines(text)) + number)


def wait_retries(program: Program, number: int) -> None:
    """Wait for some more tries while a fault lasts."""
    wait_sweeps(program, number, "Next try in")


def events_arrive(host: Host) -> None:
    """Residue goes at once where no sweep is due for minutes."""
    host.wait_gone(host.stage_deleted())


def die(host: Host, image: str) -> Path:
    """Glance deletes an image, and no event reports it."""
    host.forget(image)
    host.images.delete(image)
    return host.staging / image


def exchange(one: Path, other: Path) -> None:
    """Let two names change places in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        raise OSError(ctypes.get_errno(), "renameat2")


class Inside:
    """The private name space of a program."""

    def __init__(self, program: Program) -> None:
        self._pid = program.process.pid

    def run(self, *command: str | Path) -> bool:
        """Run a command there; False when it fails."""
        enter = ["nsenter", f"--target={self._pid}", "--user", "--mount", "--preserve-credentials"]
        return subprocess.run([*enter, "--", *command], check=False).returncode == 0

    def path(self, path: Path) -> Path:
        """What that path is there, for use from outside."""
        return Path(f"/proc/{self._pid}/root{path}")


@contextmanager
def written(path: Path, value: str) -> Iterator[None]:
    """Set a kernel's limit for a while."""
    old = path.read_text()
    try:
        path.write_text(value)
    except OSError as error:
        impossible(f"{path} can't be set: {error.strerror}")
    try:
        yield
    finally:
        path.write_text(old)


@contextmanager
def meanwhile(stop: threading.Event, *actions: Callable[[], None]) -> Iterator[None]:
    """Run actions, each in a thread, until they are to stop."""
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# The directory


@pytest.mark.parametrize("below", ["", "glance/lib"])
def test_absent_at_start(host: Host, database_url: str, below: str) -> None:
    host.staging.rmdir()
    host.staging = host.directory / below / "staging"
    host.configure(database_url=database_url, staging=f"file://{host.staging}")
    program = host.start()
    assert said(program) == [waiting(host)]
    host.staging.mkdir(parents=True)
    host.stage_live()
    residue = host.stage_deleted()
    wait_said(program, waiting(host), watching(host))
    host.wait_gone(residue)
    events_arrive(host)
    assert said(program) == [waiting(host), watching(host)]


@pytest.mark.parametrize("gone", ["staging", "glance"])
def test_removed_and_made_again(host: Host, database_url: str, gone: str) -> None:
    """The directory, or the one above it."""
    host.staging.rmdir()
    host.staging = host.directory / "glance" / "staging"
    host.staging.mkdir(parents=True)
    host.configure(database_url=database_url, staging=f"file://{host.staging}")
    host.stage("other")
    program = host.start()
    expected = [watching(host)]
    for _ in range(2):
        shutil.rmtree(host.staging if gone == "staging" else host.staging.parent)
        wait_said(program, *expected, waiting(host))
        host.staging.mkdir(parents=True)
        residue = host.stage_deleted()
        expected += [waiting(host), watching(host)]
        wait_said(program, *expected)
        host.wait_gone(residue)
    host.stage_live()
    events_arrive(host)
    for _ in range(3):
        host.forget("")
        shutil.rmtree(host.staging)
        host.staging.mkdir()
        host.stage_live()
        events_arrive(host)
    assert set(said(program)) == {waiting(host), watching(host)}


def test_renamed_away_and_back(host: Host) -> None:
    host.stage_live()
    program = host.start()
    away = host.staging.rename(host.directory / "away")
    wait_said(program, watching(host), waiting(host))
    image = new_id()
    host.images.insert(image, deleted=True)
    (away / image).touch()
    away.rename(host.staging)
    wait_said(program, watching(host), waiting(host), watching(host))
    host.wait_gone(host.staging / image)
    events_arrive(host)


def test_replaced_by_another_directory(host: Host) -> None:
    host.stage_live()
    program = host.start()
    away = host.directory / "away"
    away.mkdir()
    exchange(host.staging, away)
    kept = away / new_id()
    host.images.insert(kept.name, deleted=True)
    wait_said(program, watching(host), watching(host))
    kept.touch()
    events_arrive(host)
    assert kept.exists(), "it is not in the staging directory any more"
    exchange(host.staging, away)
    wait_said(program, watching(host), watching(host), watching(host))
    host.wait_gone(host.staging / kept.name)


def test_a_symbolic_link_swapped_to_another_directory(host: Host) -> None:
    host.staging.rmdir()
    first, second = host.directory / "first", host.directory / "second"
    for directory in (first, second):
        directory.mkdir()
    host.staging.symlink_to(first)
    program = host.start()
    residue = second / new_id()
    host.images.insert(residue.name, deleted=True)
    residue.touch()
    (host.directory / "link").symlink_to(second)
    (host.directory / "link").rename(host.staging)
    wait_said(program, watching(host), watching(host))
    host.wait_gone(residue)
    host.stage_live()
    kept = first / new_id()
    host.images.insert(kept.name, deleted=True)
    kept.touch()
    events_arrive(host)
    assert kept.exists(), "it is not in the staging directory any more"


@pytest.mark.usefixtures("namespace")
def test_mounted_over_and_unmounted(host: Host) -> None:
    host.stage_live()
    program = host.start()
    inside = Inside(program)
    assert inside.run("mount", "-t", "tmpfs", "tmpfs", host.staging)
    live, dead = new_id(), new_id()
    host.images.insert(live)
    host.images.insert(dead, deleted=True)
    for image in (live, dead):
        inside.path(host.staging / image).write_bytes(b"data")
    wait_said(program, watching(host), watching(host))
    host.wait_gone(inside.path(host.staging / dead))
    hidden = host.stage_deleted()
    inside.path(host.staging / dead).touch()
    host.wait_gone(inside.path(host.staging / dead))
    assert hidden.exists(), "it is below the mount"
    assert inside.path(host.staging / live).read_bytes() == b"data"

    def held() -> list[str]:
        descriptors = Path(f"/proc/{program.process.pid}/fd")
        links = [os.readlink(path) for path in descriptors.iterdir() if os.path.lexists(path)]
        return [link for link in links if link.startswith(str(host.staging))]

    wait_for(lambda: not held(), 10, "the program to hold nothing of the directory open")
    wait_for(lambda: inside.run("umount", host.staging), 10, "an unmount while it runs")
    wait_said(program, watching(host), watching(host), watching(host))
    host.wait_gone(hidden)
    events_arrive(host)


@pytest.mark.usefixtures("permissions_hold")
@pytest.mark.parametrize("mode", [0o000, 0o300, 0o600])
@pytest.mark.parametrize("command", [[], ["sweep"], ["sweep", "--dry-run"]])
def test_no_permission_at_start(host: Host, mode: int, command: list[str]) -> None:
    host.stage_live()
    residue = host.stage_deleted()
    host.staging.chmod(mode)
    program = Program(host.directory, *command, "--config-file", str(host.config_file))
    assert program.wait() == 2
    host.staging.chmod(0o700)
    assert said(program) == [
        f"glance-staging-watcher: Cannot use the staging directory {host.staging}: "
        "Permission denied; run as the user that runs glance-api"
    ]
    assert residue.exists()


@pytest.mark.usefixtures("permissions_hold")
@pytest.mark.parametrize("mode", [0o000, 0o600, "above"])
def test_permission_is_lost(often: Host, mode: int | str) -> None:
    """All, to reach what is listed, to reach the directory."""
    host = often
    host.stage_live()
    image = host.stage_live()
    host.stage(new_id())
    program = host.start()
    place = host.directory if mode == "above" else host.staging
    place.chmod(0o600 if mode == "above" else int(mode))
    try:
        broken = [watching(host), unreadable(host, "[Errno 13] Permission denied")]
        if mode == "above" and os.geteuid():
            pytest.skip("the log is in there, too")
        wait_said(program, *broken)
        wait_retries(program, 2)
        assert said(program) == broken
    finally:
        place.chmod(0o700)
    residue = die(host, image)
    wait_said(program, *broken, READABLE)
    host.wait_gone(residue)
    wait_sweeps(program, 2)
    assert said(program) == [*broken, READABLE]


@pytest.mark.usefixtures("permissions_hold")
def test_no_permission_to_remove(often: Host) -> None:
    host = often
    host.stage_live()
    residue = [host.stage_deleted(), host.stage_deleted(".uc")]
    host.staging.chmod(0o500)
    try:
        program = host.start()
        wait_sweeps(program, 3, "Cleaned 0 stale staging files, 1 ignored (2 errors)")
        expected = {failed(path, "[Errno 13] Permission denied") for path in residue}
        expected |= {watching(host), "ERROR Removals fail: Permission denied"}
        assert len(said(program)) == 4 and set(said(program)) == expected
    finally:
        host.staging.chmod(0o700)
    host.wait_gone(*residue)
    program.wait_for_line(SUCCEED)
    assert len(said(program)) == 5


@pytest.mark.usefixtures("permissions_hold")
def test_a_parent_that_cannot_be_watched(host: Host, database_url: str) -> None:
    host.staging.rmdir()
    host.staging = host.directory / "closed" / "staging"
    host.staging.parent.mkdir()
    host.configure(database_url=database_url, staging=f"file://{host.staging}")
    host.staging.parent.chmod(0o300)
    program = host.start()
    expected = [waiting(host), unwatchable("Permission denied")]
    assert said(program) == expected
    host.staging.mkdir()
    host.stage_live()
    residue = host.stage_deleted()
    wait_said(program, *expected, WATCHABLE)
    host.wait_gone(residue)
    events_arrive(host)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("file", "[Errno 20] Not a directory"),
        ("loop", "[Errno 40] Too many levels of symbolic links"),
    ],
)
def test_something_else_in_its_place(often: Host, how: str, reason: str) -> None:
    host = often
    host.stage_live()
    image = host.stage_live()
    program = host.start()
    other = host.directory / "other"
    if how == "file":
        other.write_bytes(b"data")
    else:
        other.symlink_to(host.staging)
    exchange(host.staging, other)
    broken = [watching(host), unreadable(host, reason)]
    wait_said(program, *broken)
    wait_retries(program, 2)
    assert said(program) == broken
    exchange(host.staging, other)
    residue = die(host, image)
    wait_said(program, *broken, watching(host), READABLE)
    host.wait_gone(residue)
    if how == "file":
        assert other.read_bytes() == b"data"


# Files


@pytest.mark.usefixtures("namespace")
def test_read_only(often: Host) -> None:
    host = often
    host.stage_live()
    image = host.stage_live()
    program = host.start()
    inside = Inside(program)
    assert inside.run("mount", "--bind", host.staging, host.staging)
    assert inside.run("mount", "-o", "remount,bind,ro", host.staging)
    with pytest.raises(OSError, match="Read-only"):
        inside.path(host.staging / "x").touch()
    residue = [die(host, image), host.stage_deleted(".uc")]
    wait_sweeps(program, 4, "Cleaned 0 stale staging files, 1 ignored (2 errors)")
    expected = {failed(path, "[Errno 30] Read-only file system") for path in residue}
    expected |= {watching(host), "ERROR Removals fail: Read-only file system"}
    assert len(said(program)) == 4 and set(said(program)) == expected
    assert inside.run("mount", "-o", "remount,bind,rw", host.staging)
    host.wait_gone(*residue)
    program.wait_for_line(SUCCEED)
    assert len(said(program)) == 5


@pytest.mark.parametrize("what", ["file", "directory"])
def test_immutable(often: Host, what: str) -> None:
    host = often
    host.stage_live()
    residue = host.stage_deleted()
    place = residue if what == "file" else host.staging

    def chattr(change: str) -> int:
        return subprocess.run(
            ["chattr", change, place], capture_output=True, check=False
        ).returncode

    if not shutil.which("chattr") or chattr("+i"):
        impossible("immutable files need root and a file system such as ext4")
    try:
        program = host.start()
        wait_sweeps(program, 3, "Cleaned 0 stale staging files, 1 ignored (1 errors)")
        # A directory is known to be so before a removal is tried.
        cause = "Operation not permitted" if what == "file" else "Permission denied"
        lines = [
            failed(residue, "[Errno 1] Operation not permitted"),
            f"ERROR Removals fail: {cause}",
        ]
        expected = [watching(host), *(lines if what == "file" else reversed(lines))]
        assert said(program) == expected
    finally:
        chattr("-i")
    host.wait_gone(residue)
    wait_said(program, *expected, f"INFO {SUCCEED}")


def test_things_that_are_no_files(often: Host) -> None:
    host = often
    live = host.staging / host.stage_live()
    outside = host.directory / "outside"
    outside.mkdir()
    ids = [new_id() for _ in range(6)]
    directory, to_file, to_directory, dangling, fifo, sock = (host.staging / name for name in ids)
    host.images.insert(*ids, deleted=True)
    directory.mkdir()
    (directory / ids[0]).write_bytes(b"data")
    (outside / ids[0]).write_bytes(b"data")
    to_file.symlink_to(live)
    to_directory.symlink_to(outside)
    dangling.symlink_to(outside / "nothing")
    os.mkfifo(fifo)
    os.mknod(sock, stat.S_IFSOCK | 0o600)
    program = host.start()
    program.wait_for_line("Cleaned 5 stale staging files, 1 ignored (1 errors)")
    wait_sweeps(program, 3, "Cleaned 0 stale staging files, 1 ignored (1 errors)")
    shown = said(program)
    assert shown == [watching(host), failed(directory, "[Errno 21] Is a directory")]
    assert (directory / ids[0]).read_bytes() == (outside / ids[0]).read_bytes() == b"data"
    assert sorted(os.listdir(host.staging)) == sorted([live.name, directory.name])
    shutil.rmtree(directory)
    host.wait_gone(*(host.stage(name) for name in ids))
    assert said(program) == shown


def test_names(host: Host) -> None:
    suffixes = [os.fsdecode(b".\xff\xfe"), "." + "x" * 218, ".\n\x1b[31m", ". ", ".é", ".%s%n"]
    for suffix in suffixes:
        host.stage_live(suffix)
    for name in (os.fsdecode(b"\xff\xfe"), "x" * 255, "-rf", "...", "\n"):
        host.stage(name)
    before = [host.stage_deleted(suffix) for suffix in suffixes]
    program = host.start()
    assert not any(map(os.path.lexists, before))
    assert "Cleaned 6 stale staging files, 11 ignored (0 errors)" in program.log
    host.wait_gone(*(host.stage_deleted(suffix) for suffix in suffixes))
    assert len(os.listdir(host.staging)) == 11
    assert said(program) == [watching(host)]
    assert "\x1b" not in program.log


@pytest.mark.large
def test_a_hundred_thousand_files(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [new_id() for _ in range(100_000)]
    live, dead = ids[::2], ids[1::2]
    host.images.insert(*live)
    host.images.insert(*dead, deleted=True)
    for image in ids:
        host.stage(image, image.encode())
    monkeypatch.setattr(program_module, "READY_TIMEOUT", 120.0)
    program = host.start()
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    assert sorted(os.listdir(host.staging)) == sorted(live)
    assert all((host.staging / image).read_bytes() == image.encode() for image in live)
    assert len(program.lines("Found 100000 files in staging directory")) == 1
    assert len(program.lines("Cleaned 50000 stale staging files, 50000 ignored (0 errors)")) == 1
    assert said(program) == [watching(host)]
    assert int(status.partition("VmHWM:")[2].split()[0]) < 150 * 1024
    for image in live:
        (host.staging / image).unlink()
    events_arrive(host)


def test_files_that_come_and_go_during_the_sweep(often: Host) -> None:
    host = often
    dead, live = ([new_id() for _ in range(300)] for _ in range(2))
    host.images.insert(*dead, deleted=True)
    host.images.insert(*live)
    for _ in range(20):
        host.stage_live()
    lost: list[Path] = []
    stop = threading.Event()

    def come_and_go(ids: list[str], *, ours: bool) -> None:
        while not stop.is_set():
            for image in ids:
                path, renamed = host.staging / f"{image}.uc", host.staging / image
                with suppress(FileNotFoundError):
                    path.write_bytes(b"data")
                    path.rename(renamed)
                    renamed.unlink()
                    continue
                if ours:
                    lost.append(path)

    program = host.start()
    with meanwhile(
        stop, partial(come_and_go, dead, ours=False), partial(come_and_go, live, ours=True)
    ):
        wait_sweeps(program, 50)
    assert not lost, "files of live images were removed"
    host.wait_gone(*(host.stage(image) for image in dead))
    assert set(said(program)) <= {watching(host)}
    assert not re.search(r"\([1-9]\d* errors\)", program.log)


def make_something(kind: int, path: Path, outer: Path, inner: Path) -> None:
    """A file, a link of either sort to a file of value, a link to a directory, or a directory."""
    if kind == 0:
        path.write_bytes(b"data")
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(outer.parent)
    elif kind == 3:
        path.symlink_to(outer)
    else:
        os.link(outer if kind == 4 else inner, path)


def remove_anything(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


def test_swaps_during_removal(often: Host) -> None:
    """Names of dead images change between files, links and directories as fast as they can."""
    host = often
    outside = host.directory / "outside"
    outside.mkdir()
    kept = {outside / new_id(): os.urandom(64) for _ in range(4)}
    for path, data in kept.items():
        path.write_bytes(data)
    live = [host.staging / host.stage_live() for _ in range(4)]
    images = [path.name for path in kept] + [new_id() for _ in range(4)]
    host.images.insert(*images, deleted=True)
    stop = threading.Event()

    def swap(made: Path, images: list[str]) -> None:
        while not stop.is_set():
            for image, outer, inner in zip(images, kept, live, strict=True):
                name = host.staging / image
                for kind in range(1, 6):
                    make_something(kind, made, outer, inner)
                    with suppress(FileNotFoundError):
                        name.write_bytes(b"data")
                        for _ in range(100):
                            exchange(made, name)
                    remove_anything(made)
                    remove_anything(name)

    program = host.start()
    with meanwhile(
        stop,
        partial(swap, host.directory / "a", images[:4]),
        partial(swap, host.directory / "b", images[4:]),
    ):
        wait_sweeps(program, 50)
        program.wait_for_line("Is a directory")
    assert all(path.read_bytes() == data for path, data in kept.items())
    host.check_live()
    for image in images:
        remove_anything(host.staging / image)
    host.wait_gone(*(host.stage(image) for image in images))
    assert len(os.listdir(host.staging)) == len(live)
    assert all(path.read_bytes() == data for path, data in kept.items())


# inotify


def limit(what: str) -> str:
    """The limit that holds for a name space of users."""
    return f"/proc/sys/user/max_inotify_{'watches' if what == 'watch' else 'instances'}"


def flood(host: Host, program: Program, *names: str) -> None:
    """Make files while the program can't read their events."""
    program.process.send_signal(signal.SIGSTOP)
    for number in range(100):
        path = host.stage(f"flood{number}")
        path.unlink()
    for name in names:
        host.stage(name)


def test_overflow(new_host: Callable[..., Host]) -> None:
    host = new_host(watcher=OFTEN)
    for _ in range(2):
        host.stage_live()
    with written(QUEUED_EVENTS, "16"):
        program = host.start()
    for _ in range(2):
        images = [new_id() for _ in range(300)]
        host.images.insert(*images, deleted=True)
        flood(host, program, *images)
        program.process.send_signal(signal.SIGCONT)
        host.wait_gone(*(host.staging / image for image in images))
    found = len(program.lines("Found 1 files"))
    host.wait_gone(host.stage_deleted())
    program.wait_for_line("Found 1 files", count=found + 1)
    assert said(program) == [watching(host)]


def test_an_overflow_hides_that_the_directory_was_made_again(host: Host) -> None:
    with written(QUEUED_EVENTS, "16"):
        program = host.start()
    flood(host, program)
    host.staging.rmdir()
    host.staging.mkdir()
    host.stage_live()
    program.process.send_signal(signal.SIGCONT)
    program.wait_for_line("Cleaned 0 stale staging files, 1 ignored (0 errors)")
    events_arrive(host)
    assert set(said(program)) == {watching(host)}


@pytest.mark.usefixtures("namespace")
def test_no_watches_or_instances_left(
    new_host: Callable[..., Host], through: Callable[..., None]
) -> None:
    hosts = {}
    for what in ("watch", "instance"):
        through(*MOUNTS, "sh", "-c", f'echo 0 > {limit(what)} && exec "$@"', "sh")
        host = hosts[what] = new_host(watcher=OFTEN)
        residue = host.stage_deleted()
        for _ in range(2):
            host.stage_live()
        host.start()
        assert not residue.exists()
    for what, host in hosts.items():
        program = host.programs[0]
        broken = unwatchable(
            f"inotify {what} limit reached; see fs.inotify.max_user_instances and max_user_watches"
        )
        host.wait_gone(host.stage_deleted())
        program.wait_for_line("ignored (0 errors)", 60, 12)  # a check every ten seconds, one each
        assert said(program) == [broken]
        assert not program.lines("Found 1 files"), "by sweeps, which find the live files as well"
        assert Inside(program).run("sh", "-c", f"echo 100 > {limit(what)}")
        wait_said(program, broken, WATCHABLE)
        host.wait_gone(host.stage_deleted())
        program.wait_for_line("Found 1 files")
        assert said(program) == [broken, WATCHABLE]


@pytest.mark.usefixtures("namespace")
def test_notifications_go_on_without_file_events(
    new_host: Callable[..., Host],
    through: Callable[..., None],
    rabbitmq: RabbitMQ,
    notifier: GlanceNotifier,
) -> None:
    host = new_host(transport_url=rabbitmq.url())
    through(*MOUNTS, "sh", "-c", f'echo 0 > {limit("watch")} && exec "$@"', "sh")
    host.stage_live()
    program = host.start()
    program.wait_for_line("Listening for notifications")
    for _ in range(3):
        image = host.stage_live(".uc")
        residue = [host.staging / f"{image}.uc", host.stage(image)]
        die(host, image)
        notifier.deleted(image)
        host.wait_gone(*residue)
    assert len([line for line in said(program) if line.startswith("ERROR")]) == 1
