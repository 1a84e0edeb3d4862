# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from oslo_config import cfg, generator

from watcher import conf
from watcher.errors import ConfigError


def load(directory: Path, text: str) -> cfg.ConfigOpts:
    file = directory / "glance-api.conf"
    file.write_text(text)
    return conf.load(["--config-file", str(file)])


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", "/tmp/staging/"),
        ("[DEFAULT]\nnode_staging_uri = file:///srv/staging\n", "/srv/staging"),
        ("[DEFAULT]\nenabled_backends =\n", "/tmp/staging/"),
        ("[DEFAULT]\nenabled_backends = a:file\n", "/var/lib/glance/os_glance_staging_store"),
        (
            "[DEFAULT]\nenabled_backends = a:file, b:rbd\nnode_staging_uri = http://nowhere\n"
            "[os_glance_staging_store]\nfilesystem_store_datadir = /srv/staging/\n",
            "/srv/staging/",
        ),
    ],
)
def test_staging_path(tmp_path: Path, text: str, path: str) -> None:
    assert conf.staging_path(load(tmp_path, text)) == path


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[DEFAULT]\nnode_staging_uri = http://host/x\n", "Unexpected scheme in staging store"),
        ("[DEFAULT]\nnode_staging_uri = /srv/staging\n", "Unexpected scheme in staging store"),
        ("[DEFAULT]\nnode_staging_uri = file://srv/staging\n", "no absolute directory"),
        ("[DEFAULT]\nnode_staging_uri = file:///\n", "no absolute directory"),
        (
            "[DEFAULT]\nenabled_backends = a:file\n"
            "[os_glance_staging_store]\nfilesystem_store_datadir =\n",
            "no absolute directory",
        ),
    ],
)
def test_no_staging_path(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        conf.staging_path(load(tmp_path, text))


@pytest.mark.parametrize(
    "line",
    [
        "sweep_interval = 0",
        "sweep_interval = 86401",
        "sweep_interval = soon",
        "absent_grace = -1",
        "absent_grace = 86401",
        "max_absent_removals = -1",
        "notifications = perhaps",
    ],
)
def test_values_out_of_bounds(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=line.partition(" ")[0]) as caught:
        load(tmp_path, f"[staging_watcher]\n{line}\n")
    assert "\n" not in str(caught.value)


def test_defaults(tmp_path: Path) -> None:
    options = load(tmp_path, "").staging_watcher
    assert (options.sweep_interval, options.absent_grace) == (600, 60)
    assert (options.max_absent_removals, options.notifications) == (1000, True)
    assert options.topics is None
    assert options.pool.startswith("glance-staging-watcher-")


@pytest.mark.parametrize(
    "text",
    [
        "[database]\nconnection = sqlite:///x\n",
        "[DEFAULT]\nsql_connection = sqlite:///x\n",
        "[sql]\nconnection = sqlite:///x\n",
    ],
)
def test_the_database_by_any_of_its_names(tmp_path: Path, text: str) -> None:
    assert conf.database_url(load(tmp_path, text)) == "sqlite:///x"


def test_no_database(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="connection is not set"):
        conf.database_url(load(tmp_path, ""))


@pytest.mark.parametrize("text", ["no section\n", "[DEFAULT\n", "[DEFAULT]\n= x\n"])
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"glance-api\.conf") as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_files_are_read_in_order_and_a_directory_last(tmp_path: Path) -> None:
    first, second = tmp_path / "a.conf", tmp_path / "b.conf"
    first.write_text("[DEFAULT]\nnode_staging_uri = file:///one\n[database]\nconnection = x\n")
    second.write_text("[DEFAULT]\nnode_staging_uri = file:///two\n")
    files = ["--config-file", str(first), "--config-file", str(second)]
    loaded = conf.load(files)
    assert conf.staging_path(loaded) == "/two"
    assert conf.database_url(loaded) == "x"
    directory = tmp_path / "conf.d"
    directory.mkdir()
    (directory / "c.conf").write_text("[DEFAULT]\nnode_staging_uri = file:///three\n")
    assert conf.staging_path(conf.load([*files, "--config-dir", str(directory)])) == "/three"


def test_the_sample_is_current(tmp_path: Path) -> None:
    sample = Path(__file__).parents[2] / "etc/glance-staging-watcher.conf.sample"
    generator.main(
        ["--namespace", "glance-staging-watcher", "--output-file", str(tmp_path / "sample")]
    )
    assert sample.read_text() == (tmp_path / "sample").read_text(), "make sample writes it anew"


def test_a_wrong_value_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "[staging_watcher]\nsweep_interval = bad\n")
    where = f"Value for option sweep_interval in {tmp_path}/glance-api.conf is not valid: "
    assert where in str(caught.value)
    assert "LocationInfo" not in str(caught.value)
