# SPDX-License-Identifier: Apache-2.0
"""TLS and passwords for the metrics port, by the file that Prometheus's exporters have for it.

Its format is that of exporter-toolkit's ``--web.config.file``. Known are ``basic_auth_users``, and
``cert_file`` and ``key_file`` in ``tls_server_config``. Anything else in it is refused: it would be
taken for protection.
"""

import base64
import binascii
import hashlib
import os
import ssl
import sys
from collections import OrderedDict
from typing import Any

from oslo_log import log

from watcher.conf import DISTRIBUTION
from watcher.errors import ConfigError

try:
    import bcrypt
    import yaml  # type: ignore[import-untyped]
except ModuleNotFoundError as error:
    raise ConfigError(
        f"[staging_watcher] metrics_web_config is set, but {error.name} is not installed: "
        f"{sys.executable} -m pip install '{DISTRIBUTION}[metrics]'"
    ) from None

LOG = log.getLogger(__name__)

TLS, USERS = "tls_server_config", "basic_auth_users"
FILES = ("cert_file", "key_file")
MAX_CACHED = 100  # answers to passwords; each costs bcrypt a tenth of a second
# For a user who doesn't exist, so that it takes as long as a wrong password.
NOBODY = b"$2b$10$" + b"." * 53

Version = tuple[tuple[int, int, int], ...]


class WebConfig:
    """What the file asks for. Renewed files of the certificate are used for new connections.

    :param path: of the file
    :raises ConfigError: it can't be used
    """

    def __init__(self, path: str) -> None:
        self._files: list[str] = []
        try:
            with open(path, encoding="utf-8") as file:
                found = yaml.safe_load(file) or {}
            users, self._files = _checked(found, os.path.dirname(os.path.abspath(path)))
            self._version = self._current()
            #: None: plain HTTP
            self._context = self._new_context()
        except OSError as error:
            raise ConfigError(_refusal(path, self._cause(error))) from None
        except yaml.YAMLError:
            raise ConfigError(_refusal(path, "it is not YAML")) from None
        except ValueError as error:
            raise ConfigError(_refusal(path, str(error))) from None
        self._users = {name: value.encode() for name, value in users.items()}
        self._answers: OrderedDict[bytes, bool] = OrderedDict()
        self._key = os.urandom(16)

    @property
    def with_tls(self) -> bool:
        """Whether it is HTTPS."""
        return bool(self._files)

    def context(self) -> ssl.SSLContext | None:
        """Return the context for a new connection; None: plain HTTP."""
        cause = None
        try:
            if (version := self._current()) != self._version:
                self._version = version
                self._context = self._new_context()
        except OSError as error:
            cause = self._cause(error)
        if cause is not None:  # not above, where oslo.log would add the exception to the line
            LOG.warning("Renewed TLS certificate unusable; keeping the old one: %s", cause)
        return self._context

    def allows(self, header: str | None) -> bool:
        """Whether a request may be answered.

        :param header: Authorization
        """
        if not self._users:
            return True
        kind, _, encoded = (header or "").partition(" ")
        if kind.lower() != "basic":
            return False
        key = hashlib.blake2b(encoded.encode(errors="replace"), key=self._key).digest()
        if key not in self._answers:
            self._answers[key] = self._is_right(encoded)
            if len(self._answers) > MAX_CACHED:
                self._answers.popitem(last=False)
        return self._answers[key]

    def _is_right(self, encoded: str) -> bool:
        try:
            text = base64.b64decode(encoded.strip(), validate=True)
            name, _, password = text.partition(b":")
            stored = self._users.get(name.decode())
            right = bcrypt.checkpw(password, stored or NOBODY)
        except (binascii.Error, ValueError):  # also a password that is too long for bcrypt
            return False
        return right and stored is not None

    def _current(self) -> Version:
        stats = [os.stat(path) for path in self._files]
        return tuple((each.st_dev, each.st_ino, each.st_mtime_ns) for each in stats)

    def _cause(self, error: OSError) -> str:
        if isinstance(error, ssl.SSLError):
            return f"no certificate with its key, in PEM format: {', '.join(self._files)}"
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}{error.strerror}"

    def _new_context(self) -> ssl.SSLContext | None:
        if not self._files:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate, key = self._files
        context.load_cert_chain(certificate, key, password="")  # never asked for at a terminal
        return context


def _refusal(path: str, cause: str) -> str:
    return f"Cannot use [staging_watcher] metrics_web_config {path}: {cause}"


def _checked(found: Any, directory: str) -> tuple[dict[str, str], list[str]]:
    """Return users with their hashes, and the paths of certificate and key.

    :raises ValueError: it isn't what is expected; without anything secret
    """
    if not isinstance(found, dict):
        raise ValueError("expected tls_server_config and basic_auth_users")
    tls, users = found.get(TLS) or {}, found.get(USERS) or {}
    if not isinstance(tls, dict) or not isinstance(users, dict):
        raise ValueError(f"{TLS} and {USERS} must hold names with values")
    unknown = [str(name) for name in found if name not in (TLS, USERS)]
    unknown += [f"{TLS}: {name}" for name in tls if name not in FILES]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is not supported")
    if tls and not all(isinstance(tls.get(name), str) and tls[name] for name in FILES):
        raise ValueError(f"{TLS} needs cert_file and key_file")
    for name, value in users.items():
        if not isinstance(name, str) or not isinstance(value, str) or not _is_hash(value):
            raise ValueError(
                f"{USERS} must have a bcrypt hash for each name, as htpasswd -nB makes"
            )
    return users, [os.path.join(directory, tls[name]) for name in FILES] if tls else []


def _is_hash(value: str) -> bool:
    try:
        bcrypt.checkpw(b"", value.encode())
    except ValueError:
        return False
    return True
