# SPDX-License-Identifier: Apache-2.0
"""oslo.messaging on native threads: import it from here, so that nothing chooses eventlet first."""

import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from oslo_service import backend

# Where eventlet is installed it would be imported just to see whether it has patched anything: a
# tenth of a second, 10 MB, and warnings on stderr.
sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]
backend.init_backend(backend.BackendType.THREADING)

import oslo_messaging as messaging  # noqa: E402

__all__ = ["InPlaceExecutor", "messaging"]

T = TypeVar("T")


class InPlaceExecutor(Executor):
    """Runs what it is given at once, in the thread that gives it.

    For a listener whose endpoint only puts a key on a queue. oslo.messaging's own executor is one
    more thread, to which each message is handed over, and which wakes each second when idle.
    """

    def __init__(self, max_workers: int) -> None:
        """Nothing is kept; ``max_workers`` is what oslo.messaging gives."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Run it now."""
        done: Future[T] = Future()
        done.set_result(fn(*args, **kwargs))
        return done
