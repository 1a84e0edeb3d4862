# SPDX-License-Identifier: Apache-2.0
"""A certificate authority of one's own, by openssl."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificate(NamedTuple):
    """Files in PEM format."""

    path: Path
    key: Path


class Authority:
    """Makes certificates in a directory."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.directory = directory
        self.certificate, self._key = directory / f"{name}.pem", directory / f"{name}.key"
        _openssl(
            *("req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2"),
            *("-subj", f"/CN={name}", "-keyout", self._key, "-out", self.certificate),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),  # Python 3.13 wants it said
        )

    def issue(
        self,
        name: str,
        host: str = "IP:127.0.0.1",
        days: int = 2,
        account: str | None = None,
    ) -> Certificate:
        """Issue a certificate for a server.

        :param days: negative: it has expired
        :param account: owner of the key
        """
        path, key, request, extensions = (
            self.directory / f"{name}.{suffix}" for suffix in ("pem", "key", "csr", "ext")
        )
        extensions.write_text(f"subjectAltName={host}\n")
        _openssl(
            *("req", "-nodes", "-newkey", "rsa:2048", "-subj", f"/CN={name}"),
            *("-keyout", key, "-out", request),
        )
        sign: tuple[object, ...] = (
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key),
            *("-CAcreateserial", "-extfile", extensions, "-out", path),
        )
        try:
            _openssl(*sign, "-days", str(days))
        except subprocess.CalledProcessError:  # openssl 3.5 takes no negative days, 3.0 no dates
            if days >= 0:
                raise
            _openssl(*sign, "-not_before", "20200101000000Z", "-not_after", "20200102000000Z")
        key.chmod(0o600)
        if account:
            shutil.chown(key, account, account)
        return Certificate(path, key)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
