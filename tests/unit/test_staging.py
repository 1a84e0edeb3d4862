# SPDX-License-Identifier: Apache-2.0
import errno
import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from watcher.staging import directory as staging_module
from watcher.staging.directory import DirectoryReplacedError, FileChangedError, Identity, Staging
from watcher.staging.names import NameIndex, canonical_id, image_id

ID = "7f1d2c0a-5b1e-4f7e-9a67-3c5d1b2e4f60"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (ID, ID),
        (f"{ID}.qcow2", ID),
        (f"{ID}.uc", ID),
        (f"{ID}.blah", ID),
        (f"{ID}.tar.gz", ID),
        (f"{ID}.", ID),
        (ID.upper(), ID.upper()),
        ("foo", None),
        ("foo.bar", None),
        ("", None),
        (".", None),
        (f".{ID}", None),
        (f"running-task-{ID}", None),
        (ID.replace("-", ""), None),
        (f"{{{ID}}}", None),
        (f"urn:uuid:{ID}", None),
        (f"{ID}x", None),
        (f"{ID}\n", None),
        (f"{ID}\n.uc", None),
        (f" {ID}", None),
        (f"{ID[:-1]}\uff11", None),
        (f"{ID[:-1]}\u0661", None),
        (ID[:-1], None),
        (f"{ID}\udcff", None),
    ],
)
def test_image_id_of_a_name(name: str, expected: str | None) -> None:
    assert image_id(name) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ID, ID),
        (ID.upper(), ID),
        (f"{ID}.uc", None),
        (f"../{ID}", None),
        (f"{ID}\0", None),
        ("", None),
        (None, None),
        (7, None),
        ([ID], None),
        ({"id": ID}, None),
        (ID.encode(), None),
    ],
)
def test_canonical_id(value: object, expected: str | None) -> None:
    assert canonical_id(value) == expected


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    directory = tmp_path / "staging"
    directory.mkdir()
    with Staging(str(directory)) as opened:
        yield opened


def names(staging: Staging) -> list[str]:
    return list(staging.listing())


def remove(staging: Staging, name: str = ID) -> int | None:
    """Remove a file that is as it was seen."""
    try:
        seen = staging.lstat(name)
    except FileNotFoundError:
        seen = None
    return staging.remove(name, seen)


def put(staging: Staging, name: str, data: bytes = b"data") -> Path:
    path = Path(staging.path) / name
    path.write_bytes(data)
    return path


def test_names_come_in_the_order_of_inodes(staging: Staging) -> None:
    paths = [put(staging, str(uuid.uuid4())) for _ in range(50)]
    by_inode = sorted(paths, key=lambda path: path.stat().st_ino)
    assert names(staging) == [path.name for path in by_inode]


@pytest.mark.parametrize("name", [f"{ID}.{'x' * 218}", os.fsdecode(b"\xff\xfe")])
def test_odd_names_are_listed_and_removed(staging: Staging, name: str) -> None:
    put(staging, name)
    assert names(staging) == [name]
    remove(staging, name)
    assert names(staging) == []


def test_a_missing_directory_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), Staging(str(tmp_path / "none")):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), Staging(str(tmp_path / "file")):
        pass


def test_nothing_is_held_open_between_passes(staging: Staging) -> None:
    other = Staging(staging.path)
    before = len(os.listdir("/proc/self/fd"))
    with other:
        assert len(os.listdir("/proc/self/fd")) == before + 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_of_an_image_with_any_suffix(staging: Staging) -> None:
    mine = {ID, f"{ID}.uc", f"{ID}.some.thing", ID.upper(), f"{ID.upper()}.raw"}
    for name in [*mine, str(uuid.uuid4()), "foo", f"{uuid.uuid4()}.uc"]:
        put(staging, name)
    assert set(staging.files_of(ID)) == mine
    assert staging.files_of(str(uuid.uuid4())) == []


def test_files_of_an_image_follow_the_events(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(staging)
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail("listed the whole directory"))
    put(staging, f"{ID}.uc")
    assert staging.saw(f"{ID}.uc")
    put(staging, ID)
    assert staging.files_of(ID) == [ID, f"{ID}.uc"]
    os.unlink(staging.full_path(f"{ID}.uc"))
    assert staging.files_of(ID) == [ID]
    assert not staging.saw(f"{ID}.uc")


def test_forgotten_names_are_listed_again(staging: Staging) -> None:
    names(staging)
    put(staging, f"{ID}.raw")
    assert staging.files_of(ID) == [], "no event reported it"
    staging.forget_names()
    assert staging.files_of(ID) == [f"{ID}.raw"]


@pytest.mark.parametrize("batch", [1, 2, 5, 6])
def test_a_listing_in_batches(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(staging_module, "BATCH", batch)
    for number in range(5):
        put(staging, f"file {number}")
    assert staging.count() == 5
    assert sorted(staging.listing()) == [f"file {number}" for number in range(5)]


def test_look_ups_in_the_midst_of_a_listing(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They neither disturb it, nor list everything themselves, nor get lost."""
    monkeypatch.setattr(staging_module, "BATCH", 3)
    others = {put(staging, str(uuid.uuid4())).name for _ in range(20)}
    names = staging.listing()
    listed = {next(names)}
    put(staging, f"{ID}.uc")
    assert staging.saw(f"{ID}.uc")
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", lambda path: pytest.fail("listed the whole directory"))
        assert staging.files_of(ID) == [f"{ID}.uc"]
    assert listed.union(names) >= others
    assert staging.files_of(ID) == [f"{ID}.uc"], "also in the new index"


def test_the_index_of_a_full_listing_serves_while_the_next_is_under_way(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {f"{image}.uc": image for image in (str(uuid.uuid4()) for _ in range(3))}
    for name in images:
        put(staging, name)
    names(staging)
    monkeypatch.setattr(staging_module, "BATCH", 1)
    listing = staging.listing()
    listed = next(listing)
    image = next(image for name, image in images.items() if name != listed)
    assert staging.files_of(image) == [f"{image}.uc"]
    os.unlink(staging.full_path(f"{image}.uc"))
    assert not staging.saw(f"{image}.uc")
    put(staging, f"{image}.raw")
    assert staging.saw(f"{image}.raw")
    list(listing)
    assert staging.files_of(image) == [f"{image}.raw"]


def test_a_listing_that_was_given_up_is_no_index(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging_module, "BATCH", 1)
    put(staging, str(uuid.uuid4()))
    put(staging, str(uuid.uuid4()))
    put(staging, f"{ID}.uc")
    before = len(os.listdir("/proc/self/fd"))
    listing = staging.listing()
    next(listing)
    del listing
    assert len(os.listdir("/proc/self/fd")) == before
    assert staging.files_of(ID) == [f"{ID}.uc"]


def test_another_directory_has_other_names(tmp_path: Path) -> None:
    path = tmp_path / "staging"
    path.mkdir()
    staging = Staging(str(path))
    with staging:
        put(staging, f"{ID}.uc")
        names(staging)
        first = staging.identity
    path.rename(tmp_path / "away")
    path.mkdir()
    put(staging, f"{ID}.raw")
    with staging:
        assert staging.identity != first
        assert staging.files_of(ID) == [f"{ID}.raw"]


def test_the_index_forgets_what_is_gone() -> None:
    index = NameIndex()
    for name in (ID, f"{ID}.uc", f"{ID}.raw", "foo"):
        index.add(name)
    assert index.files_of(ID) == [ID, f"{ID}.raw", f"{ID}.uc"]
    index.discard(f"{ID}.uc")
    assert index.files_of(ID) == [ID, f"{ID}.raw"]
    index.discard(f"{ID}.uc")
    index.discard("foo")
    index.discard(f"{ID}.raw")
    assert index.files_of(ID) == [ID]
    assert index._names == {}, "memory is given back"


def test_remove(staging: Staging) -> None:
    path = put(staging, ID)
    assert remove(staging) == 4096
    assert not path.exists()
    assert remove(staging) is None  # gone already: a success


def test_a_file_made_after_the_look_stays(staging: Staging) -> None:
    path = put(staging, ID)
    with pytest.raises(FileChangedError):
        staging.remove(ID, None)
    assert path.exists()


def special(path: Path, kind: str) -> None:
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK)  # bind() wants a short path
    else:
        target = path.parent.parent / "target"
        target.write_text("precious")
        path.symlink_to(target if kind == "link" else path.parent / "dangling")


@pytest.mark.parametrize("kind", ["fifo", "socket", "link", "dangling link"])
def test_what_is_not_a_directory_is_removed_as_it_is(staging: Staging, kind: str) -> None:
    path = Path(staging.path) / ID
    special(path, kind)
    assert remove(staging) is not None
    assert not os.path.lexists(path)
    if kind == "link":
        assert (path.parent.parent / "target").read_text() == "precious"


def test_a_directory_says_what_glance_says(staging: Staging) -> None:
    (Path(staging.path) / ID).mkdir()
    with pytest.raises(OSError) as caught:
        remove(staging)
    assert str(caught.value) == f"[Errno 21] Is a directory: '{staging.path}/{ID}'"


def test_a_file_that_changed_since_it_was_seen_stays(staging: Staging) -> None:
    path = put(staging, ID)
    seen = staging.lstat(ID)
    path.rename(path.with_name("keeps-the-inode"))
    put(staging, ID)
    with pytest.raises(FileChangedError):
        staging.remove(ID, seen)
    assert path.exists()


def test_a_file_that_was_written_to_stays(staging: Staging) -> None:
    path = put(staging, ID)
    seen = staging.lstat(ID)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(FileChangedError):
        staging.remove(ID, seen)
    assert path.exists()


@pytest.mark.parametrize("replacement", ["nothing", "directory", "link"])
def test_nothing_is_removed_from_a_directory_that_was_moved_away(
    staging: Staging, replacement: str
) -> None:
    path = Path(staging.path)
    put(staging, ID)
    seen = staging.lstat(ID)
    away = path.rename(path.with_name("away"))
    if replacement == "directory":
        path.mkdir()
    elif replacement == "link":
        other = path.with_name("other")
        other.mkdir()
        path.symlink_to(other)
    with pytest.raises(DirectoryReplacedError):
        staging.remove(ID, seen)
    assert (away / ID).exists()


def test_a_huge_file_is_given_back_by_a_thread_of_its_own(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[threading.Thread] = []
    close, done = os.close, threading.Event()

    def closing(descriptor: int) -> None:
        closed.append(threading.current_thread())
        close(descriptor)
        done.set()

    monkeypatch.setattr(staging_module, "HUGE", 4096)
    path = put(staging, ID, b"x" * 8192)
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "close", closing)
    remove(staging)
    assert not path.exists()
    assert done.wait(10)
    assert closed != [threading.current_thread()] and closed[0].daemon
    assert set(os.listdir("/proc/self/fd")) <= before


def test_the_blocks_of_a_huge_file_on_a_network_file_system_are_the_servers(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS would only rename a file that is held open."""
    monkeypatch.setattr(staging_module, "HUGE", 0)
    monkeypatch.setattr(staging.closer, "close", pytest.fail)
    monkeypatch.setattr(staging, "network", "nfs4")
    path = put(staging, ID)
    assert remove(staging) is not None
    assert not path.exists()


@pytest.mark.parametrize("call", ["lstat", "unlink"])
def test_a_stale_handle_is_looked_at_again(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Neither gone, as far as one knows, nor a failure."""

    def stale(name: str, *, dir_fd: int) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)

    put(staging, ID)
    seen = staging.lstat(ID)
    with monkeypatch.context() as patched, pytest.raises(FileChangedError):
        patched.setattr(os, call, stale)
        staging.remove(ID, seen)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EUCLEAN, errno.EACCES])
def test_a_file_that_cannot_be_looked_at_is_there(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Its own failure is not one of the directory, which would hold up all others."""

    def fail(name: str, *, dir_fd: int) -> None:
        raise OSError(number, os.strerror(number), name)

    put(staging, ID)
    with monkeypatch.context() as patched:
        patched.setattr(os, "lstat", fail)
        assert staging.saw(ID)
        assert staging.files_of(ID) == [ID]


def test_which_directory_is_on_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked up once for each directory that is found there, or until it is known."""
    looked: list[int] = []
    kinds = iter([None, "nfs4", "unknown", "unknown", None])

    def network_type(descriptor: int) -> str | None:
        looked.append(descriptor)
        return next(kinds)

    monkeypatch.setattr(staging_module, "network_type", network_type)
    path = tmp_path / "staging"
    path.mkdir()
    made = Staging(str(path))
    for _ in range(3):
        with made:
            assert made.network is None
    path.rename(tmp_path / "away")
    path.mkdir()
    for _ in range(3):
        with made:
            assert made.network == "nfs4"
    assert len(looked) == 2
    path.rename(tmp_path / "gone")
    path.mkdir()
    for expected in ("unknown", "unknown", None, None):
        with made:
            assert made.network == expected
    assert len(looked) == 5


def test_swaps_between_look_and_removal_harm_nothing(tmp_path: Path) -> None:
    """An attacker swaps the name thousands of times; only that name may ever vanish."""
    directory, outside = tmp_path / "staging", tmp_path / "outside"
    directory.mkdir()
    outside.mkdir()
    precious = outside / ID
    precious.write_text("precious")
    live = directory / str(uuid.uuid4())
    live.write_text("live")
    stop, swaps = threading.Event(), [0]

    def attack() -> None:
        name, scratch = directory / ID, directory / "scratch"
        makers: list[Callable[[], object]] = [
            lambda: scratch.symlink_to(precious),
            lambda: scratch.symlink_to(outside),
            lambda: os.link(live, scratch),
            lambda: os.link(precious, scratch),
            lambda: scratch.write_text("new"),
            scratch.mkdir,
        ]
        while not stop.is_set():
            makers[swaps[0] % len(makers)]()
            try:
                os.rename(scratch, name)
            except OSError:  # a directory is in the way, or is it
                for path in (name, scratch):
                    if path.is_dir() and not path.is_symlink():
                        path.rmdir()
                    else:
                        path.unlink(missing_ok=True)
            swaps[0] += 1

    attacker = threading.Thread(target=attack)
    attacker.start()
    removed = 0
    try:
        with Staging(str(directory)) as staging:
            while swaps[0] < 5000:
                with suppress(OSError, FileChangedError):
                    removed += remove(staging) is not None
    finally:
        stop.set()
        attacker.join()
    assert removed > 0
    assert precious.read_text() == "precious"
    assert live.read_text() == "live"
    assert outside.is_dir()


def test_a_pipe_in_place_of_the_directory_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "staging")
    with pytest.raises(NotADirectoryError), Staging(str(tmp_path / "staging")):
        pass


def test_a_directory_whose_names_cannot_be_followed(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, **_: int) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    other = Staging(staging.path)
    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as refusing:
        refusing.setattr(os, "stat", refuse)
        with pytest.raises(PermissionError) as caught, other:
            pass
    assert str(caught.value) == f"[Errno 13] Permission denied: '{staging.path}'"
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("used", [False, True])
def test_nothing_is_looked_up_or_removed_outside_a_pass(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, used: bool
) -> None:
    path = put(staging, ID)
    other = Staging(staging.path)
    if used:
        with other:
            pass
    monkeypatch.chdir(staging.path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        other.lstat(ID)
    with pytest.raises((OSError, DirectoryReplacedError)):
        other.remove(ID, path.lstat())
    assert path.exists()


def test_a_name_can_be_reported_before_any_listing(staging: Staging) -> None:
    put(staging, f"{ID}.uc")
    assert staging.saw(f"{ID}.uc")
    staging.forget_names()
    assert staging.saw(f"{ID}.uc")
    assert staging.files_of(ID) == [f"{ID}.uc"]


def test_memory_of_names_that_are_gone_is_given_back(staging: Staging) -> None:
    names(staging)
    put(staging, f"{ID}.uc")
    staging.saw(f"{ID}.uc")
    assert staging._index is not None and staging._index._names
    os.unlink(staging.full_path(f"{ID}.uc"))
    staging.saw(f"{ID}.uc")
    assert not staging._index._names


@pytest.mark.parametrize(("more", "huge"), [(-1, True), (0, True), (1, False)])
def test_which_files_are_huge(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, more: int, huge: bool
) -> None:
    put(staging, ID, b"x" * 8192)
    status = staging.lstat(ID)
    monkeypatch.setattr(staging_module, "HUGE", status.st_blocks * 512 + more)
    held: list[int] = []
    monkeypatch.setattr(staging.closer, "close", held.append)
    remove(staging)
    assert len(held) == huge
    for descriptor in held:
        os.close(descriptor)


def test_a_huge_file_is_removed_without_a_free_descriptor(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(staging_module, "HUGE", 0)
    path = put(staging, ID)
    with monkeypatch.context() as exhausted:
        exhausted.setattr(os, "open", none_left)
        assert remove(staging) == 4096
    assert not path.exists()


def test_a_huge_file_is_removed_without_a_free_thread(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(staging_module, "HUGE", 0)
    path = put(staging, ID)
    before = set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", none_left)
        assert remove(staging) == 4096
    assert not path.exists()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_huge_file_that_cannot_be_removed_is_not_held_open(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, *, dir_fd: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name)

    held: list[int] = []
    monkeypatch.setattr(staging_module, "HUGE", 0)
    monkeypatch.setattr(staging.closer, "close", held.append)
    put(staging, ID)
    with monkeypatch.context() as refusing, pytest.raises(PermissionError):
        refusing.setattr(os, "unlink", refuse)
        remove(staging)
    assert len(held) == 1
    os.close(held[0])


def test_a_huge_file_is_neither_read_nor_followed(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: list[int] = []
    opening = os.open

    def note_open(name: str, how: int, *, dir_fd: int) -> int:
        flags.append(how)
        return opening(name, how, dir_fd=dir_fd)

    monkeypatch.setattr(staging_module, "HUGE", 0)
    put(staging, ID)
    with monkeypatch.context() as noting:
        noting.setattr(os, "open", note_open)
        remove(staging)
    assert flags == [os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC]


@pytest.mark.parametrize(
    ("field", "same_directory", "same_version"),
    [
        ("st_dev", False, False),
        ("st_ino", False, False),
        ("st_size", True, False),
        ("st_mtime_ns", True, False),
        ("st_ctime_ns", True, True),
        ("st_nlink", True, True),
    ],
)
def test_what_makes_a_directory_or_a_file_another_one(
    field: str, same_directory: bool, same_version: bool
) -> None:
    fields = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns", "st_nlink")
    one, other = (
        cast(os.stat_result, SimpleNamespace(**dict.fromkeys(fields, 1) | {field: value}))
        for value in (1, 2)
    )
    identity, version = Identity.of, staging_module._version
    assert (identity(one) == identity(other)) is same_directory
    assert (version(one) == version(other)) is same_version


def test_a_number_that_another_descriptor_got_leads_nowhere(staging: Staging) -> None:
    path = put(staging, ID)
    other = Staging(staging.path)
    with other:
        status, number = other.lstat(ID), other.descriptor
    reused = os.open(staging.path, os.O_RDONLY)
    try:
        assert reused == number
        with pytest.raises(OSError, match="Bad file descriptor"):
            other.lstat(ID)
        with pytest.raises((OSError, DirectoryReplacedError)):
            other.remove(ID, status)
    finally:
        os.close(reused)
    assert path.exists()
