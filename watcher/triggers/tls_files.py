# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the files of a TLS client, which errors of a handshake don't name."""

import ssl
from collections.abc import Mapping

_NOT_YET_VALID, _EXPIRED = 9, 10  # of OpenSSL's X509_V_ERR
AUTHORITY, CERTIFICATE, KEY = "ssl_ca_file", "ssl_cert_file", "ssl_key_file"


def fault(files: Mapping[str, str | None]) -> str | None:
    """The option and the cause, for the first file that can't be used; None when all can.

    :param files: path by name of the option, if it is set
    """
    for option, path in files.items():
        try:
            if path:
                with open(path, "rb"):
                    pass
        except OSError as error:
            return f"{option} = {path}: {error.strerror}"
    authority, certificate, key = (files.get(each) for each in (AUTHORITY, CERTIFICATE, KEY))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if authority:
        try:
            context.load_verify_locations(authority)
        except ssl.SSLError as error:
            return f"{AUTHORITY} = {authority}: {_reason(error)}"
    if not certificate:
        return None
    option, path = CERTIFICATE, certificate
    try:
        context.load_verify_locations(certificate)
        option, path = (KEY, key) if key else (option, path)
        context.load_cert_chain(certificate, key or None, password="")
    except ssl.SSLError as error:
        return f"{option} = {path}: {_reason(error)}"
    why = _outdated(certificate, key)
    return f"{CERTIFICATE} = {certificate}: {why}" if why else None


def _reason(error: ssl.SSLError) -> str:
    """For instance "key values mismatch"."""
    return (error.reason or "no certificate or key").lower().replace("_", " ")


def _outdated(certificate: str, key: str | None) -> str | None:
    """Whether a certificate has expired, by a handshake in memory in which it is the client's."""
    server, client = (
        ssl.SSLContext(kind) for kind in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)
    )
    for context in (server, client):
        context.load_cert_chain(certificate, key or None, password="")
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it is its own authority here
    server.load_verify_locations(certificate)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
                    return error.verify_message
                return None
            except ssl.SSLError:
                return None
    return None
