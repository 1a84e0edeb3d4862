# SPDX-License-Identifier: Apache-2.0
"""Names that no two tests of one process share, of whichever module."""

import itertools

_numbers = itertools.count(1)


def unique_name(prefix: str) -> str:
    """Return the prefix with a number that wasn't given before."""
    return f"{prefix}_{next(_numbers)}"
