# SPDX-License-Identifier: Apache-2.0
"""Errors whose text is one line for the operator, without secrets."""


class ConfigError(Exception):
    """The configuration can't be used."""


class DatabaseError(Exception):
    """The database can't answer."""
