# SPDX-License-Identifier: Apache-2.0
"""Loopback ports which stay free while their server is down."""

import os
import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"

_given: set[int] = set()


def free_port() -> int:
    """Return a free TCP port of the loopback interface, never the same twice.

    Raises OSError when there is none.
    """
    # A client which calls a port of the ephemeral range again and again while its server is
    # down at last is given that very port as its own and connects to itself.
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    # A port whose server is down is free for others too, so each pytest-xdist worker has its own.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = range(10240 + worker, 65536, workers)
    lasting = set(own) - set(range(low, high + 1)) - _given
    for port in random.sample(sorted(lasting), len(lasting)):
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise OSError("no free port outside of the ephemeral range")
