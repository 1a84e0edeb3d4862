# SPDX-License-Identifier: Apache-2.0
"""Which files are read, in which order, and which names in them have no effect."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread

import pytest
from oslo_config import cfg
from packaging.version import Version

from watcher import conf, config_files
from watcher.config_files import Unknown
from watcher.errors import ConfigError


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a file below a directory that stands for /etc, with its own name as a value in it."""
    monkeypatch.delenv("OS_GLANCE_CONFIG_DIR", raising=False)
    monkeypatch.setattr(config_files, "GLANCE_DIRECTORY", str(tmp_path / "glance"))
    own = tmp_path / "glance-staging-watcher"
    monkeypatch.setattr(config_files, "OWN_DIRECTORY", str(own))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def made(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"[DEFAULT]\nimage_cache_dir = {name}\n")
        return path

    return made


def test_glances_files_come_first_and_our_own_last(etc: Callable[[str], Path]) -> None:
    expected = [
        etc("glance/glance-image-import.conf"),
        etc("glance/glance-api.conf"),
        etc("home/.glance/glance.conf.d/a.conf"),
        etc("home/.glance/glance.conf.d/b.conf"),
        etc("home/.glance/glance-api.conf.d/a.conf"),
        etc("glance-staging-watcher/glance-staging-watcher.conf"),
        etc("glance-staging-watcher/glance-staging-watcher.conf.d/a.conf"),
    ]
    etc("glance-staging-watcher/glance-staging-watcher.conf.d/no.txt")
    while expected:
        assert config_files.read([]) == [str(path) for path in expected]
        loaded = conf.load([])
        last = expected.pop()
        assert str(last).endswith(loaded.image_cache_dir)
        last.unlink()
    assert config_files.read([]) == []
    assert conf.load([]).image_cache_dir is None


def test_the_directory_of_glance_may_be_another_one(
    etc: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    etc("glance/glance-api.conf")
    other = etc("other/glance-api.conf")
    monkeypatch.setenv("OS_GLANCE_CONFIG_DIR", f" {tmp_path}/other ")
    assert conf.load([]).image_cache_dir == "other/glance-api.conf"
    other.unlink()
    with pytest.raises(ConfigError, match=r"No such file: .*other/glance-api\.conf; name "):
        conf.load([])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config-file", "{etc}/my.conf"], ["my.conf"]),
        (["--debug", "--config-file={etc}/my.conf"], ["my.conf"]),
        (
            ["--config-dir", "{etc}/my.conf.d"],
            [
                "glance/glance-api.conf",
                "glance-staging-watcher/glance-staging-watcher.conf",
                "my.conf.d/a.conf",
            ],
        ),
        (
            ["--config-dir={etc}/my.conf.d", "--config-file", "{etc}/my.conf"],
            ["my.conf.d/a.conf", "my.conf"],
        ),
    ],
)
def test_files_of_the_command_line_replace_those(
    etc: Callable[[str], Path], tmp_path: Path, arguments: list[str], expected: list[str]
) -> None:
    for name in (
        *("glance/glance-api.conf", "home/.glance/glance.conf.d/a.conf"),
        "glance-staging-watcher/glance-staging-watcher.conf",
        "glance-staging-watcher/glance-staging-watcher.conf.d/a.conf",
        *("my.conf", "my.conf.d/a.conf"),
    ):
        etc(name)
    arguments = [each.format(etc=tmp_path) for each in arguments]
    assert config_files.read(arguments) == [str(tmp_path / name) for name in expected]
    assert conf.load(arguments).image_cache_dir == expected[-1]


def test_a_reload_sees_files_that_are_new_or_not_there_any_more(
    etc: Callable[[str], Path],
) -> None:
    etc("glance/glance-api.conf")
    loaded = conf.load([])
    new = etc("glance-staging-watcher/glance-staging-watcher.conf.d/new.conf")
    new.write_text("[staging_watcher]\nsweep_interval = 5\n")
    assert conf.reload(loaded) == ["[staging_watcher] sweep_interval"]
    assert conf.limits(loaded).sweep_interval == 5
    new.unlink()
    assert conf.reload(loaded) == ["[staging_watcher] sweep_interval"]
    assert conf.limits(loaded).sweep_interval == 600


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/etc/glance/glance-api.conf", True),
        ("/x/glance-image-import.conf", True),
        ("/etc/glance/glance-api.conf.d/10.conf", True),
        ("/etc/glance/glance.conf.d/10.conf", True),
        ("/first", True),
        ("/second", False),
        ("/etc/glance-staging-watcher/glance-staging-watcher.conf", False),
    ],
)
def test_which_files_are_glances(file: str, expected: bool) -> None:
    arguments = ["--config-file", "/first", "--config-file", "/second"]
    assert config_files.is_glances(file, arguments) is expected


@pytest.mark.skipif(
    Version(version("oslo.config")) < Version("10.7"),
    reason="its driver takes its own default timeout for no number",
)
def test_a_configuration_driver_of_oslo_config(tmp_path: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[staging_watcher]\nsweep_interval = 17\n")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        file = tmp_path / "glance-api.conf"
        file.write_text(
            "[DEFAULT]\nconfig_source = site\n[site]\ndriver = remote_file\n"
            f"uri = http://127.0.0.1:{server.server_port}/x.conf\n"
        )
        loaded = conf.load(["--config-file", str(file)])
        assert conf.limits(loaded).sweep_interval == 17
        server.shutdown()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (
            "driver = remote_file\nuri = http://u:s3cr3t@127.0.0.1:1/x.conf",
            "using remote_file driver",
        ),
        ("driver = remote_file\nuri = file:///x.conf", "host was required"),
        ("driver = nosuch", "found 'nosuch'"),
        ("", "no 'driver' is set"),
    ],
)
def test_a_configuration_driver_that_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, source: str, found: str
) -> None:
    """oslo.config goes on without what it says."""
    file = tmp_path / "glance-api.conf"
    file.write_text(f"[DEFAULT]\nconfig_source = site\n[site]\n{source}\n")
    with pytest.raises(ConfigError) as caught:
        conf.load(["--config-file", str(file)])
    said = str(caught.value)
    assert said.startswith("Cannot use the configuration: could not load configuration from 'site'")
    assert found in said and said.endswith("; correct that section, or [DEFAULT] config_source")
    assert "s3cr3t" not in said and "LocationInfo" not in said
    assert not caplog.records


KNOWN = ["sweep_interval", "max_absent_removals", "pool"]


@pytest.mark.parametrize(
    ("sections", "found"),
    [
        ({"staging_watcher": {"pool": ["x"]}, "store": {"poole": ["x"]}}, []),
        ({"DEFAULT": {"pool": ["another's"]}}, []),
        (
            {"staging_watcher": {"sweep_intervall": ["1"]}},
            [("[staging_watcher] sweep_intervall", "sweep_interval")],
        ),
        (
            {"staging_watcher": {"max-absent-removals": ["1"]}},
            [("[staging_watcher] max-absent-removals", "max_absent_removals")],
        ),
        ({"staging_watcher": {"colour": ["1"]}}, [("[staging_watcher] colour", None)]),
        ({"stagingwatcher": {"pool": ["x"]}}, [("[stagingwatcher]", "[staging_watcher]")]),
        ({"staging-watcher": {"pool": ["x"]}}, [("[staging-watcher]", "[staging_watcher]")]),
        (
            {"DEFAULT": {"sweep_interval": ["1"]}},
            [("[DEFAULT] sweep_interval", "[staging_watcher] sweep_interval")],
        ),
    ],
)
def test_names_that_oslo_config_passes_over(
    sections: config_files.Sections, found: list[tuple[str, str | None]]
) -> None:
    other = ("/a", {"database": {"connection": ["x"]}})
    made = list(config_files.unknown([other, ("/b", sections)], [], "staging_watcher", KNOWN))
    assert made == [Unknown("/b", *each) for each in found]


def test_variables_that_oslo_config_passes_over() -> None:
    names = ["OS_STAGING_WATCHER__POOL", "OS_STAGING_WATCHER__SWEEP_INTERVALL", "OS_X__Y"]
    assert list(config_files.unknown([], names, "staging_watcher", KNOWN)) == [
        Unknown(
            "the environment",
            "OS_STAGING_WATCHER__SWEEP_INTERVALL",
            "OS_STAGING_WATCHER__SWEEP_INTERVAL",
        )
    ]


def test_sections_are_found_in_any_case_as_oslo_config_does(tmp_path: Path) -> None:
    file = tmp_path / "x.conf"
    file.write_text("[Staging_Watcher]\nsweep_interval = 9\n")
    assert conf.load(["--config-file", str(file)]).staging_watcher.sweep_interval == 9
    assert config_files.parsed([str(file)]) == [
        (str(file), {"staging_watcher": {"sweep_interval": ["9"]}})
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", False),
        ("$known", False),
        ("${known}", False),
        ("${group.known}", False),
        ("$$unknown", False),
        (r"\$unknown", False),
        ("a $ alone, and $5", False),
        ("$unknown", True),
        ("$known/$unknown", True),
        ("${group.unknown}", True),
        ("${unknown.known}", True),
    ],
)
def test_unknown_references(value: str, expected: bool) -> None:
    made = cfg.ConfigOpts()
    made.register_opt(cfg.StrOpt("known", default="x"))
    made.register_opt(cfg.StrOpt("known", default="x"), group="group")
    made([], default_config_files=[], default_config_dirs=[])
    assert config_files.unknown_reference(made, value) is expected
