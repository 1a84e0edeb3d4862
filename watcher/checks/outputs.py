# SPDX-License-Identifier: Apache-2.0
"""Checks of what the service writes and serves by itself: log, audit and metrics.

Nothing is opened or made; whether the service could is asked of the kernel.
"""

import errno
import http.client
import importlib.util
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterator

from watcher import logs
from watcher.checks.result import Check, Result
from watcher.conf import DISTRIBUTION, GROUP, Config
from watcher.errors import ConfigError
from watcher.telemetry.audit import refusal

SOCKET_TIMEOUT = 5  # seconds


def checks(conf: Config) -> Iterator[Check]:
    """Look at what is configured."""
    for option in ("log_file", "log_dir"):
        conf.clear_override(option)  # of the commands, whose own log goes to stderr
    path = logs.file_path(conf)
    if path and not conf.log_config_append:
        yield file("log", "log_file or log_dir", path)
    options = conf[GROUP]
    if options.audit_log:
        yield file("audit", "[staging_watcher] audit_log", options.audit_log, refusal=refusal)
    if options.metrics_port:
        yield metrics(options.metrics_host, options.metrics_port, options.metrics_web_config)


def file(
    name: str, option: str, path: str, *, refusal: Callable[[str], str | None] | None = None
) -> Check:
    """Whether this user could append to a file, or make it.

    :param refusal: why the service would refuse it though it could
    """
    real = os.path.realpath(path)
    directory = os.path.dirname(real)
    cause, remedy = "", f"name a file by {option} that the user of glance-api can write"
    if os.path.isdir(real):
        cause = os.strerror(errno.EISDIR)
    elif not os.path.isdir(directory):
        cause = f"{directory} is no directory, or can't be searched"
        remedy = f"make it for the user that runs glance-api, or {remedy}"
    elif not os.access(*_needed(real, directory), effective_ids=True):
        cause = "this user may not, or the file system is read-only"
        remedy = f"run as the user that runs glance-api, or {remedy}"
    elif refusal is not None:
        cause = refusal(path) or ""
    if not cause:
        return Check(name, Result.OK, f"{path} can be written")
    return Check(name, Result.FAILURE, f"{path} can't be written: {cause}", remedy)


def _needed(path: str, directory: str) -> tuple[str, int]:
    return (path, os.W_OK) if os.path.exists(path) else (directory, os.W_OK | os.X_OK)


def metrics(host: str, port: int, web_config: str | None = None) -> Check:
    """Whether metrics are served, or can be.

    :param web_config: path of a file with TLS and passwords
    """
    if importlib.util.find_spec("prometheus_client") is None:
        return Check(
            "metrics",
            Result.FAILURE,
            "[staging_watcher] metrics_port is set, but prometheus_client is not installed",
            f"{sys.executable} -m pip install '{DISTRIBUTION}[metrics]', or take the option away",
        )
    place, with_tls = f"{host} port {port}", False
    if web_config:
        try:
            from watcher.telemetry.web_config import WebConfig  # noqa: PLC0415 - optional

            with_tls = WebConfig(web_config).with_tls
        except ConfigError as error:
            return Check("metrics", Result.FAILURE, str(error), "correct the file or the option")
    try:
        _bind(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_ours(host, port, with_tls=with_tls):
            return Check("metrics", Result.OK, f"the service serves them on {place}")
        return Check(
            "metrics",
            Result.FAILURE,
            f"they can't be served on {place}: {error.strerror}",
            "correct [staging_watcher] metrics_host or metrics_port",
        )
    return Check("metrics", Result.OK, f"{place} is free")


def _bind(host: str, port: int) -> None:
    family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as bound:
        # As the service does; without listen() it is in no one's way.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)


def _is_ours(host: str, port: int, *, with_tls: bool) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=SOCKET_TIMEOUT)
    if with_tls:
        context = ssl.create_default_context()
        # Nothing is sent to it, and its certificate is of another name than the address.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            host, port, timeout=SOCKET_TIMEOUT, context=context
        )
    try:
        connection.request("HEAD", "/healthz")
        return connection.getresponse().headers["Server"] == DISTRIBUTION
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
