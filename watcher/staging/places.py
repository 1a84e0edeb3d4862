# SPDX-License-Identifier: Apache-2.0
"""Whether the staging directory is a directory of its own, apart from Glance's other ones."""

import os
from collections.abc import Iterable
from typing import NamedTuple

from oslo_config import cfg

from watcher.conf import GlanceDirectory, other_directories, staging_directory
from watcher.errors import ConfigError
from watcher.staging.directory import Identity
from watcher.staging.mounts import Mount, mount_of, mounts


class Place(NamedTuple):
    """Where a directory lies.

    :param identity: device and inode; None when it isn't there
    :param above: identities of the directories above it, through links
    :param device: of its file system, as the table of mounts has it
    :param within: names from the root of its file system on, through links and bind mounts
    """

    identity: Identity | None
    above: frozenset[Identity]
    device: str
    within: tuple[str, ...]


def relation(staging: Place, other: Place) -> str | None:
    """How the staging directory relates to another one; None when they are apart."""
    one, two = staging.within, other.within
    same_device = staging.device == other.device
    if (same_device and one == two) or (staging.identity and staging.identity == other.identity):
        return "is"
    if other.identity in staging.above or (same_device and one[: len(two)] == two):
        return "lies in"
    if staging.identity in other.above or (same_device and two[: len(one)] == one):
        return "holds"
    return None


def place_of(path: str, table: Iterable[Mount]) -> Place:
    """Look at a directory, or at where it will be."""
    real = os.path.realpath(path)
    mount = mount_of(real, table)
    names = mount.root.split("/") + os.path.relpath(real, mount.point).split("/")
    above, parent = set(), real
    while parent != "/":
        parent = os.path.dirname(parent)
        above.add(_identity_at(parent))
    return Place(
        identity=_identity_at(real),
        above=frozenset(each for each in above if each is not None),
        device=mount.device,
        within=tuple(name for name in names if name not in ("", ".")),
    )


def own_staging_path(conf: cfg.ConfigOpts) -> str:
    """Path of the staging directory, which must hold nothing but staged files.

    :raises ConfigError: it can't be used, or is, holds or lies in another directory of Glance's
    """
    staging = staging_directory(conf)
    table = mounts()
    here = place_of(staging.path, table)
    for other in other_directories(conf):
        if (how := relation(here, place_of(other.path, table))) is not None:
            raise ConfigError(_refusal(staging, how, other))
    return staging.path


def _refusal(staging: GlanceDirectory, how: str, other: GlanceDirectory) -> str:
    return (
        f"The staging directory {staging.path} ({staging.option}) {how} {other.path} "
        f"({other.option}), whose files are no staged files; set one of the two options to "
        "another directory"
    )


def _identity_at(path: str) -> Identity | None:
    try:
        return Identity.of(os.stat(path))
    except OSError:
        return None
