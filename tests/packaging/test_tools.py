# SPDX-License-Identifier: Apache-2.0
"""What contributors use says the same wherever it is said."""

import configparser
import re

from tests.packaging.conftest import SOURCE


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
