# SPDX-License-Identifier: Apache-2.0
"""What is built, once for all tests, and places to install it into."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.functional.host import new_id
from tests.services import Images
from tests.services.requirements import unavailable

SOURCE = Path(__file__).parents[2]


class Dist(NamedTuple):
    """Files of a release."""

    sdist: Path
    wheel: Path


class Site(NamedTuple):
    """A configuration with a database, and one file of residue beside that of a live image."""

    config_file: Path
    residue: Path
    live: Path


def needed(*programs: str) -> None:
    """Without one of these programs fail in CI and skip elsewhere."""
    if missing := [name for name in programs if not shutil.which(name)]:
        unavailable(f"not installed: {' '.join(missing)}")


def versioned() -> list[str]:
    """Paths of all files of the checkout that git knows."""
    if not (SOURCE / ".git").exists():
        pytest.skip("not a checkout of git")
    run = subprocess.run(
        ["git", "-C", SOURCE, "ls-files"], capture_output=True, text=True, check=True
    )
    return [path for path in run.stdout.splitlines() if (SOURCE / path).exists()]


@pytest.fixture(scope="session")
def build_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Callable[[Path], None]], Path]:
    """Builds into a directory of that name, once for all pytest-xdist workers; returns it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each worker has a directory of its own in it

    def build(name: str, into: Callable[[Path], None]) -> Path:
        directory, done = base / name, base / f"{name}.done"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(directory, ignore_errors=True)
                directory.mkdir()
                into(directory)
                done.touch()
        return directory

    return build


@pytest.fixture(scope="session")
def dist(build_once: Callable[[str, Callable[[Path], None]], Path]) -> Dist:
    """The sdist, and the wheel that is built of it."""

    def build(directory: Path) -> None:
        subprocess.run(
            [sys.executable, "-m", "build", "--outdir", directory, SOURCE],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    directory = build_once("dist", build)
    (sdist,), (wheel,) = directory.glob("*.tar.gz"), directory.glob("*.whl")
    return Dist(sdist, wheel)


def wheels(directory: Path, *requirements: str) -> Path:
    """Download what these need on Debian 13; the directory."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", f"--dest={directory}"),
            *("--python-version=3.13", "--only-binary=:all:", *requirements),
            "legacy-cgi",  # WebOb's, from Python 3.13 on; pip looks at the Python that runs it
        ],
        check=True,
    )
    return directory


def make_site(directory: Path, inside: str) -> Site:
    """Make a site in a directory that has the path ``inside`` for the program.

    Everything in it is writable for all users.
    """
    live, dead = new_id(), new_id()
    images = Images(f"sqlite:///{directory}/glance.sqlite")
    images.create_table()
    images.insert(live)
    images.insert(dead, deleted=True, status="deleted")
    images.close()
    (directory / "staging").mkdir()
    for name in (live, f"{dead}.qcow2"):
        (directory / "staging" / name).write_bytes(b"data")
    config_file = directory / "glance-api.conf"
    config_file.write_text(
        f"[DEFAULT]\nnode_staging_uri = file://{inside}/staging\n"
        f"[database]\nconnection = sqlite:///{inside}/glance.sqlite\n"
        "[staging_watcher]\nnotifications = false\n"
    )
    for path in (directory, directory / "staging", directory / "glance.sqlite"):
        path.chmod(0o777)
    return Site(config_file, directory / "staging" / f"{dead}.qcow2", directory / "staging" / live)
