# SPDX-License-Identifier: Apache-2.0
"""Environments with a Glance release each, made by the Makefile."""

import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HERE = Path(__file__).parent
TIMEOUT = 180.0  # seconds for one command


@dataclass(frozen=True)
class Environment:
    """A Python environment that holds Glance.

    :param name: of the release it holds: current or oldest
    """

    name: str

    @property
    def directory(self) -> Path:
        """Where it is."""
        return HERE.parents[1] / f".venv-glance-{self.name}"

    @property
    def python(self) -> str:
        """Its interpreter."""
        path = self.directory / "bin/python"
        if not path.exists():
            raise FileNotFoundError(f"{path}: run make acceptance")
        return str(path)

    @cached_property
    def version(self) -> str:
        """Version of Glance."""
        code = "from importlib.metadata import version; print(version('glance'))"
        return self.run(self.python, "-c", code).strip()

    def variables(self) -> dict[str, str]:
        """Environment variables of its programs."""
        return {
            "PATH": f"{self.directory / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
        }

    def inside(self, script: str) -> list[str]:
        """Command that runs one of our scripts in it."""
        return [self.python, str(HERE / "inside" / script)]

    def manage(self, config_file: Path, *arguments: str) -> str:
        """Run glance-manage; its output."""
        program = str(self.directory / "bin/glance-manage")
        return self.run(program, "--config-file", str(config_file), *arguments)

    def run(self, *command: str) -> str:
        """Run a program of it; its output. RuntimeError with all it said when it fails."""
        done = subprocess.run(
            command,
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command} failed:\n{done.stdout}{done.stderr}")
        return done.stdout
