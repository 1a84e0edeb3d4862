# SPDX-License-Identifier: Apache-2.0
"""Private RabbitMQ, MariaDB and PostgreSQL servers, and other real things to test against."""

from .database import Database
from .images import Images
from .mariadb import MariaDB
from .names import unique_name
from .postgresql import PostgreSQL
from .proxy import TcpProxy
from .rabbitmq import RabbitMQ
from .server import Server
from .waiting import wait_for

__all__ = [
    "Database",
    "Images",
    "MariaDB",
    "PostgreSQL",
    "RabbitMQ",
    "Server",
    "TcpProxy",
    "unique_name",
    "wait_for",
]
