# SPDX-License-Identifier: Apache-2.0
"""How a check went."""

import enum
from typing import NamedTuple


class Result(enum.IntEnum):
    """The values are the exit codes, and those of oslo.upgradecheck."""

    OK = 0
    WARNING = 1
    FAILURE = 2


class Check(NamedTuple):
    """One check and what it found.

    :param name: stable, for programs
    :param found: one line, without secrets; may hold hostile text
    :param remedy: what to do; of a check that is OK, what could be done
    """

    name: str
    result: Result
    found: str
    remedy: str | None = None
