# SPDX-License-Identifier: Apache-2.0
"""The Debian package, installed and removed in a throwaway root."""

import re
import shutil
import subprocess
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

from tests.packaging.conftest import SOURCE, Dist, needed, site_in
from tests.packaging.throwaway import Root

NAME = "glance-staging-watcher"
NOBODY = 65534
CONFIG = f"/etc/{NAME}/{NAME}.conf"
UNIT = f"/lib/systemd/system/{NAME}.service"

# What dpkg and its triggers write for any package.
DPKG = re.compile(r"var/lib/dpkg/|var/log/|var/cache/|usr/sbin/policy-rc\.d$|run/|tmp/")


@pytest.fixture(scope="session")
def deb(dist: Dist, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, as ``make deb`` builds it."""
    needed("dpkg-buildpackage", "dh", "dh_virtualenv")
    directory = tmp_path_factory.mktemp("deb")
    build = subprocess.run(
        [SOURCE / "tools/build-deb", dist.sdist, directory],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stdout
    (made,) = directory.iterdir()
    return made


def test_it_installs_runs_and_goes_without_a_trace(deb: Path, root: Root, tmp_path: Path) -> None:
    shutil.copy(deb, root.path / "root")
    root.run("dpkg", "--install", f"/root/{deb.name}")
    installed = root.changed()

    assert root.run(NAME, "--version", user=NOBODY).strip() == version(NAME)
    site = site_in(root, tmp_path)
    said = root.run(NAME, "sweep", "--config-file", "/srv/site/glance-api.conf", user=NOBODY)
    assert "Cleaned 1 stale staging files, 1 ignored (0 errors)" in said
    assert site.live.exists() and not site.residue.exists()
    root.run(f"/usr/lib/{NAME}/bin/python", "-c", "import pymysql, psycopg, prometheus_client")
    shutil.rmtree(site.config_file.parent)
    assert root.changed() == installed, "running it wrote something"

    files = root.run("dpkg", "--listfiles", NAME).splitlines()
    for path in (UNIT, CONFIG, f"/usr/share/man/man8/{NAME}.8.gz", f"/usr/share/doc/{NAME}"):
        assert path in files
    assert f"/usr/share/bash-completion/completions/{NAME}" in files
    assert root.run("dpkg-query", "--show", "--showformat=${Conffiles}", NAME).split()[0] == CONFIG
    (command,) = re.findall("ExecStart=(.*)", (root.path / UNIT[1:]).read_text())
    assert command.startswith(
        f"/usr/bin/{NAME} --config-file /etc/glance/glance-api.conf --config-file {CONFIG}"
    )
    assert not list(root.path.glob(f"etc/systemd/system/*/{NAME}.service")), "it is enabled"

    root.run("dpkg", "--remove", NAME)
    left = root.changed()
    assert CONFIG[1:] in left
    assert not [path for path in left if path.startswith(("usr/", "lib/")) and NAME in path]
    root.run("dpkg", "--purge", NAME)
    assert {path for path in root.changed() if not DPKG.match(path)} == {f"root/{deb.name}"}


def test_its_version_and_programs_are_those_of_the_distribution() -> None:
    changelog = (SOURCE / "debian/changelog").read_text()
    assert changelog.startswith(f"{NAME} ({version(NAME)}) ")
    linked = {line.split()[1] for line in (SOURCE / "debian/links").read_text().splitlines()}
    programs = {
        each.name
        for each in entry_points(group="console_scripts")
        if each.dist and each.dist.name == NAME
    }
    assert linked == {f"usr/bin/{program}" for program in programs}
