# SPDX-License-Identifier: Apache-2.0
"""Serves Glance's API on a loopback port, in Glance's environment: serve.py PORT.

Requests are streamed, as production servers do: an upload is staged while it arrives.
"""

import signal
import sys

from cheroot import wsgi

try:
    from glance.wsgi.api import application
except ImportError:  # before Glance 30
    from glance.common.wsgi_app import init_app

    application = init_app()


def main() -> None:
    """Serve until SIGTERM."""
    server = wsgi.Server(("127.0.0.1", int(sys.argv[1])), application, numthreads=16, timeout=120)
    signal.signal(signal.SIGTERM, lambda *_: setattr(server, "interrupt", SystemExit(0)))
    try:
        server.start()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
