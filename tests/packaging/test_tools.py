# SPDX-License-Identifier: Apache-2.0
"""What contributors use says the same everywhere, and the tree stays small."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import SOURCE, versioned


def test_bindep_names_the_packages_that_are_installed_for_the_tests() -> None:
    script = (SOURCE / "tools/install-services").read_text()
    checks = script.partition("missing() {")[2].partition("\n}")[0]
    listed = (SOURCE / "bindep.txt").read_text()
    assert set(re.findall(r"^(\S+) \[platform:dpkg test\]$", listed, re.MULTILINE)) == set(
        re.findall(r"\|\| echo (\S+)", checks)
    )


def test_tox_runs_each_python_that_is_classified() -> None:
    setup, tox = configparser.ConfigParser(), configparser.ConfigParser()
    setup.read(SOURCE / "setup.cfg")
    tox.read(SOURCE / "tox.ini")
    versions = re.findall(r"Python :: 3\.(\d+)", setup["metadata"]["classifiers"])
    assert set(re.findall(r"py3(\d+)", tox["tox"]["env_list"])) >= set(versions)


WORDS = [line.partition("->")[0] for line in (SOURCE / "tools/words.txt").read_text().splitlines()]


@pytest.mark.parametrize("words", [*WORDS, WORDS[0].capitalize(), "Plain words"])
def test_unwanted_words_are_found(words: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"A line.\n{words} are here.\n")
    run = subprocess.run(
        [SOURCE / "tools/check-words", "page.md"],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = words != "Plain words"
    assert (run.returncode != 0, "page.md:2" in run.stdout) == (found, found), run


def test_the_top_level_is_small() -> None:
    directories = {"benchmarks", "debian", "docs", "etc", "tests", "tools", "watcher"}
    assert {path.partition("/")[0] for path in versioned() if "/" in path} - {".ci"} == directories


def test_generated_pictures_and_results_are_small() -> None:
    generated = [
        path for path in versioned() if re.search(r"\.(svg|png|cast)$|results\.json$", path)
    ]
    assert len(generated) >= 9
    assert sum((SOURCE / path).stat().st_size for path in generated) < 300_000


def test_the_setup_of_the_demo_shows_that_it_goes_on(tmp_path: Path) -> None:
    """A line for each step, and dots while pip is at work; pip's exit code is that of make."""
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        (tmp_path / name).write_text((SOURCE / name).read_text())
    pip = tmp_path / "slow-pip"
    for code in (0, 7):
        (tmp_path / ".venv").mkdir()
        pip.write_text(f'sleep 2.5; echo "$@" >>{tmp_path}/asked; exit {code}\n')
        run = subprocess.run(
            ["make", "--silent", ".venv/.installed", "PYTHON=true", f"PIP=sh {pip}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (run.returncode == 0) == (code == 0)
        assert re.search(
            r"^Creating the Python environment .venv\n"
            r"Installing the program and its libraries, a minute or two \.{2,}\n",
            run.stderr,
        )
        assert (tmp_path / ".venv/.installed").exists() == (code == 0)
        shutil.rmtree(tmp_path / ".venv")
    (tmp_path / ".venv").mkdir()
    pip.write_text(f'echo "$@" >>{tmp_path}/asked\n')
    subprocess.run(
        ["make", "--silent", ".venv/.test", "PYTHON=true", f"PIP=sh {pip}"],
        cwd=tmp_path,
        check=True,
        timeout=60,
    )
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[-2:] == ["--editable .", "--editable .[docs,mysql,postgresql,test]"]


def test_make_deb_names_the_packages_that_a_minimal_debian_lacks(tmp_path: Path) -> None:
    """Without dpkg-dev, whose program lists what is missing."""
    for name in ("dirname", "mkdir", "realpath", "sh"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    run = subprocess.run(
        [SOURCE / "tools/build-deb", tmp_path / "dist"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.splitlines() == [
        "dpkg-checkbuilddeps is not installed",
        f"On Debian 13: apt-get build-dep --no-install-recommends {SOURCE}",
    ]
