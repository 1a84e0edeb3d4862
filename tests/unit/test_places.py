# SPDX-License-Identifier: Apache-2.0
"""The staging directory is apart from Glance's other directories, however they are reached."""

import os
from pathlib import Path

import pytest

from watcher import conf
from watcher.errors import ConfigError
from watcher.staging import places
from watcher.staging.directory import Identity
from watcher.staging.mounts import Mount, mounts
from watcher.staging.places import Place, own_staging_path, place_of, relation

ROOT, SRV, IMAGES, OTHER = (Identity(1, inode) for inode in range(2, 6))


def place(identity: Identity | None, *above: Identity, within: str, device: str = "8:1") -> Place:
    return Place(identity, frozenset(above), device, tuple(within.split("/")[1:]))


@pytest.mark.parametrize(
    ("staging", "other", "expected"),
    [
        (place(SRV, ROOT, within="/srv/s"), place(IMAGES, ROOT, within="/srv/i"), None),
        (place(IMAGES, ROOT, within="/srv/i"), place(IMAGES, ROOT, within="/srv/i"), "is"),
        # by its inode alone, as of two file systems that show the same directory
        (place(IMAGES, within="/a", device="0:1"), place(IMAGES, within="/b", device="0:2"), "is"),
        # a name that begins like another one
        (place(SRV, ROOT, within="/i-staging"), place(IMAGES, ROOT, within="/i"), None),
        (place(SRV, ROOT, IMAGES, within="/i/s"), place(IMAGES, ROOT, within="/i"), "lies in"),
        (place(IMAGES, ROOT, within="/i"), place(SRV, ROOT, IMAGES, within="/i/s"), "holds"),
        # neither is there yet
        (place(None, ROOT, within="/i"), place(None, ROOT, within="/i"), "is"),
        (place(None, ROOT, within="/i/s"), place(None, ROOT, within="/i"), "lies in"),
        (place(None, ROOT, within="/s"), place(None, ROOT, within="/i"), None),
        # a bind mount of a directory below: what lies above it there can't be seen here
        (place(OTHER, ROOT, within="/i/x/s"), place(IMAGES, ROOT, within="/i"), "lies in"),
        (
            place(OTHER, ROOT, within="/i/x", device="8:2"),
            place(IMAGES, ROOT, within="/i", device="8:1"),
            None,
        ),
    ],
)
def test_relations(staging: Place, other: Place, expected: str | None) -> None:
    assert relation(staging, other) == expected


def test_a_place_knows_the_directories_above_it(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    place = place_of(str(tmp_path / "a" / "not" / "there"), [])
    above = [os.stat(path) for path in (tmp_path / "a", tmp_path, "/")]
    known = {(status.st_dev, status.st_ino) for status in above}
    assert place.identity is None and place.above >= known


def test_a_place_is_that_below_a_bind_mount() -> None:
    table = [
        Mount("1", "8:1", "/", "/", "ext4"),
        Mount("2", "8:2", "/data/glance", "/nonexistent/glance", "xfs"),
    ]
    assert place_of("/nonexistent/glance/staging/", table)[2:] == (
        "8:2",
        ("data", "glance", "staging"),
    )
    assert place_of("/nonexistent", table)[2:] == ("8:1", ("nonexistent",))


def loaded(directory: Path, staging: Path, option: str, value: object) -> conf.Config:
    group, name = option.split()
    file = directory / "glance-api.conf"
    file.write_text(f"[DEFAULT]\nnode_staging_uri = file://{staging}\n{group}\n{name} = {value}\n")
    return conf.load(["--config-file", str(file)])


OPTIONS = pytest.mark.parametrize(
    "option",
    [
        "[DEFAULT] image_cache_dir",
        "[task] work_dir",
        "[glance_store] filesystem_store_datadir",
        "[glance_store] filesystem_store_datadirs",
        "[backend_defaults] filesystem_store_datadir",
        "[os_glance_tasks_store] filesystem_store_datadir",
    ],
)


@OPTIONS
@pytest.mark.parametrize(
    ("staging", "other", "how"),
    [
        ("d", "d", "is"),
        ("d/", "d", "is"),
        ("link", "d", "is"),
        ("d", "link", "is"),
        ("d/sub", "link", "lies in"),
        ("link/sub", "d", "lies in"),
        ("d/not/there", "d", "lies in"),
        ("d", "link/sub", "holds"),
        ("not-there", "not-there/either", "holds"),
    ],
)
def test_a_directory_that_is_not_apart(
    tmp_path: Path, option: str, staging: str, other: str, how: str
) -> None:
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("d")
    made = loaded(tmp_path, tmp_path / staging, option, f"{tmp_path}/{other}")
    with pytest.raises(ConfigError) as caught:
        own_staging_path(made)
    said = str(caught.value)
    assert f"([DEFAULT] node_staging_uri) {how} " in said and f"({option})" in said
    assert "\n" not in said


@OPTIONS
@pytest.mark.parametrize(
    ("staging", "other"),
    [("a", "b"), ("a", "aa"), ("d/staging", "d/images"), ("a", ""), ("none/a", "none/b")],
)
def test_a_directory_of_its_own(tmp_path: Path, option: str, staging: str, other: str) -> None:
    for name in ("a", "b", "aa", "d/images"):
        (tmp_path / name).mkdir(parents=True)
    value = f"{tmp_path}/{other}" if other else ""
    made = loaded(tmp_path, tmp_path / staging, option, value)
    assert own_staging_path(made) == f"{tmp_path}/{staging}"


def test_glances_own_defaults_are_apart(tmp_path: Path) -> None:
    file = tmp_path / "glance-api.conf"
    file.write_text("")
    assert own_staging_path(conf.load(["--config-file", str(file)])) == "/tmp/staging/"


def test_stores_of_several(tmp_path: Path) -> None:
    file = tmp_path / "glance-api.conf"
    text = (
        "[DEFAULT]\nenabled_backends = one:file, two:rbd\n"
        f"[one]\nfilesystem_store_datadir = {tmp_path}/images\n"
        f"[two]\nfilesystem_store_datadir = {tmp_path}/staging\n"
        f"[os_glance_staging_store]\nfilesystem_store_datadir = {tmp_path}/"
    )
    file.write_text(text + "staging\n")
    own_staging_path(conf.load(["--config-file", str(file)]))
    file.write_text(text + "images\n")
    with pytest.raises(ConfigError, match=r"\(\[one\] filesystem_store_datadir\)"):
        own_staging_path(conf.load(["--config-file", str(file)]))


def test_a_bind_mount_of_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table alone says that what is mounted here lies in the other directory."""
    for name in ("images", "mounted"):
        (tmp_path / name).mkdir()
    real = os.path.realpath(tmp_path)
    below = place_of(real, mounts())
    table = [
        *mounts(),
        Mount("9", below.device, "/" + "/".join((*below.within, "images", "x")),
              f"{real}/mounted", "ext4"),
    ]  # fmt: skip
    monkeypatch.setattr(places, "mounts", lambda: table)
    option = "[glance_store] filesystem_store_datadir"
    made = loaded(tmp_path, tmp_path / "mounted", option, tmp_path / "images")
    with pytest.raises(ConfigError, match="lies in"):
        own_staging_path(made)
