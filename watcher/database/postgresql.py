# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL, by psycopg's wrapper of libpq.

Statements go by the simple protocol, each with its time limit in the same message: a pooler
refuses startup options, and hands prepared statements and a session's settings to others. The
client's limit is here too: libpq waits for an answer for ever.
"""

import select
import socket
import ssl
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import pq, sql

from watcher.database.server import CONNECT_TIMEOUT, QUERY_TIMEOUT, READ_TIMEOUT, Row, Server

_LIMIT = f"SET LOCAL statement_timeout = {QUERY_TIMEOUT * 1000}; "
_BOOLEAN = 16  # its OID
_SSL_REQUEST = struct.pack("!II", 8, 80877103)
_NO_COLUMN = {b"42501", b"42703"}  # denied, unknown


class _ColumnError(psycopg.OperationalError):
    """A column, or the whole table, may not be read."""


class PostgreSQL(Server):
    """A server that speaks PostgreSQL's protocol."""

    replica = "pg_is_in_recovery()"
    isolation = "upper(current_setting('transaction_isolation'))"
    # by this name too it never shows what isn't committed
    safe_levels = Server.safe_levels | {"READ UNCOMMITTED"}

    def _among(self, ids: Sequence[str]) -> tuple[str, Sequence[str]]:
        return f"= ANY({self._listed(ids)})", ()

    def _refuses_column(self, error: Exception) -> bool:
        return isinstance(error, _ColumnError)

    def state(self, ids: Sequence[str], *, causal: bool = False) -> list[Row]:
        """See `Server`."""
        return self.ask(
            f"SELECT asked.id, images.id, images.deleted, {self.isolation}, {self.replica}"  # noqa: S608
            f" FROM unnest({self._listed(ids)}) AS asked(id)"
            " LEFT JOIN images ON images.id = asked.id"
        )

    def lost(self) -> bool:
        """See `Server`."""
        return self._connection is not None and bool(self._connection.closed)

    @staticmethod
    def _listed(ids: Sequence[str]) -> str:
        # One value for any number of ids; with a comma in it an id is not the one asked for.
        return f"string_to_array({sql.Literal(','.join(ids)).as_string()}, ',')"

    def _connect(self) -> psycopg.Connection[Any]:
        arguments = {"connect_timeout": CONNECT_TIMEOUT} | self._arguments
        try:
            return psycopg.connect(**arguments, autocommit=True)
        except psycopg.OperationalError as error:
            if "certificate verify failed" in str(error) and (why := _not_verified(arguments)):
                raise psycopg.OperationalError(f"{error}: {why}") from None
            raise

    def _ask(self, sql: str, parameters: Sequence[str]) -> list[Row]:
        connection = self._connection.pgconn
        connection.send_query((_LIMIT + sql).encode())
        for result in self._results(connection):
            if result.status == pq.ExecStatus.TUPLES_OK:
                return _rows(result)
            if result.status != pq.ExecStatus.COMMAND_OK:
                primary = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)
                text = primary or connection.error_message or b"no answer"
                if result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) == b"FATAL":
                    self._connection.close()  # as the server has
                code = result.error_field(pq.DiagnosticField.SQLSTATE)
                kind = _ColumnError if code in _NO_COLUMN else psycopg.OperationalError
                raise kind(text.decode(errors="replace"))
        raise psycopg.OperationalError("no answer")

    def _results(self, connection: pq.abc.PGconn) -> list[pq.abc.PGresult]:
        deadline = time.monotonic() + READ_TIMEOUT
        poll = select.poll()
        results: list[pq.abc.PGresult] = []
        while True:
            unsent = connection.flush()
            while unsent or connection.is_busy():
                poll.register(connection.socket, select.POLLIN | (select.POLLOUT if unsent else 0))
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise psycopg.OperationalError(
                        f"timed out: no answer within {READ_TIMEOUT:g} s"
                    )
                connection.consume_input()
                unsent = connection.flush()
            result = connection.get_result()
            if result is None:
                return results
            results.append(result)


def _not_verified(arguments: Mapping[str, Any]) -> str:
    # libpq doesn't say what is wrong with a certificate; Python's ssl does.
    hosts = str(arguments.get("host", "")).split(",")
    ports = str(arguments.get("port", "5432")).split(",")
    for host, port in zip(hosts, ports * len(hosts), strict=False):
        try:
            context = ssl.create_default_context(cafile=arguments.get("sslrootcert"))
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            context.check_hostname = arguments.get("sslmode") == "verify-full"
            with socket.create_connection((host, int(port)), CONNECT_TIMEOUT) as plain:
                plain.sendall(_SSL_REQUEST)
                plain.recv(1)
                context.wrap_socket(plain, server_hostname=host).close()
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        except (OSError, ValueError):
            continue
    return ""


def _rows(result: pq.abc.PGresult) -> list[Row]:
    columns = range(result.nfields)
    boolean = [result.ftype(column) == _BOOLEAN for column in columns]
    value = result.get_value

    def read(row: int, column: int) -> object:
        data = value(row, column)
        if data is None:
            return None
        return data == b"t" if boolean[column] else bytes(data).decode(errors="replace")

    return [tuple(read(row, column) for column in columns) for row in range(result.ntuples)]
