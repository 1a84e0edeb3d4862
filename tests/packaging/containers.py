# SPDX-License-Identifier: Apache-2.0
"""Images built by podman and containers run by buildah, in a storage of their own; for root only.

``podman run`` needs control groups of its own; ``buildah run --isolation chroot`` doesn't.
"""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.services import processes

C = TypeVar("C", bound="Container")

STOP_TIMEOUT = 30.0  # seconds
PROGRAMS = ("buildah", "podman", "setpriv", "tar")
CERTIFICATES = "/etc/ssl/certs"


class Store:
    """Images and containers below a directory, which ends with it.

    :param directory: an empty one, not on an overlay
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.run("buildah", "rm", "--all", check=False)
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        for place in [line.split()[1] for line in reversed(mounts)]:
            if place.startswith(f"{self._directory}/"):
                subprocess.run(["umount", place], check=True)

    def command(self, program: str, *arguments: str | Path) -> list[str | Path]:
        """Command line of podman or buildah with this storage."""
        root, runroot = self._directory / "root", self._directory / "run"
        return [program, "--root", root, "--runroot", runroot, *arguments]

    def run(self, program: str, *arguments: str | Path, check: bool = True) -> str:
        """Run podman or buildah; its standard output.

        :raises RuntimeError: it fails; with its output
        """
        run = subprocess.run(
            self.command(program, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and run.returncode:
            output = (run.stdout + run.stderr)[-4000:]
            raise RuntimeError(f"{program} {arguments[0]} failed:\n{output}")
        return run.stdout

    def import_tree(self, tree: Path, name: str) -> None:
        """Make an image of a root directory."""
        with subprocess.Popen(
            ["tar", "-C", tree, "--exclude=./var/cache/apt", "-c", "."], stdout=subprocess.PIPE
        ) as tar:
            subprocess.run(
                self.command("podman", "import", "--quiet", "-", name),
                stdin=tar.stdout,
                check=True,
                capture_output=True,
            )
        assert tar.returncode == 0

    def build(self, *arguments: str | Path) -> None:
        """Run ``podman build`` with the network and the package index of this machine."""
        index = {
            name: os.environ[name] for name in ("PIP_INDEX_URL", "PIP_CERT") if name in os.environ
        }
        self.run(
            *("podman", "build", "--isolation", "chroot", "--network", "host"),
            f"--volume={CERTIFICATES}:{CERTIFICATES}:ro",
            *(f"--build-arg={name}={value}" for name, value in index.items()),
            *arguments,
        )

    def config(self, image: str) -> Mapping[str, Any]:
        """Configuration of an image, as OCI has it."""
        (inspected,) = json.loads(self.run("podman", "image", "inspect", image))
        config: Mapping[str, Any] = inspected["Config"]
        return config


class Container:
    """A container that runs, with this machine's network.

    :param command: in place of the image's
    :param volumes: as of ``--volume``
    :param user: UID:GID in place of the image's
    :param confined: without capabilities and new privileges
    """

    def __init__(
        self,
        store: Store,
        image: str,
        command: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        volumes: Sequence[str] = (),
        user: str = "",
        confined: bool = False,
    ) -> None:
        self._store = store
        config = store.config(image)
        arguments = [*config.get("Entrypoint", ()), *(command or config.get("Cmd", ()))]
        drop = ["--cap-drop=ALL"] if confined else []
        self._name = store.run("buildah", "from", "--pull-never", *drop, image).strip()
        self._mount = Path(store.run("buildah", "mount", self._name).strip())
        self._log_path = self._mount.parent / "log"
        self._marker = self._mount.parent / "marker"
        self._marker.touch()
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig=KILL"),
                    *(["--no-new-privs"] if confined else []),
                    *store.command("buildah", "run", "--isolation=chroot"),
                    f"--user={user or config['User']}",
                    *(f"--env={name}={value}" for name, value in (env or {}).items()),
                    *(f"--volume={volume}" for volume in volumes),
                    *(self._name, "--", *arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            processes.send(signal.SIGKILL, *processes.family(self._process.pid))
        self._process.wait()
        self._store.run("buildah", "umount", self._name)
        self._store.run("buildah", "rm", self._name)

    @property
    def log(self) -> str:
        """What it wrote to its standard output and error."""
        return self._log_path.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Its program."""
        return processes.family(self._process.pid)[-1]

    def check_alive(self) -> None:
        """Fail if it has ended."""
        assert self._process.poll() is None, self.log

    def written(self) -> set[str]:
        """Paths on its root file system that were written since the start."""
        found = subprocess.run(
            ["find", self._mount, "-xdev", "-newer", self._marker, "-type", "f"],
            capture_output=True,
            text=True,
            check=True,
        )
        return {path.removeprefix(str(self._mount)) for path in found.stdout.split()}

    def wait(self) -> int:
        """Exit code, as soon as it ends by itself."""
        return self._process.wait(STOP_TIMEOUT)

    def stop(self) -> int:
        """Ask the program for its end; its exit code."""
        processes.send(signal.SIGTERM, self.pid)
        return self.wait()
