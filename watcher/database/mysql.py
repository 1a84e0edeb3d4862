# SPDX-License-Identifier: Apache-2.0
"""MariaDB, MySQL and Galera clusters, by PyMySQL."""

import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pymysql

from watcher.database.server import CONNECT_TIMEOUT, QUERY_TIMEOUT, READ_TIMEOUT, Row, Server

# For one statement: a pooler may hand a session's settings to others. MariaDB reads the first
# comment, MySQL the second.
_LIMITED = (
    f"/*M!100102 SET STATEMENT max_statement_time = {QUERY_TIMEOUT}{{0}} FOR */ "
    f"SELECT /*+ MAX_EXECUTION_TIME({QUERY_TIMEOUT}000){{1}} */ "
)
_SELECT = _LIMITED.format("", "")
# Percona XtraDB Cluster is a MySQL. A node that is cut off from its cluster may still answer from
# what it had, if wsrep_dirty_reads lets it, and wouldn't wait then.
_CAUSAL_SELECT = _LIMITED.format(
    ", wsrep_sync_wait = 1, wsrep_dirty_reads = OFF",
    " SET_VAR(wsrep_sync_wait = 1) SET_VAR(wsrep_dirty_reads = OFF)",
)
# Always one row: an answer that a proxy cut doesn't look like that of a single server.
_IN_GALERA = (
    "SELECT count(*) FROM /*M! information_schema.global_variables */"
    " /*!50708 performance_schema.global_variables */"
    " WHERE variable_name = 'wsrep_on' AND variable_value = 'ON'"
)
_NO_COLUMN = {(1054,), (1143,)}  # unknown, denied
# Gone away, lost, killed, closed after idling: by the client's text or by the server's last word.
_LOST = {1927, 2006, 2013, 2055, 4031}


class MySQL(Server):
    """A server that speaks MySQL's protocol."""

    replica = "@@global.read_only <> 'OFF'"  # a number, or a word, which counts as 0
    isolation = "/*M! @@tx_isolation */ /*!50720 @@transaction_isolation */"

    def _among(self, ids: Sequence[str]) -> tuple[str, Sequence[str]]:
        return f"IN ({', '.join(['%s'] * len(ids))})", ids

    def _refuses_column(self, error: Exception) -> bool:
        return isinstance(error, pymysql.MySQLError) and error.args[:1] in _NO_COLUMN

    def state(self, ids: Sequence[str], *, causal: bool = False) -> list[Row]:
        """See `Server`."""
        # As ASCII: compared with a character set that is wider than its own, the column
        # couldn't be looked up in the index.
        asked = " UNION ALL ".join(["SELECT _ascii %s AS id"] * len(ids))
        select = (
            f"SELECT asked.id, images.id, images.deleted, {self.isolation}, {self.replica}"  # noqa: S608
            f" FROM ({asked}) AS asked LEFT JOIN images ON images.id = asked.id"
        )
        return self.ask(_causal(select) if causal else select, ids)

    def in_galera(self) -> bool:
        """See `Server`."""
        return self.ask(_IN_GALERA) != [(0,)]

    def can_wait(self) -> bool:
        """See `Server`."""
        return self.ask(_causal("SELECT @@wsrep_sync_wait")) == [(1,)]

    def lost(self) -> bool:
        """See `Server`."""
        return self._connection is not None and not self._connection.open

    def _connect(self) -> Any:
        limits = {
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": READ_TIMEOUT,
            "write_timeout": READ_TIMEOUT,
        }
        arguments = limits | self._arguments
        tls = arguments.pop("tls", {})
        arguments["ssl_disabled"] = tls.get("ssl_mode") == "DISABLED"
        if tls.get("ssl_mode") in ("REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"):
            arguments["ssl"] = _context(tls)
        # AUTOCOMMIT: each SELECT sees what is committed now, never an older snapshot.
        connection = pymysql.connect(**arguments, autocommit=True)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        except BaseException:
            self._close(connection)
            raise
        return connection

    def _ask(self, sql: str, parameters: Sequence[str]) -> list[Row]:
        if sql.startswith("SELECT "):
            sql = _SELECT + sql[7:]
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, parameters or None)
                return list(cursor.fetchall())
        except pymysql.MySQLError as error:
            if error.args and error.args[0] in _LOST:
                self._close(self._connection)
            raise

    def _close(self, connection: Any) -> None:
        with suppress(pymysql.MySQLError):  # closed already
            connection.close()


def _causal(select: str) -> str:
    # It is an error when catching up takes the node too long, or it is cut off.
    return _CAUSAL_SELECT + select.removeprefix("SELECT ")


def _context(tls: Mapping[str, str]) -> ssl.SSLContext:
    # By the names of MySQL's own client; read each time, for files are renewed.
    for name in ("ssl_ca", "ssl_cert", "ssl_key"):
        if name in tls:
            try:
                with open(tls[name], "rb"):
                    pass
            except OSError as error:
                raise OSError(f"{name} {tls[name]}: {error.strerror}") from None
    try:
        context = ssl.create_default_context(cafile=tls.get("ssl_ca"), capath=tls.get("ssl_capath"))
        if "ssl_cert" in tls:
            context.load_cert_chain(
                tls["ssl_cert"], tls.get("ssl_key"), tls.get("ssl_key_password", "")
            )
    except ssl.SSLError as error:
        files = ", ".join(tls[name] for name in ("ssl_ca", "ssl_cert", "ssl_key") if name in tls)
        raise OSError(f"TLS files can't be used: {files}: {error.reason}") from None
    # Python 3.13's default refuses the certificates that MySQL makes for itself.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = tls["ssl_mode"] == "VERIFY_IDENTITY"
    verify = tls["ssl_mode"] in ("VERIFY_CA", "VERIFY_IDENTITY")
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    if "ssl_cipher" in tls:
        context.set_ciphers(tls["ssl_cipher"])
    return context
