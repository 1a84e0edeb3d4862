# SPDX-License-Identifier: Apache-2.0
"""Checks of the staging directory: may this user remove files in it, and do file events come."""

import array
import errno
import fcntl
import os
import pwd
import shlex
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from oslo_config import cfg

from watcher.checks.result import Check, Result
from watcher.errors import ConfigError
from watcher.staging.directory import Staging
from watcher.staging.mounts import UNKNOWN, may_be_shared, mount_type, private_tmp
from watcher.staging.places import own_staging_path
from watcher.triggers.directory_watch import DirectoryWatch
from watcher.workqueue import WorkQueue

INOTIFY = Path("/proc/sys/fs/inotify")

_RUN = "run as the user that runs glance-api"
_CORRECT = "correct [os_glance_staging_store] filesystem_store_datadir or node_staging_uri"

# from linux/fs.h
_FS_IOC_GETFLAGS = 0x80086601
_FS_IMMUTABLE_FL = 0x10
_FS_APPEND_FL = 0x20


class Access(NamedTuple):
    """What decides whether a user may remove files in a directory.

    :param writable: the kernel's answer for this process, capabilities and ACLs included
    :param frozen: immutable, or append-only
    :param owner: its user id
    :param user: effective user id of this process
    """

    writable: bool
    read_only: bool
    frozen: bool
    sticky: bool
    owner: int
    user: int


def checks(conf: cfg.ConfigOpts) -> Iterator[Check]:
    """Look at the directory; nothing in it is changed."""
    try:
        staging = Staging(own_staging_path(conf))
    except ConfigError as error:
        yield Check("directory", Result.FAILURE, str(error), "correct it in glance-api.conf")
        return
    try:
        with staging:
            access = access_to(staging)
            kind = mount_type(staging.descriptor)
            watch_error = _try_to_watch(staging)
    except FileNotFoundError:
        yield user(os.geteuid(), None)
        yield missing(staging.path, private_tmp(staging.path))
        return
    except OSError as error:
        yield user(os.geteuid(), None)
        yield Check(
            "directory",
            Result.FAILURE,
            f"{staging.path} can't be read: {error.strerror}",
            _CORRECT if isinstance(error, NotADirectoryError) else _RUN,
        )
        return
    yield user(access.user, access.owner)
    yield Check("directory", Result.OK, f"{staging.path} can be read")
    yield removal(access)
    yield file_system(kind)
    yield file_events(watch_error, _limits())


def missing(path: str, never: str | None) -> Check:
    """Whether the directory may still appear.

    :param never: why it can't, and what to do
    """
    if never is not None:
        cause, _, remedy = never.partition("; ")
        return Check("directory", Result.FAILURE, cause, remedy)
    return Check(
        "directory",
        Result.WARNING,
        f"{path} does not exist",
        "nothing, if this host's Glance has not staged anything yet: it makes the directory; "
        f"else {_CORRECT}",
    )


def user(number: int, owner: int | None) -> Check:
    """Whether the answers are those that the service would get.

    :param number: effective user id of this process
    :param owner: of the directory, if it is there
    """
    if number == 0 and owner != 0:
        name = "glance" if owner is None else user_name(owner)
        whose = "the service's user" if owner is None else f"{name}, who owns the directory,"
        return Check(
            "user",
            Result.WARNING,
            f"runs as root; the answers may be others for {whose}",
            f"run it as the user of the service: runuser -u {name} -- {shlex.join(sys.argv)}",
        )
    return Check("user", Result.OK, f"runs as {user_name(number)}")


def removal(access: Access) -> Check:
    """Whether files can be removed, as far as that shows without trying."""
    owner = user_name(access.owner)
    if access.read_only:
        return Check(
            "removal",
            Result.FAILURE,
            "the file system is mounted read-only",
            "mount it read-write here; a systemd unit needs the directory in ReadWritePaths",
        )
    if access.frozen:
        return Check(
            "removal",
            Result.FAILURE,
            "the directory is immutable or append-only",
            "chattr -i -a on the directory",
        )
    if not access.writable:
        return Check(
            "removal",
            Result.FAILURE,
            f"{user_name(access.user)} may not remove files: the directory belongs to {owner}",
            _RUN,
        )
    if access.sticky and access.user not in (0, access.owner):
        return Check(
            "removal",
            Result.WARNING,
            f"the sticky bit lets {user_name(access.user)} remove its own files only",
            f"{_RUN}, or chmod -t on the directory",
        )
    return Check("removal", Result.OK, "files can be removed")


def file_system(kind: str) -> Check:
    """Whether file events report all that is written there."""
    if may_be_shared(kind):
        return Check(
            "file_system",
            Result.WARNING,
            "type unknown, treated as a network file system"
            if kind == UNKNOWN
            else f"{kind} is shared: no file event reports what other hosts write",
            "nothing, if each host has a directory of its own there; else notifications and "
            "sweeps do the work: keep [staging_watcher] sweep_interval short",
        )
    return Check("file_system", Result.OK, f"{kind}, local")


def file_events(error: OSError | None, limits: str) -> Check:
    """Whether the kernel gives one more watch.

    :param error: of the attempt to watch the directory
    :param limits: the kernel's, for the operator to read
    """
    if error is None:
        return Check("file_events", Result.OK, f"the directory can be watched ({limits})")
    text = error.strerror or str(error)
    if error.errno in (errno.EMFILE, errno.ENOSPC):
        name = "max_user_instances" if error.errno == errno.EMFILE else "max_user_watches"
        return Check(
            "file_events",
            Result.WARNING,
            f"the directory can't be watched: {text} ({limits})",
            f"raise fs.inotify.{name} by a file in /etc/sysctl.d and sysctl --system",
        )
    return Check(
        "file_events",
        Result.WARNING,
        f"the directory can't be watched: {text}",
        "nothing is lost, sweeps and notifications go on; watching needs read permission",
    )


def user_name(number: int) -> str:
    """Name of a user, or the number of one without a name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def access_to(staging: Staging) -> Access:
    """Look at an open staging directory.

    :raises OSError: it can't be looked at
    """
    descriptor = staging.descriptor
    status = os.fstat(descriptor)
    return Access(
        writable=os.access(".", os.W_OK | os.X_OK, dir_fd=descriptor),
        read_only=bool(os.statvfs(descriptor).f_flag & os.ST_RDONLY),
        frozen=_is_frozen(descriptor),
        sticky=bool(status.st_mode & stat.S_ISVTX),
        owner=status.st_uid,
        user=os.geteuid(),
    )


def _is_frozen(descriptor: int) -> bool:
    flags = array.array("L", [0])
    with suppress(OSError):  # not all file systems have such flags
        fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, flags)
    return bool(flags[0] & (_FS_IMMUTABLE_FL | _FS_APPEND_FL))


def _try_to_watch(staging: Staging) -> OSError | None:
    events = DirectoryWatch(WorkQueue())
    try:
        events.follow(staging)
    except OSError as error:
        return error
    finally:
        events.stop()
    return None


def _limits() -> str:
    texts = []
    for name in ("max_user_instances", "max_user_watches"):
        with suppress(OSError):
            texts.append(f"{name} = {(INOTIFY / name).read_text().strip()}")
    return ", ".join(texts)
