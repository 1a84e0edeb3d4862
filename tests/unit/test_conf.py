# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from oslo_config import generator

from watcher import conf
from watcher.errors import ConfigError


def load(directory: Path, text: str) -> conf.Config:
    file = directory / "glance-api.conf"
    file.write_text(text)
    return conf.load(["--config-file", str(file)])


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", "/tmp/staging/"),
        ("[DEFAULT]\nnode_staging_uri = file:///srv/staging\n", "/srv/staging"),
        ("[DEFAULT]\nenabled_backends =\n", "/tmp/staging/"),
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
        ("[DEFAULT]\nenabled_backends = a:file\n", "its default depends on the version"),
        (
            "[DEFAULT]\nenabled_backends = a:file\n[backend_defaults]\n"
            "filesystem_store_datadir = /srv/images\n",
            "filesystem_store_datadir is not set",
        ),
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
        "absent_grace = 2592001",
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
    assert (options.sweep_interval, options.absent_grace) == (600, 86400)
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


@pytest.mark.parametrize(
    ("url", "parameters", "expected"),
    [
        ("mysql://u:p@h/", "database=glance", "mysql://u:p@h/?database=glance"),
        ("mysql://u:p@h/d?charset=utf8", "ssl_ca=/x", "mysql://u:p@h/d?charset=utf8&ssl_ca=%2Fx"),
        ("mysql://u:p?%40@h/d", "a=b", "mysql://u:p%3F%40@h/d?a=b"),
        ("no url", "a=b", "no url"),
    ],
)
def test_parameters_of_the_connection(
    tmp_path: Path, url: str, parameters: str, expected: str
) -> None:
    text = f"[database]\nconnection = {url}\nconnection_parameters = {parameters}\n"
    assert conf.database_url(load(tmp_path, text)) == expected


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
    assert sample.read_text() == (tmp_path / "sample").read_text(), "make sample updates it"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (
            "[DEFAULT]\nimage_cache_dir = /srv/cache\n"
            "node_staging_uri = file://$image_cache_dir/staging\n",
            "/srv/cache/staging",
        ),
        (
            "[task]\nwork_dir = /srv/work\n"
            "[DEFAULT]\nnode_staging_uri = file://${task.work_dir}/staging\n",
            "/srv/work/staging",
        ),
        (
            "[DEFAULT]\nenabled_backends = a:file\nlog_dir = /srv/log\n"
            "[os_glance_staging_store]\nfilesystem_store_datadir = $log_dir/../staging\n",
            "/srv/log/../staging",
        ),
    ],
)
def test_references_to_other_options(tmp_path: Path, text: str, path: str) -> None:
    assert conf.staging_path(load(tmp_path, text)) == path


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("[database]\nconnection = mysql://glance:top$ecret@h/x\n", "[database] connection"),
        ("[database]\nconnection = mysql://glance:${ecret.x}@h/x\n", "[database] connection"),
        ("[DEFAULT]\nsql_connection = mysql://glance:top$ecret@h/x\n", "[database] connection"),
        ("[DEFAULT]\ntransport_url = rabbit://g:top$ecret@h/\n", "[DEFAULT] transport_url"),
        (
            "[oslo_messaging_notifications]\ntransport_url = rabbit://g:top$ecret@h/\n",
            "[oslo_messaging_notifications] transport_url",
        ),
        ("[DEFAULT]\nnode_staging_uri = file://$nowhere/x\n", "[DEFAULT] node_staging_uri"),
    ],
)
def test_a_dollar_that_refers_to_nothing(tmp_path: Path, text: str, option: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    said = str(caught.value)
    assert said.startswith(f"Cannot use the configuration: {option} in ")
    assert f"{tmp_path}/glance-api.conf" in said and "write $$ for a $" in said
    assert "ecret" not in said and "nowhere" not in said
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("escaped", ["top$$ecret", r"top\$ecret"])
def test_a_dollar_of_a_password(tmp_path: Path, escaped: str) -> None:
    loaded = load(
        tmp_path,
        f"[DEFAULT]\ntransport_url = rabbit://g:{escaped}@h/\n"
        f"[database]\nconnection = mysql://g:{escaped}@h/x\n",
    )
    assert conf.database_url(loaded) == "mysql://g:top$ecret@h/x"


def test_a_wrong_value_of_an_option_that_the_command_line_has_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "[DEFAULT]\ndebug = maybe\n")
    where = f"[DEFAULT] debug in {tmp_path}/glance-api.conf: Invalid Boolean value: maybe"
    assert str(caught.value) == f"Cannot use the configuration: {where}"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("variable", ["OS_DEFAULT__TRANSPORT_URL", "OS_DATABASE__CONNECTION"])
def test_a_dollar_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "rabbit://g:top$ecret@h/")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "[DEFAULT]\n")
    said = str(caught.value)
    assert f" in the environment ({variable}) refers with $ to an option" in said
    assert "ecret" not in said


def test_a_wrong_value_in_the_environment_names_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_STAGING_WATCHER__ABSENT_GRACE", "-3")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "[staging_watcher]\nabsent_grace = 5\n")
    assert str(caught.value) == (
        "Cannot use the configuration: [staging_watcher] absent_grace in the environment "
        "(OS_STAGING_WATCHER__ABSENT_GRACE) is not valid: Should be greater than or equal to 0"
    )


def test_the_environment_and_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_STAGING_WATCHER__SWEEP_INTERVAL", "77")
    monkeypatch.setenv("OS_DATABASE__CONNECTION", "sqlite:///env")
    loaded = load(tmp_path, "[staging_watcher]\nabsent_grace = 5\n")
    assert conf.limits(loaded)[:2] == (77, 5)
    assert conf.database_url(loaded) == "sqlite:///env"
    (tmp_path / "glance-api.conf").write_text("[staging_watcher]\nabsent_grace = 6\n")
    assert conf.reload(loaded) == ["[staging_watcher] absent_grace"]
    assert conf.limits(loaded)[:2] == (77, 6)
    (tmp_path / "glance-api.conf").write_text("[staging_watcher]\nabsent_grace = bad\n")
    with pytest.raises(ConfigError, match=r"^Cannot use the changed configuration: \[staging_"):
        conf.reload(loaded)
    assert conf.limits(loaded)[:2] == (77, 6)


def directories(directory: Path, text: str) -> dict[str, str]:
    return {each.option: each.path for each in conf.other_directories(load(directory, text))}


MULTI = "[DEFAULT]\nenabled_backends = one:file, two:file, three:rbd\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"[glance_store] filesystem_store_datadir by default": "/var/lib/glance/images"}),
        ("[glance_store]\nstores = rbd\n", {}),
        (
            "[glance_store]\nfilesystem_store_datadir = /i\n",
            {"[glance_store] filesystem_store_datadir": "/i"},
        ),
        (
            "[glance_store]\nstores = rbd\nfilesystem_store_datadirs = /i:100\n",
            {"[glance_store] filesystem_store_datadirs": "/i"},
        ),
        (
            "[glance_store]\nstores = rbd\n[task]\nwork_dir = /w\n"
            "[DEFAULT]\nimage_cache_dir = /c\n",
            {"[task] work_dir": "/w", "[DEFAULT] image_cache_dir": "/c"},
        ),
        (
            f"{MULTI}[one]\nfilesystem_store_datadir = /1\n"
            "[two]\nfilesystem_store_datadirs = /2:x\n"
            "[three]\nfilesystem_store_datadir = /3\n"
            "[os_glance_tasks_store]\nfilesystem_store_datadir = /t\n",
            {
                "[one] filesystem_store_datadir": "/1",
                "[two] filesystem_store_datadirs": "/2:x",
                "[os_glance_tasks_store] filesystem_store_datadir": "/t",
            },
        ),
        (
            f"{MULTI}[one]\nfilesystem_store_datadir = /1\n",
            {
                "[one] filesystem_store_datadir": "/1",
                "[two] filesystem_store_datadir by default": "/var/lib/glance/images",
            },
        ),
        (
            f"{MULTI}[backend_defaults]\nfilesystem_store_datadir = /d\n",
            {"[backend_defaults] filesystem_store_datadir": "/d"},
        ),
        ("[glance_store]\nfilesystem_store_datadir = relative\n", {}),
    ],
)
def test_other_directories_of_glance(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    assert directories(tmp_path, text) == expected


def test_a_wrong_value_names_the_file_that_has_it(tmp_path: Path) -> None:
    first, second = tmp_path / "a.conf", tmp_path / "b.conf"
    first.write_text("[staging_watcher]\nsweep_interval = bad\n")
    second.write_text("[staging_watcher]\nabsent_grace = 1\n")
    with pytest.raises(ConfigError) as caught:
        conf.load(["--config-file", str(first), "--config-file", str(second)])
    assert f"[staging_watcher] sweep_interval in {first} is not valid: " in str(caught.value)
    assert "LocationInfo" not in str(caught.value)
