# SPDX-License-Identifier: Apache-2.0
"""Connections to RabbitMQ beside oslo.messaging's, for questions that change nothing there."""

import ssl
from typing import Any

import amqp
from kombu import Connection

from watcher.conf import DISTRIBUTION
from watcher.triggers import tls_files
from watcher.triggers.connection_log import cause_of

RABBIT_GROUP = "oslo_messaging_rabbit"
ANSWER_TIMEOUT = 10.0  # seconds
DEFAULT_PORT = 5672

_TLS_VERSIONS = {
    "tlsv1": "PROTOCOL_TLSv1",
    "tlsv1_1": "PROTOCOL_TLSv1_1",
    "tlsv1_2": "PROTOCOL_TLSv1_2",
    "sslv23": "PROTOCOL_SSLv23",
}


def is_rabbit(transport: Any) -> bool:
    """Whether a transport of oslo.messaging is RabbitMQ's."""
    return RABBIT_GROUP in transport.conf


def connections(transport: Any, url: Any) -> list[tuple[str, Connection]]:
    """Address of each broker in a transport's URL, with a connection that isn't made yet.

    :raises ValueError: oslo.messaging can't use the URL; the text has no part of it
    """
    options = transport.conf[RABBIT_GROUP]  # with what the URL overrides
    made = []
    for host in url.hosts or [None]:
        name = (host and host.hostname) or "localhost"
        port = (host and host.port) or DEFAULT_PORT
        user, password = (host.username, host.password) if host else ("guest", "guest")
        if "/" in f"{user}{password}":  # oslo.messaging hands them to kombu in a URL, unescaped
            raise ValueError
        connection = Connection(
            hostname=name,
            port=port,
            userid=user or "",
            password=password or "",
            virtual_host=url.virtual_host or "/",
            transport="pyamqp",
            ssl=_tls(options, name),
            login_method=options.rabbit_login_method,
            connect_timeout=ANSWER_TIMEOUT,
            transport_options={
                "read_timeout": ANSWER_TIMEOUT,
                "write_timeout": ANSWER_TIMEOUT,
                "client_properties": {
                    "connection_name": f"{DISTRIBUTION}: check",
                    "capabilities": {"authentication_failure_close": True},
                },
            },
        )
        made.append((f"[{name}]:{port}" if ":" in name else f"{name}:{port}", connection))
    return made


def consumers(transport: Any, url: Any, queue: str) -> int:
    """Number of consumers of a queue, as the first broker that answers says; 0: there is no queue.

    :raises ConnectionError: no broker answers, each with its cause
    """
    causes = []
    for address, connection in connections(transport, url):
        try:
            with connection:
                declared = connection.channel().queue_declare(queue, passive=True)
                return int(declared.consumer_count)
        except amqp.NotFound as error:
            # Also of a queue on a node that is down; that one has no consumer either.
            causes.append(f"{address}: {cause_of(str(error))}")
            if "no queue" in str(error):
                return 0
        except Exception as error:  # noqa: BLE001 - drivers raise what their libraries raise
            cause = unusable(transport) or why_not_connected(error)
            causes.append(f"{address}: {cause}")
    raise ConnectionError("; ".join(causes))


def why_not_connected(error: Exception) -> str:
    """The cause in what oslo.messaging or kombu raised, in one line without secrets."""
    # By the parser of URLs, which quotes parts of a password; a certificate that can't be verified
    # is an OSError as well.
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return "transport_url can't be used; no user or password in it may have a /, escaped or not"
    return cause_of(str(error)) or type(error).__name__


def unusable(transport: Any) -> str | None:
    """What is wrong with the files of TLS, which errors of ssl don't name."""
    if RABBIT_GROUP not in transport.conf:
        return None
    options = transport.conf[RABBIT_GROUP]
    if not options.ssl:
        return None
    names = (tls_files.AUTHORITY, tls_files.CERTIFICATE, tls_files.KEY)
    why = tls_files.fault({name: getattr(options, name) for name in names})
    return f"[{RABBIT_GROUP}] {why}" if why else None


def _tls(options: Any, host: str) -> dict[str, Any] | bool:
    if not options.ssl:
        return False
    settings: dict[str, Any] = {}
    if options.ssl_version:
        version = _TLS_VERSIONS.get(options.ssl_version.lower())
        if version is None:
            raise ValueError
        settings["ssl_version"] = getattr(ssl, version)
    if options.ssl_key_file:
        settings["keyfile"] = options.ssl_key_file
    if options.ssl_cert_file:
        settings["certfile"] = options.ssl_cert_file
    if options.ssl_ca_file:
        settings["ca_certs"] = options.ssl_ca_file
        settings["cert_reqs"] = ssl.CERT_REQUIRED
        if "ssl_enforce_hostname_verification" in options:  # older ones don't compare the name
            settings["server_hostname"] = host
    return settings or True
