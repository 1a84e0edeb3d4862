# SPDX-License-Identifier: Apache-2.0
"""Glance's cleaner and ours on the same tree and database, and what each of them did."""

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.environment import Environment
from tests.functional.program import Program
from tests.services import Images
from watcher import conf
from watcher.database import images as watcher_images
from watcher.service import new_cleaner, open_staging
from watcher.stats import Stats

Message = tuple[str, str]
OUR_WORDS = ("watcher.reconcile.cleaner", "watcher.reconcile.planner")  # loggers


@dataclass(frozen=True)
class Result:
    """What a cleaner left, and what it said, the lines between the first and the last sorted:
    each goes through the files in an order of its own."""

    left: tuple[str, ...]
    said: tuple[Message, ...]


@dataclass(frozen=True)
class Tree:
    """Files, by name and kind of entry, and rows of images; ``there``: there is a directory."""

    entries: Mapping[str, str]
    live: Sequence[str] = ()
    deleted: Sequence[str] = ()
    status: str = "active"
    there: bool = True


class Cleaners:
    """Both cleaners, one configuration, one SQLite database.

    :param config_file: of a site whose staging directory is ``staging`` beside it
    """

    def __init__(self, environment: Environment, config_file: Path, database_url: str) -> None:
        self._config_file, self._url = config_file, database_url
        self.directory = config_file.parent
        self.staging = self.directory / "staging"
        self.images = Images(database_url)
        self._errors = (self.directory / "cleaner.log").open("wb")
        self._glance = subprocess.Popen(
            [*environment.inside("cleaner.py"), str(config_file)],
            env=environment.variables(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def lay(self, tree: Tree) -> None:
        """Make the tree and the rows, and nothing else."""
        self.images.clear()
        self.images.insert(*tree.live, status=tree.status)
        self.images.insert(*tree.deleted, deleted=True, status="deleted")
        shutil.rmtree(self.staging, ignore_errors=True)
        if tree.there:
            self.staging.mkdir()
        for name, kind in tree.entries.items():
            lay_entry(self.staging / name, kind)

    def glance(self, tree: Tree) -> Result:
        """What Glance's cleaner makes of a tree."""
        self.lay(tree)
        assert self._glance.stdin is not None and self._glance.stdout is not None
        self._glance.stdin.write("clean\n")
        self._glance.stdin.flush()
        answer = self._glance.stdout.readline()
        assert answer, (self.directory / "cleaner.log").read_text()
        return self._result([(level, text) for level, text in json.loads(answer)])

    def ours(self, tree: Tree, *, trusted: bool = True, **options: int) -> Result:
        """What our sweep makes of it, in this process.

        :param trusted: as with ``--trust-database``
        :raises DatabaseError: it can't answer
        """
        self.lay(tree)
        return self._result(self._sweep(options, trusted=trusted))

    def program(self, tree: Tree) -> tuple[Result, int, str]:
        """What the real program makes of it, its exit code and its last line."""
        self.lay(tree)
        program = Program(
            self.directory, "sweep", "--trust-database", "--config-file", str(self._config_file)
        )
        code = program.wait()
        said = []
        for line in program.log.split("\n"):
            for logger in OUR_WORDS:
                level, found, text = line.partition(f" {logger} ")
                if found:
                    said.append((level, text))
        return self._result(said), code, program.log.splitlines()[-1]

    def left(self) -> list[str]:
        """What is in the staging directory."""
        return os.listdir(self.staging) if self.staging.exists() else []

    def close(self) -> None:
        """End Glance's."""
        assert self._glance.stdin is not None
        self._glance.stdin.close()
        self._glance.wait(30.0)
        self._errors.close()
        self.images.close()

    def _sweep(self, options: Mapping[str, int], *, trusted: bool) -> list[Message]:
        loaded = conf.load(["--config-file", str(self._config_file)])
        for name, value in options.items():
            loaded.set_override(name, value, group=conf.GROUP)
        staging = open_staging(loaded)
        said: list[Message] = []

        class Keep(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                said.append((record.levelname, record.getMessage()))

        loggers, handler = [logging.getLogger(name) for name in OUR_WORDS], Keep()
        for logger in loggers:
            logger.addHandler(handler)
            logger.setLevel(logging.DEBUG)
        try:
            with closing(watcher_images.Images(self._url)) as images, staging:
                cleaner = new_cleaner(loaded, staging, images, Stats(), trusted=trusted)
                for _ in cleaner.sweep().steps():
                    pass
        finally:
            for logger in loggers:
                logger.removeHandler(handler)
        return said

    def _result(self, said: list[Message]) -> Result:
        between = sorted(said[1:-1])
        return Result(tuple(sorted(self.left())), (*said[:1], *between, *said[-1:]))


def lay_entry(path: Path, kind: str) -> None:
    """Make an entry of some kind."""
    if kind == "directory":
        path.mkdir()
        (path / "inside").write_bytes(b"data")
    elif kind == "link":
        path.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    else:
        path.write_bytes(b"data")
