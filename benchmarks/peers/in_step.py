# SPDX-License-Identifier: Apache-2.0
"""The watcher without jitter: each wait takes its mean, on every host the same."""

import sys

from watcher import backoff, cli


def around(seconds: float, share: float) -> float:
    """The mean."""
    return seconds


def within(seconds: float) -> float:
    """The mean."""
    return seconds / 2


backoff.around, backoff.within = around, within
sys.exit(cli.main())
