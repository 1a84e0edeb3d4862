# SPDX-License-Identifier: Apache-2.0
"""The sdist and the wheel, each installed into an empty environment."""

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from tests.packaging.conftest import SOURCE, Dist, make_site, versioned

NAME = "glance-staging-watcher"
NOT_IN_SDIST = {".gitignore", ".ci/run"}
TEST_TOOLS = {"pytest", "hypothesis", "mypy", "ruff", "build", "ansible-core", "glance"}
DATA = {
    "share/man/man8/glance-staging-watcher.8",
    "share/man/man8/glance-staging-watcher-status.8",
    "share/bash-completion/completions/glance-staging-watcher",
    "share/fish/vendor_completions.d/glance-staging-watcher.fish",
    "share/zsh/site-functions/_glance-staging-watcher",
    "share/glance-staging-watcher/glance-staging-watcher.conf.sample",
    "share/glance-staging-watcher/glance-staging-watcher.service",
    "share/glance-staging-watcher/rabbitmq-policy.json",
}


def test_the_sdist_has_all_that_is_versioned(dist: Dist) -> None:
    with tarfile.open(dist.sdist) as archive:
        packed = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert set(versioned()) - packed == NOT_IN_SDIST
    assert not [name for name in packed if name.endswith(".pyc")]


def test_the_wheel_has_the_program_and_no_tests(dist: Dist) -> None:
    with zipfile.ZipFile(dist.wheel) as archive:
        files = archive.namelist()
    prefix = f"glance_staging_watcher-{version(NAME)}"
    assert {name.partition("/")[0] for name in files} == {
        *("watcher", f"{prefix}.dist-info", f"{prefix}.data")
    }
    assert not [name for name in files if "demo" in name or "tools" in name]
    modules = {str(path.relative_to(SOURCE)) for path in (SOURCE / "watcher").rglob("*.py")}
    assert {name for name in files if name.endswith(".py")} == modules
    assert f"{prefix}.dist-info/licenses/LICENSE" in files


def test_both_install_and_run_in_an_empty_environment(dist: Dist, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    programs = environment / "bin"

    def run(program: str, *arguments: str) -> str:
        run = subprocess.run(
            [programs / program, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run
        return run.stdout

    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    for place, package in dist._asdict().items():
        run("pip", "install", "--quiet", str(package))  # the second time without the libraries
        check_installed(run, tmp_path / place)
        for name in DATA:
            assert (environment / name).is_file(), name
        run("pip", "uninstall", "--quiet", "--yes", NAME)
        assert not any((environment / name).exists() for name in DATA)


def check_installed(run: Callable[..., str], place: Path) -> None:
    """It is whole, and does its work in that directory."""
    run("pip", "check")
    assert not TEST_TOOLS & {
        line.partition("==")[0].lower() for line in run("pip", "freeze", "--all").splitlines()
    }
    assert run(NAME, "--version").strip() == version(NAME)
    assert "usage: glance-staging-watcher" in run(NAME, "--help")
    assert "upgrade check" in run(f"{NAME}-status", "--help")
    place.mkdir()
    site = make_site(place, str(place))
    assert run(NAME, "sweep", "--config-file", str(site.config_file)).startswith(
        "Cleaned 1 stale staging file, 1 ignored (0 errors); "
    )
    assert site.live.exists() and not site.residue.exists()
    assert "[staging_watcher]" in run(
        "oslo-config-generator", "--namespace", "glance-staging-watcher"
    )
