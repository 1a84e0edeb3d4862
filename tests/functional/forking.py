# SPDX-License-Identifier: Apache-2.0
"""Imports the program once, and runs it in a forked process for each request: a script.

It is handed a socket as its standard input. A request is JSON (arguments, environment, working
directory) with three descriptors: a socket for the process's id and then its wait status, and the
process's stdout and stderr. Without further requests it ends.
"""

import gc
import json
import os
import signal
import socket
import sys
from typing import NoReturn

LONGEST = 1 << 20  # bytes of a request


def serve(requests: socket.socket) -> None:
    """Fork at each request; return in the process that is to be the program."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, LONGEST, 3)
        if not request:
            sys.exit()
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    report, stdout, stderr = descriptors
    if (pid := os.fork()) != 0:
        tell(socket.socket(fileno=report), pid)
    os.dup2(os.open(os.devnull, os.O_RDONLY), requests.detach())
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    become(**json.loads(request))


def tell(report: socket.socket, pid: int) -> NoReturn:
    """Report a process and its end."""
    report.send(str(pid).encode())
    report.send(str(os.waitpid(pid, 0)[1]).encode())
    os._exit(0)


def become(arguments: list[str], environment: dict[str, str], directory: str) -> None:
    """Take over what a process is given by the one that executes it."""
    sys.argv = arguments
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)


if __name__ == "__main__":
    del sys.path[0]  # this script's directory
    import amqp  # noqa: F401
    import kombu  # noqa: F401
    import psycopg  # noqa: F401
    import pymysql  # noqa: F401
    import sqlalchemy  # noqa: F401

    import watcher.cli.sweep
    import watcher.service
    import watcher.triggers.listener

    # At its end a process looks through all that may be garbage, and so copies each shared page.
    gc.collect()
    gc.freeze()
    serve(socket.socket(fileno=0))
    sys.exit(watcher.cli.main())
