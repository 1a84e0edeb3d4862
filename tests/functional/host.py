# SPDX-License-Identifier: Apache-2.0
"""A host with a Glance on it, as far as the watcher can see."""

import os
import time
import uuid
from pathlib import Path
from typing import Any

from oslo_config import cfg

from tests.functional.program import PreloadedProgram, Program
from tests.services import Images
from tests.services.waiting import wait_for
from watcher.triggers.transport import messaging

GONE_TIMEOUT = 20.0  # seconds


def new_id() -> str:
    """An image id."""
    return str(uuid.uuid4())


class Host:
    """A staging directory, a configuration, and the programs that run on it.

    :param directory: for all files of the host
    :param images: Glance's table
    """

    #: how it starts the program
    program: type[Program] = PreloadedProgram

    def __init__(self, directory: Path, images: Images, **options: Any) -> None:
        self.directory = directory
        self.staging = directory / "staging"
        self.staging.mkdir()
        self.images = images
        self.config_file = directory / "glance-api.conf"
        self.programs: list[Program] = []
        self._live: dict[str, bytes] = {}
        self.configure(**options)

    def configure(
        self,
        *,
        database_url: str,
        transport_url: str = "",
        staging: str | None = None,
        default: str = "",
        watcher: str = "",
        more: str = "",
    ) -> None:
        """Write a glance-api.conf; without transport_url notifications are off."""
        bus = (
            f"transport_url = {transport_url}"
            if transport_url
            else "[staging_watcher]\nnotifications = false\n[DEFAULT]"
        )
        self.config_file.write_text(
            f"[DEFAULT]\ndebug = true\nnode_staging_uri = {staging or f'file://{self.staging}'}\n"
            f"{bus}\n{default}\n"
            f"[database]\nconnection = {database_url}\n"
            "[oslo_messaging_notifications]\ndriver = messagingv2\n"
            f"[staging_watcher]\npool = watcher-{self.directory.name}\n{watcher}\n{more}\n"
        )

    def start(self, *arguments: str, ready: bool = True) -> Program:
        """Start the service."""
        program = self.program(self.directory, "--config-file", str(self.config_file), *arguments)
        self.programs.append(program)
        if ready:
            program.wait_ready()
        return program

    def sweep(self, *arguments: str) -> tuple[int, str]:
        """Run one sweep; its exit code and output."""
        program = self.program(
            self.directory, "sweep", "--config-file", str(self.config_file), *arguments
        )
        code = program.wait()
        program.check_log()
        return code, program.log

    def stage(self, name: str, data: bytes = b"data") -> Path:
        """Write a file into the staging directory."""
        path = self.staging / name
        path.write_bytes(data)
        return path

    def stage_live(self, suffix: str = "") -> str:
        """Create an image and stage a file of it, which must be there at the end; its id."""
        image = new_id()
        self.images.insert(image)
        self._live[image + suffix] = os.urandom(64)
        self.stage(image + suffix, self._live[image + suffix])
        return image

    def stage_deleted(self, suffix: str = "") -> Path:
        """Stage a file of a deleted image: residue."""
        image = new_id()
        self.images.insert(image, deleted=True, status="deleted")
        return self.stage(image + suffix)

    def stage_many(self, count: int, *, deleted: bool = False, suffix: str = "") -> list[Path]:
        """Stage empty files of as many images."""
        ids = [new_id() for _ in range(count)]
        self.images.insert(*ids, deleted=deleted)
        paths = [self.staging / (image + suffix) for image in ids]
        for path in paths:
            path.touch()
        return paths

    def age(self, path: Path, seconds: float) -> None:
        """Wait until a file is that old; nothing but the clock makes its ctime older."""
        time.sleep(max(0.0, path.lstat().st_ctime + seconds - time.time()))

    def forget(self, image: str) -> None:
        """A live image was deleted; its files need not stay."""
        self._live = {name: data for name, data in self._live.items() if image not in name}

    def wait_gone(self, *paths: Path, timeout: float = GONE_TIMEOUT) -> None:
        """Wait until files are gone."""
        left = set(paths)

        def gone() -> bool:
            left.difference_update([path for path in left if not os.path.lexists(path)])
            return not left

        try:
            wait_for(gone, timeout, "the removal of files")
        except AssertionError as error:
            log = self.programs[-1].log if self.programs else ""
            raise AssertionError(f"{error}: {left}\n{log}") from None

    def check_live(self) -> None:
        """Every live file has its bytes still."""
        for name, data in self._live.items():
            assert (self.staging / name).read_bytes() == data

    def ask_to_end(self) -> None:
        """Have all programs end; returns at once."""
        for program in self.programs:
            program.ask_to_end()

    def close(self) -> None:
        """End all programs, and check what they must never do."""
        try:
            for program in self.programs:
                program.stop()
                program.check_log()
            self.check_live()
        finally:
            for program in self.programs:
                program.kill()


class GlanceNotifier:
    """Sends notifications as glance-api does."""

    def __init__(self, transport_url: str) -> None:
        conf = cfg.ConfigOpts()
        messaging.set_transport_defaults(control_exchange="glance")
        conf([], default_config_files=[])
        self._transport = messaging.get_notification_transport(conf, url=transport_url)
        self._notifier = messaging.Notifier(
            self._transport, "image.host", driver="messagingv2", topics=["notifications"]
        )

    def deleted(self, image: str) -> None:
        """Report that an image is deleted; confirmed by the broker when it returns."""
        self._notifier.info(
            {}, "image.delete", {"id": image, "name": "x", "status": "deleted", "deleted": True}
        )

    def send(self, event_type: str, payload: object) -> None:
        """Send anything else."""
        self._notifier.info({}, event_type, payload)

    def close(self) -> None:
        """Close the connection."""
        self._transport.cleanup()
