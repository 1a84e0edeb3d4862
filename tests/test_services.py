# SPDX-License-Identifier: Apache-2.0
"""The services for tests do what the other tests expect of them."""

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
import sqlalchemy as sa

from tests.services import Database, Images, RabbitMQ, Server, TcpProxy, wait_for

GREETINGS = {
    "rabbitmq": b"AMQP\x00\x00\x09\x01",
    "mariadb": b"",  # the server speaks first
    "postgresql": struct.pack("!ii", 8, 80877103),  # asks for TLS
}


@pytest.fixture(params=GREETINGS)
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the servers in turn."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Server)
    return server


@pytest.fixture(params=["mariadb", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """Each of the database servers in turn."""
    database = request.getfixturevalue(request.param)
    assert isinstance(database, Database)
    return database


class Echo(socketserver.BaseRequestHandler):
    """Sends back what it gets."""

    def handle(self) -> None:
        with suppress(ConnectionError):
            while data := self.request.recv(4096):
                self.request.sendall(data)


@pytest.fixture
def proxy() -> Iterator[TcpProxy]:
    """A proxy for a server which sends back what it gets."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as echo:
        thread = threading.Thread(target=echo.serve_forever, args=(0.01,))
        thread.start()
        proxy = TcpProxy(echo.server_address[1])
        yield proxy
        proxy.close()
        echo.shutdown()
        thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def silent(client: socket.socket) -> bool:
    """Say whether a connected socket stays open but gets nothing for a while."""
    client.settimeout(0.3)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(10)
    return False


def statuses(url: str) -> dict[str, str]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT id, status FROM images"))
        return {row.id: row.status for row in rows}


def test_wait_for_returns_the_result() -> None:
    results = iter([0, 0, 3])
    assert wait_for(lambda: next(results), 10, "three") == 3


def test_wait_for_names_what_was_awaited() -> None:
    with pytest.raises(AssertionError, match="the end of the world"):
        wait_for(lambda: False, 0, "the end of the world")


def test_paused_server_keeps_connections_but_is_silent(
    server: Server, request: pytest.FixtureRequest
) -> None:
    greeting = GREETINGS[request.node.callspec.params["server"]]
    server.pause()
    try:
        with connect(server.port) as client:
            client.sendall(greeting)
            assert silent(client)
            server.resume()
            assert client.recv(1)
    finally:
        server.resume()


def test_stopped_server_refuses_connections(server: Server) -> None:
    server.stop()
    try:
        with pytest.raises(ConnectionRefusedError):
            connect(server.port)
    finally:
        server.start()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_database_keeps_what_was_committed(database: Database, end: str) -> None:
    name, port = f"kept_by_{end}", database.port
    database.create_database(name)
    images = Images(database.url(name))
    images.create_table()
    images.insert("a")
    getattr(database, end)()
    database.start()
    images.close()
    assert database.port == port
    assert statuses(database.url(name)) == {"a": "queued"}


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_broker_keeps_users_and_durable_queues(rabbitmq: RabbitMQ, end: str) -> None:
    port, vhost = rabbitmq.port, rabbitmq.new_vhost()
    rabbitmq.add_user(end, "secret", vhost, write="^only$")
    rabbitmq.ctl(
        "eval",
        f'Name = {{resource, <<"{vhost}">>, queue, <<"q">>}},'
        'rabbit_amqqueue:declare(Name, true, false, [], none, <<"test">>).',
    )
    rabbitmq.sync()
    getattr(rabbitmq, end)()
    rabbitmq.start()
    assert rabbitmq.port == port
    assert rabbitmq.queues(vhost) == {"q": 0}
    assert "^only$" in rabbitmq.ctl("list_user_permissions", end)
    rabbitmq.ctl("authenticate_user", end, "secret")


def test_broker_urls(rabbitmq: RabbitMQ) -> None:
    address = f"127.0.0.1:{rabbitmq.port}"
    assert rabbitmq.url() == f"rabbit://glance:s3cr3t-broker@{address}/"
    assert rabbitmq.url("me", "a/b", "v w") == f"rabbit://me:a%2Fb@{address}/v%20w"


def test_proxy_forwards(proxy: TcpProxy) -> None:
    with connect(proxy.port) as client:
        client.sendall(b"x" * 300_000)
        client.shutdown(socket.SHUT_WR)
        assert sum(map(len, iter(lambda: client.recv(65536), b""))) == 300_000


def test_proxy_resets(proxy: TcpProxy) -> None:
    with connect(proxy.port) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(proxy.port) as client:
        client.sendall(b"y")
        assert client.recv(1) == b"y"


def test_proxy_freezes_and_thaws(proxy: TcpProxy) -> None:
    with connect(proxy.port) as before:
        before.sendall(b"x")
        assert before.recv(1) == b"x"
        proxy.freeze()
        before.sendall(b"y")
        with connect(proxy.port) as during:
            during.sendall(b"z")
            assert silent(before)
            assert silent(during)
            proxy.thaw()
            assert before.recv(1) == b"y"
            assert during.recv(1) == b"z"


def test_proxy_refuses_and_accepts(proxy: TcpProxy) -> None:
    with connect(proxy.port) as before:
        before.sendall(b"x")
        assert before.recv(1) == b"x"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy.port)
        before.sendall(b"y")
        assert before.recv(1) == b"y"
    proxy.accept()
    with connect(proxy.port) as after:
        after.sendall(b"z")
        assert after.recv(1) == b"z"


def test_proxy_resets_clients_of_a_dead_target(proxy: TcpProxy) -> None:
    proxy.refuse()
    dead = proxy.port
    second = TcpProxy(dead)
    try:
        # The reset may come before the client knows that it is connected.
        with pytest.raises(ConnectionResetError), connect(second.port) as client:
            client.recv(1)
    finally:
        second.close()


def test_images(database_url: str, images: Images) -> None:
    images.insert("a", "b", "c")
    images.insert("d", deleted=True, status="deleted")
    images.delete("b")
    images.purge("c")
    assert statuses(database_url) == {"a": "queued", "b": "deleted", "d": "deleted"}
    images.insert(*map(str, range(2000)), status="importing")
    images.delete(*map(str, range(1999)))
    assert list(statuses(database_url).values()).count("importing") == 1
    images.clear()
    assert statuses(database_url) == {}
