# SPDX-License-Identifier: Apache-2.0
"""A queue that records how long keys are to wait."""

from watcher.workqueue import Key, WorkQueue


class DelaysQueue(WorkQueue):
    """Keys that nobody takes, and the seconds for which each is to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: list[tuple[Key, float]] = []
        self.replaced: list[Key] = []

    def put(
        self,
        key: Key,
        *,
        delay: float = 0.0,
        attempt: int = 0,
        since: float | None = None,
        replace: bool = False,
    ) -> None:
        """Record it."""
        self.delays.append((key, delay))
        if replace:
            self.replaced.append(key)
