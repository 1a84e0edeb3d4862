# SPDX-License-Identifier: Apache-2.0
"""The Containerfile, carried out in a throwaway root in place of its base image.

So all is proved but that the base image has what Debian's root has here: a shell and ``python``.
"""

import io
import json
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from tests.packaging.conftest import SOURCE, site_in
from tests.packaging.throwaway import Root

Step = tuple[str, str]


@pytest.fixture
def steps() -> list[Step]:
    """Its instructions with their values."""
    parser = DockerfileParser(fileobj=io.BytesIO((SOURCE / "Containerfile").read_bytes()))
    return [
        (step["instruction"], step["value"])
        for step in parser.structure
        if step["instruction"] != "COMMENT"
    ]


def copy(root: Root, value: str) -> None:
    """Carry out ``COPY``; from a stage before is where it is already."""
    *names, target = shlex.split(value)
    if names[0].startswith("--from="):
        assert names[1:] == [target] and (root.path / target[1:]).exists()
        return
    for name in names:
        source, place = SOURCE / name, root.path / target[1:]
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            assert target.endswith("/")
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)


def test_it_builds_and_runs(steps: list[Step], root: Root, tmp_path: Path) -> None:
    (root.path / "usr/bin/python").unlink(missing_ok=True)
    (root.path / "usr/bin/python").symlink_to("python3")
    user, program = "0:0", ""
    for instruction, value in steps:
        match instruction:
            case "ARG":
                image = value.removeprefix("PYTHON_IMAGE=")
                assert image.partition(":")[0] == "docker.io/library/python"
            case "FROM":
                assert value.split()[0] == "${PYTHON_IMAGE}"
            case "COPY":
                copy(root, value)
            case "RUN":
                root.run("/bin/sh", "-c", value)
            case "USER":
                user = value
            case "ENTRYPOINT":
                (program,) = json.loads(value)
            case _:
                pytest.fail(f"not proved: {instruction} {value}")
    assert user == "42415:42415", "Kolla's glance"
    uid = int(user.partition(":")[0])
    assert root.run(program, "--version", user=uid).strip() == version("glance-staging-watcher")
    site = site_in(root, tmp_path)
    said = root.run(program, "sweep", "--config-file", "/srv/site/glance-api.conf", user=uid)
    assert "Cleaned 1 stale staging file, 1 ignored (0 errors)" in said
    assert site.live.exists() and not site.residue.exists()
    root.run(str(Path(program).with_name("python")), "-c", "import pymysql, psycopg")
