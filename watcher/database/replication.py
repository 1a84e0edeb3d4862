# SPDX-License-Identifier: Apache-2.0
"""SQL for what a database server's answer is worth: is it a replica, which may lag behind, or a
node of a cluster, which can be asked to catch up first?"""

#: by the kind of database: an expression that is true on a read-only replica
REPLICA = {
    "mysql": "@@global.read_only <> 'OFF'",  # a number, or a word, which counts as 0
    "mariadb": "@@global.read_only <> 'OFF'",
    "postgresql": "pg_is_in_recovery()",
    "sqlite": "0",
}

#: MariaDB's and MySQL's; ``ON`` on a node of a Galera cluster, no row where that is unknown
WSREP_ON = "SHOW GLOBAL VARIABLES LIKE 'wsrep_on'"

# For one statement: nothing is to be reset, and no reconnect can come between. MariaDB reads the
# first comment, Percona XtraDB Cluster the second. A node that is cut off from its cluster may
# still answer what it knew, if wsrep_dirty_reads lets it, and wouldn't wait then.
_CAUSAL_SELECT = (
    "/*M!100102 SET STATEMENT wsrep_sync_wait = 1, wsrep_dirty_reads = OFF FOR */ "
    "SELECT /*+ SET_VAR(wsrep_sync_wait = 1) SET_VAR(wsrep_dirty_reads = OFF) */ "
)


def causal(select: str) -> str:
    """A SELECT that a Galera node answers once it has applied all that its cluster committed
    before; it is an error when that takes the node too long, or it is cut off."""
    return _CAUSAL_SELECT + select.removeprefix("SELECT ")
