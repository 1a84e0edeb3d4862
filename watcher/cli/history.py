# SPDX-License-Identifier: Apache-2.0
"""List past removals from the audit log and its rotated files."""

import bz2
import datetime
import errno
import gzip
import json
import lzma
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

from oslo_config import cfg

from watcher.cli.jsonlines import name_fields, say_json
from watcher.cli.table import one_word
from watcher.cli.terminal import columns, say
from watcher.conf import DISTRIBUTION, GROUP
from watcher.errors import ConfigError
from watcher.telemetry.audit import UTC
from watcher.units import counted, human_size

MAX_LINE = 65536  # bytes; longer lines are skipped
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
NAME_WIDTH = 43  # columns: an id with Glance's longest ending; longer names push what follows
WIDTH = 20 + 2 + 9 + 2 + NAME_WIDTH + 2 + 7 + 2 + 12 + 2 + 8

_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Record(NamedTuple):
    """One removal.

    :param time: with its offset from UTC
    :param latency: seconds from the event; None in a sweep
    """

    time: datetime.datetime
    path: str
    image_id: str
    size: int
    trigger: str
    state: str
    latency: float | None


@dataclass
class Summary:
    """Counts of a listing.

    :param removals: listed records
    :param size: bytes on disk that they freed
    :param files: read
    :param skipped: lines without a record, as an incomplete one after a full disk
    :param unreadable: files
    """

    removals: int = 0
    size: int = 0
    files: int = 0
    skipped: int = 0
    unreadable: int = 0


def run(conf: cfg.ConfigOpts, *, since: str | None, image: str | None, as_json: bool) -> int:
    """List removals, the oldest first; 0, or 1 if a rotated file can't be read.

    :param since: an age as ``2d``, or a date; None: all
    :param image: id of an image; None: all
    :raises ConfigError: no audit is configured, or it can't be read, or an option is invalid
    """
    begin = None if since is None else parse_since(since)
    path = conf[GROUP].audit_log
    if not path:
        raise ConfigError(
            "No removals are recorded: [staging_watcher] audit_log is not set; name a file there"
        )
    summary = Summary()
    table = None if as_json else _Table()
    for record in _records(path, begin, summary):
        if image is not None and record.image_id.lower() != image.lower():
            continue
        summary.removals += 1
        summary.size += record.size
        if table is None:
            say_json("removal", _fields(record))
        else:
            table.add(record)
    if table is None:
        say_json("summary", vars(summary))
    else:
        table.end(summary)
    return 1 if summary.unreadable else 0


def parse_since(text: str) -> datetime.datetime:
    """Return the moment that an age or a date names; dates are local unless they say otherwise.

    :raises ConfigError: it is neither
    """
    with suppress(ValueError, OverflowError):
        if age := re.fullmatch(r"(\d{1,9})([smhdw])", text):
            return datetime.datetime.now(UTC) - datetime.timedelta(
                seconds=int(age[1]) * _UNITS[age[2]]
            )
        return datetime.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text)).astimezone()
    raise ConfigError(
        f"Cannot use --since {text!a}; expected an age as 90m, 12h, 2d or 1w, or a date as "
        "2026-11-25 or 2026-11-25T10:00"
    )


def _records(path: str, begin: datetime.datetime | None, summary: Summary) -> Iterator[Record]:
    """Yield the records of the rotated files, the oldest file first, then of the current one."""
    # The current one is opened first: if it's renamed meanwhile, it is read once nevertheless.
    try:
        current = _open(path)
    except FileNotFoundError:
        current = None
    except OSError as error:
        raise _unreadable(path, error) from None
    rotated = _rotated(path)
    if current is None and not rotated:
        raise ConfigError(
            f"Cannot read [staging_watcher] audit_log {path}: No such file or directory; the "
            "service creates it when it starts"
        )
    seen = set()
    if current is not None:
        seen.add(_inode(current))
    for name in rotated:
        try:
            with _open(name) as file:
                old = begin is not None and os.fstat(file.fileno()).st_mtime < begin.timestamp()
                if old or _inode(file) in seen:
                    continue
                seen.add(_inode(file))
                summary.files += 1
                yield from _records_of(_unpacked(file, name), begin, summary)
        except FileNotFoundError:
            continue
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            summary.unreadable += 1
            cause = getattr(error, "strerror", None) or error
            print(f"{DISTRIBUTION}: Cannot read {one_word(name)}: {cause}", file=sys.stderr)
    if current is not None:
        summary.files += 1
        with current:
            yield from _records_of(current, begin, summary)


def _records_of(
    file: IO[bytes], begin: datetime.datetime | None, summary: Summary
) -> Iterator[Record]:
    while line := file.readline(MAX_LINE):
        whole = line.endswith(b"\n")
        record = parse(line) if whole else None
        while line and not line.endswith(b"\n"):  # the rest of one that is too long
            line = file.readline(MAX_LINE)
        if record is not None:
            if begin is None or record.time >= begin:
                yield record
        elif not whole or line.strip():
            summary.skipped += 1


def parse(line: bytes) -> Record | None:
    """Return the record of a line; None: it is none."""
    try:
        fields = json.loads(line, parse_constant=_no_number)
        record = Record(
            datetime.datetime.fromisoformat(fields["time"]),
            *(fields[name] for name in ("file", "image", "size", "trigger", "state", "latency")),
        )
        os.fsencode(record.path)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    texts = (record.path, record.image_id, record.trigger, record.state)
    whole = (
        record.time.tzinfo is not None
        and all(isinstance(text, str) and text for text in texts)
        and all(re.fullmatch(r"[\w-]{1,64}", text, re.ASCII) for text in texts[1:])
        and type(record.size) is int
        and 0 <= record.size < 2**63
        and (record.latency is None or type(record.latency) in (int, float))
    )
    return record if whole else None


def _no_number(text: str) -> float:
    raise ValueError(text)


def _open(path: str) -> IO[bytes]:
    descriptor = os.open(path, READ_FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file")
    return os.fdopen(descriptor, "rb")


def _unpacked(file: IO[bytes], name: str) -> IO[bytes]:
    opener = _OPENERS.get(os.path.splitext(name)[1])
    return file if opener is None else opener(file)


def _inode(file: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def _rotated(path: str) -> list[str]:
    """Paths of the rotated files, as logrotate names them, those written first at the beginning:
    audit.json.1, audit.json.2.gz, audit.json-20261125, audit-20261125.json.gz."""
    directory, name = os.path.split(os.path.abspath(path))
    stem, extension = os.path.splitext(name)
    number = r"[.-]\d[\d.-]*"
    names = re.compile(
        rf"(?:{re.escape(name)}{number}|{re.escape(stem)}{number}{re.escape(extension)})"
        r"(?:\.gz|\.bz2|\.xz)?"
    )
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if names.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        moment = entry.stat(follow_symlinks=False).st_mtime_ns
                        found.append((moment, entry.path))
    except OSError as error:
        raise _unreadable(path, error) from None
    plain = {found_path for _, found_path in found}
    return [
        found_path
        for _, found_path in sorted(found)
        # a compressed one beside its source isn't complete yet
        if os.path.splitext(found_path)[0] not in plain
    ]


def _unreadable(path: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"Cannot read [staging_watcher] audit_log {path}: {error.strerror}; "
        "run as root or as the user that runs glance-api"
    )


def _fields(record: Record) -> dict[str, object]:
    return {
        "time": record.time.astimezone(UTC).isoformat(timespec="milliseconds"),
        "directory": os.fsencode(os.path.dirname(record.path)).decode("utf-8", "replace"),
        **name_fields(os.path.basename(record.path)),
        "image_id": record.image_id,
        "image_state": record.state,
        "size": record.size,
        "trigger": record.trigger,
        "latency": record.latency,
    }


class _Table:
    """Writes one line for each removal; at a narrow terminal two."""

    def __init__(self) -> None:
        self._folds = columns() < WIDTH
        self._begun = False

    def add(self, record: Record) -> None:
        """Write a removal."""
        if not self._begun:
            self._begun = True
            say(self._line("TIME", "SIZE", "FILE", "STATE", "TRIGGER", "LATENCY"))
        say(
            self._line(
                record.time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                human_size(record.size),
                one_word(os.path.basename(record.path)),
                record.state,
                record.trigger,
                "-" if record.latency is None else human_latency(record.latency),
            )
        )

    def end(self, summary: Summary) -> None:
        """Write the sums."""
        files = counted(summary.removals, "file")
        blank = "\n" if self._begun else ""
        say(f"{blank}{files} removed, {human_size(summary.size)} freed")
        if summary.skipped:
            lines = counted(summary.skipped, "line")
            say(f"{lines} skipped: incomplete, or not written by this program")

    def _line(self, *cells: str) -> str:
        time, size, name, state, trigger, latency = cells
        first = f"{time:<20}  {size:>9}  "
        last = f"{state:<7}  {trigger:<12}  {latency:>8}"
        if self._folds:
            return f"{first}{name}\n{' ' * len(first)}{last}"
        return f"{first}{name:<{NAME_WIDTH}}  {last}"


def human_latency(seconds: float) -> str:
    """Return a latency in milliseconds below one second, else in seconds."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"
