# SPDX-License-Identifier: Apache-2.0
import bz2
import gzip
import json
import lzma
import os
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from watcher import conf
from watcher.cli import history
from watcher.database.images import ImageState
from watcher.errors import ConfigError
from watcher.reconcile.cleaner import Removal
from watcher.stats import Trigger
from watcher.telemetry.audit import UTC, AuditLog

IMAGE = "8aa29f1a-df65-415d-993e-a9e25853feb8"
OTHER = "5c7a4a3e-8a27-4d0d-a3a5-3a3f1f0b7d11"
NOW = datetime.now(UTC)


def line(name: str = IMAGE, **fields: Any) -> str:
    record = {
        "time": NOW.isoformat(timespec="milliseconds"),
        "file": f"/staging/{name}",
        "image": IMAGE,
        "size": 4096,
        "trigger": "notification",
        "state": "deleted",
        "latency": 0.0019,
    }
    return json.dumps(record | fields) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    return tmp_path / "log" / "audit.json"


Listing = tuple[int, list[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def listed(path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Listing]:
    """Return exit code, removals and summary of ``--format json``."""

    def call(since: str | None = None, image: str | None = None) -> Listing:
        code = history.run(configured(path), since=since, image=image, as_json=True)
        *removals, summary = map(json.loads, capsys.readouterr().out.splitlines())
        assert {each["kind"] for each in removals} <= {"removal"}
        assert summary["kind"] == "summary"
        return code, removals, summary

    return call


def configured(path: Path | None) -> Any:
    file = (path or Path("/tmp/none")).parent.parent / "glance-api.conf"
    text = "" if path is None else f"[staging_watcher]\naudit_log = {path}\n"
    file.write_text(text)
    return conf.load(["--config-file", str(file)])


def names(removals: list[dict[str, Any]]) -> list[str]:
    return [removal["name"] for removal in removals]


def test_what_the_audit_wrote(path: Path, listed: Callable[..., Listing]) -> None:
    audit = AuditLog(str(path))
    for name, trigger, waited in (
        (IMAGE, Trigger.NOTIFICATION, 0.0019),
        (os.fsdecode(b"\xff\x7f\n"), Trigger.SWEEP, None),
    ):
        audit.record(Removal(f"/staging/{name}", IMAGE, ImageState.DELETED, 8192, trigger, waited))
    code, (first, second), summary = listed()
    assert datetime.fromisoformat(first.pop("time")) >= NOW - timedelta(minutes=1)
    assert first == {
        "version": 1,
        "kind": "removal",
        "directory": "/staging",
        "name": IMAGE,
        "name_b64": None,
        "image_id": IMAGE,
        "image_state": "deleted",
        "size": 8192,
        "trigger": "notification",
        "latency": 0.0019,
    }
    assert (second["name"], second["name_b64"]) == ("\ufffd\x7f\n", "/38K")
    assert (second["trigger"], second["latency"]) == ("sweep", None)
    assert (code, summary) == (
        0,
        {
            "version": 1,
            "kind": "summary",
            "removals": 2,
            "size": 16384,
            "files": 1,
            "skipped": 0,
            "unreadable": 0,
        },
    )


def rotated(path: Path, name: str, age: int, *lines: str) -> Path:
    """Write a rotated file, last written `age` days ago."""
    file = path.with_name(name)
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    with openers.get(file.suffix, open)(file, "wb") as written:
        written.write("".join(lines).encode())
    moment = (NOW - timedelta(days=age)).timestamp()
    os.utime(file, (moment, moment))
    return file


@pytest.mark.parametrize(
    "suffixes",
    [
        ["audit.json.3.gz", "audit.json.2.gz", "audit.json.1"],
        ["audit.json-20261101.xz", "audit.json-20261108.bz2", "audit.json-20261115"],
        ["audit-20261101.json.gz", "audit.2.json", "audit-2026-11-15.json"],
    ],
)
def test_rotated_files_are_read_in_their_order(
    path: Path, listed: Callable[..., Listing], suffixes: list[str]
) -> None:
    path.write_text(line("now"))
    for age, suffix in zip((30, 20, 10), suffixes, strict=True):
        rotated(path, suffix, age, line(f"{age}-a"), line(f"{age}-b"))
    for foreign in ("audit.jsonx", "audit.json.bak", "audit.json.1.zip", "other.json.1", "audit"):
        rotated(path, foreign, 1, line("foreign"))
    code, removals, summary = listed()
    assert names(removals) == ["30-a", "30-b", "20-a", "20-b", "10-a", "10-b", "now"]
    assert (code, summary["files"], summary["skipped"]) == (0, 4, 0)


def test_a_file_that_is_being_compressed_is_read_once(
    path: Path, listed: Callable[..., Listing]
) -> None:
    path.write_text("")
    rotated(path, "audit.json.1", 1, line("1"))
    rotated(path, "audit.json.1.gz", 1, line("1"))
    assert names(listed()[1]) == ["1"]


def test_a_file_that_is_rotated_meanwhile_is_read_once(
    path: Path, listed: Callable[..., Listing], monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text(line("1"))
    really = history._rotated

    def rotate(name: str) -> list[str]:
        path.rename(f"{path}.1")
        path.write_text(line("2"))
        return really(name)

    monkeypatch.setattr(history, "_rotated", rotate)
    assert names(listed()[1]) == ["1"]


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (None, ["40", "8", "2", "0"]),
        ("3d", ["2", "0"]),
        ("72h", ["2", "0"]),
        ("4320m", ["2", "0"]),
        ("259200s", ["2", "0"]),
        ("2w", ["8", "2", "0"]),
        ((NOW - timedelta(days=3)).date().isoformat(), ["2", "0"]),
        ((NOW - timedelta(days=3)).isoformat(), ["2", "0"]),
        ((NOW - timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ"), ["2", "0"]),
    ],
    ids=["all", "days", "hours", "minutes", "seconds", "weeks", "date", "offset", "Z"],
)
def test_since(
    path: Path, listed: Callable[..., Listing], since: str | None, expected: list[str]
) -> None:
    def aged(days: int) -> str:
        return line(str(days), time=(NOW - timedelta(days=days)).isoformat())

    path.write_text(aged(0))
    rotated(path, "audit.json.1", 2, aged(8), aged(2))
    rotated(path, "audit.json.2", 40, aged(40))
    _, removals, summary = listed(since)
    assert names(removals) == expected
    assert summary["files"] == (3 if since is None else 2), "an older file isn't opened to the end"


@pytest.mark.parametrize("since", ["", "2", "2y", "-1d", "soon", "99999999w", "2026-13-01", "\x1b"])
def test_a_since_that_is_none(path: Path, since: str) -> None:
    path.write_text("")
    with pytest.raises(ConfigError, match=r"Cannot use --since .*; expected an age"):
        history.run(configured(path), since=since, image=None, as_json=True)


def test_one_image(path: Path, listed: Callable[..., Listing]) -> None:
    path.write_text(line("1") + line("2", image=OTHER) + line("3"))
    assert names(listed(image=OTHER)[1]) == ["2"]
    assert names(listed(image=IMAGE.upper())[1]) == ["1", "3"]
    assert listed(image="x")[2]["removals"] == 0


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(line()[:40] + "\n", id="half"),
        "x" * (history.MAX_LINE * 2) + "\n",
        "[" * 60000 + "\n",
        "null\n",
        "[]\n",
        "{}\n",
        '{"size": ' + "9" * 5000 + "}\n",
        line(size=-1),
        line(size="1"),
        line(size=True),
        line(size=2**63),
        line(latency=float("nan")),
        line(latency="1"),
        line(time="now"),
        line(time=5),
        line(time=NOW.replace(tzinfo=None).isoformat()),
        line(file=5),
        line(file="\ud800"),
        line(image="\x1b[31m"),
        line(trigger=""),
        line(state=["deleted"]),
    ],
)
def test_a_line_that_is_no_record_is_skipped_and_counted(
    path: Path, listed: Callable[..., Listing], bad: str
) -> None:
    path.write_text(line("1") + bad + "\n" + line("2"))
    code, removals, summary = listed()
    assert (code, names(removals), summary["skipped"]) == (0, ["1", "2"], 1)


def test_an_incomplete_last_line(path: Path, listed: Callable[..., Listing]) -> None:
    path.write_text(line("1") + line("2")[:-1])
    _, removals, summary = listed()
    assert (names(removals), summary["skipped"]) == (["1"], 1)


def test_a_rotated_file_that_cannot_be_read(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(line("now"))
    bad = rotated(path, "audit.json.9.gz", 9, *(line(str(number)) for number in range(5000)))
    bad.write_bytes(bad.read_bytes()[:-100])
    rotated(path, "audit.json.8", 8).write_bytes(b"")
    Path(f"{path}.7.gz").write_bytes(b"no gzip\n")
    Path(f"{path}.6.xz").write_bytes(b"no xz\n")
    Path(f"{path}.5").mkdir()
    os.mkfifo(f"{path}.4")
    Path(f"{path}.3").symlink_to(path)
    code = history.run(configured(path), since=None, image=None, as_json=True)
    out, err = capsys.readouterr()
    *_, now, summary = map(json.loads, out.splitlines())
    assert (code, now["name"], summary["unreadable"]) == (1, "now", 6)
    assert len(err.splitlines()) == 6
    assert all(each.startswith("glance-staging-watcher: Cannot read ") for each in err.splitlines())


def test_nothing_to_read(path: Path) -> None:
    for audit, cause in (
        (path, "No such file or directory; the service creates it"),
        (None, "audit_log is not set"),
        (path.parent / "missing" / "audit.json", "No such file or directory"),
    ):
        with pytest.raises(ConfigError, match=cause):
            history.run(configured(audit), since=None, image=None, as_json=True)
    path.mkdir()
    with pytest.raises(ConfigError, match="Not a regular file"):
        history.run(configured(path), since=None, image=None, as_json=True)


def test_the_table(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moment = "2026-11-25T00:11:40.121+02:00"
    hostile = os.fsdecode(b"a b\x1b[31m\xff")
    path.write_text(
        line(f"{IMAGE}.uc", time=moment)
        + line(hostile, time=moment, latency=None, trigger="sweep", size=0)
        + line(time=moment, latency=3601.26, trigger="recheck", state="absent", size=3 * 2**30)
        + "{half\n"
    )
    assert history.run(configured(path), since=None, image=None, as_json=False) == 0
    utc, quoted = "2026-11-24T22:11:40Z", r"'a\x20b\x1b[31m\udcff'"
    assert capsys.readouterr().out.splitlines() == [
        f"{'TIME':<20}       SIZE  {'FILE':<43}  STATE    TRIGGER        LATENCY",
        f"{utc}    4.0 KiB  {IMAGE + '.uc':<43}  deleted  notification    1.9 ms",
        f"{utc}        0 B  {quoted:<43}  deleted  sweep                -",
        f"{utc}    3.0 GiB  {IMAGE:<43}  absent   recheck       3601.3 s",
        "",
        "3 files removed, 3.0 GiB freed",
        "1 line skipped: incomplete, or not written by this program",
    ]


@pytest.mark.parametrize(("columns", "lines"), [(80, 2), (120, 1)])
def test_the_table_fits_the_terminal(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
    lines: int,
) -> None:
    path.write_text(line(f"{IMAGE}.qcow2"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    history.run(configured(path), since=None, image=None, as_json=False)
    out = capsys.readouterr().out.splitlines()
    assert max(map(len, out)) <= columns
    assert len(out) == 2 * lines + 2


def test_no_removals(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("")
    assert history.run(configured(path), since="1d", image=None, as_json=False) == 0
    assert capsys.readouterr().out == "0 files removed, 0 B freed\n"
