# SPDX-License-Identifier: Apache-2.0
"""Clients that create, stage, import and delete images at random, and remember what must be."""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.acceptance import payload
from tests.acceptance.client import ApiError
from tests.acceptance.cloud import Host
from tests.acceptance.source import Download, Source

LIVE_IMAGES = 25  # of each client; more are deleted again
SIZES = [0x100, 0x10000, 0x80000]
FAULTS = (ApiError, OSError, http.client.HTTPException)


@dataclass
class Image:
    """What one client knows of one image.

    :param staged_on: host that holds it for an import which nobody has asked for yet
    :param deleting: a deletion was asked for
    :param deleted: when the API said that it is deleted
    """

    id: str
    data: bytes
    staged_on: Host | None = None
    deleting: bool = False
    deleted: float | None = None


@dataclass
class SoakClient:
    """One client; it alone touches its images.

    :param seed: of all that is random
    """

    hosts: list[Host]
    source: Source
    seed: int
    images: list[Image] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"client-{self.seed}")

    def start(self) -> None:
        """Start working."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the current work."""
        self._stop.set()
        self._thread.join(600.0)
        assert not self._thread.is_alive()

    def delete(self, image: Image) -> None:
        """Delete an image through any host."""
        image.deleting = True
        try:
            self._any_host().client.delete(image.id)
        except ApiError as error:
            if error.status != 404:
                raise
        image.deleted = time.monotonic()
        self.figures["deleted"] += 1

    def _run(self) -> None:
        works: list[Callable[[], None]] = [self._upload, self._upload, self._download]
        while not self._stop.is_set():
            live = [image for image in self.images if not image.deleting]
            try:
                if len(live) > LIVE_IMAGES or (live and self._chance(0.2)):
                    self.delete(self._random.choice(live))
                else:
                    self._random.choice(works)()
            except FAULTS as error:
                kind = str(error.status) if isinstance(error, ApiError) else type(error).__name__
                self.errors[kind] += 1

    def _upload(self) -> None:
        host, image = self._any_host(), self._new_image()
        zipped = self._chance(0.3)
        host.client.stage(image.id, payload.zipped(image.data) if zipped else image.data)
        image.staged_on = None if zipped else host
        if zipped or self._chance(0.5):
            image.staged_on = None
            host.client.start_import(image.id, "glance-direct")
            self.figures["imports"] += 1
        if self._chance(0.4):
            self.delete(image)

    def _download(self) -> None:
        host, image = self._any_host(), self._new_image()
        hold = self._random.choice([None, -1, len(image.data) // 2])
        download = Download(image.data, hold)
        url = self.source.offer(download)
        try:
            host.client.start_import(image.id, "web-download", uri=url)
            self.figures["imports"] += 1
            if hold is not None and download.held(10.0) and self._chance(0.7):
                self.delete(image)
        finally:
            download.release()

    def _new_image(self) -> Image:
        data = payload.raw(self._random.choice(SIZES))
        image = Image(self._any_host().client.create(), data)
        self.images.append(image)
        self.figures["created"] += 1
        return image

    def _any_host(self) -> Host:
        return self._random.choice(self.hosts)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability
