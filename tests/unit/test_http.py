# SPDX-License-Identifier: Apache-2.0
import http.client
import os
import re
import resource
import select
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.services import Images, wait_for
from tests.services.ports import free_port
from watcher import conf
from watcher.service import Service
from watcher.staging.directory import Staging
from watcher.stats import Stats
from watcher.telemetry import http as served
from watcher.telemetry.http import MAX_CONNECTIONS, MAX_HEAD, MetricsServer, new_server
from watcher.workqueue import WorkQueue

HEALTHY = {
    "cleaner": None,
    "database": None,
    "directory": None,
    "file_events": None,
    "notifications": None,
    "audit": None,
    "removals": None,
    "absent_removals_limit": None,
    "witness": None,
}
TIMEOUT = 30.0  # seconds


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., MetricsServer]]:
    """Start servers with given conditions."""
    servers = []

    def make(
        conditions: dict[str, str | None] | None = None,
        *,
        ready: bool = True,
        alive: dict[str, str | None] | None = None,
    ) -> MetricsServer:
        file = tmp_path / "glance-api.conf"
        file.write_text(f"[staging_watcher]\nmetrics_port = {free_port()}\n")
        server = new_server(
            conf.load(["--config-file", str(file)]),
            stats=Stats(),
            queue=WorkQueue(),
            conditions=lambda: HEALTHY | (conditions or {}),
            ready=lambda: ready,
            sweep_interval=lambda: 600,
            alive=lambda: alive or {"cleaner": None},
        )
        server.start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()


def connect(server: MetricsServer) -> socket.socket:
    host, port = server.server_address[:2]
    return socket.create_connection((str(host), port), timeout=TIMEOUT)


def ask(server: MetricsServer, path: str, method: str = "GET") -> tuple[int, str]:
    host, port = server.server_address[:2]
    with closing(http.client.HTTPConnection(str(host), port, timeout=TIMEOUT)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def failing(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.endswith(": ok")]


@pytest.mark.parametrize(
    ("conditions", "ready", "status", "lines"),
    [
        ({}, True, 200, []),
        ({}, False, 503, ["first_sweep: not finished yet"]),
        ({"witness": "no image of this Glance found yet"}, True, 200, []),
        *(
            ({name: "cause: ü"}, True, 503, [f"{name}: cause: ü"])
            for name in HEALTHY.keys() - {"witness"}
        ),
        (
            {"database": "no such host", "audit": "No space left on device"},
            True,
            503,
            ["database: no such host", "audit: No space left on device"],
        ),
    ],
)
def test_readiness(
    serve: Callable[..., MetricsServer],
    conditions: dict[str, str | None],
    ready: bool,
    status: int,
    lines: list[str],
) -> None:
    answered, text = ask(serve(conditions, ready=ready), "/readyz")
    assert (answered, failing(text)) == (status, lines)
    names = {line.partition(":")[0] for line in text.splitlines()}
    assert names == (HEALTHY.keys() | {"first_sweep"}) - {"witness"}


@pytest.mark.parametrize(
    ("conditions", "alive", "status", "text"),
    [
        ({"database": "down", "notifications": "down"}, {"cleaner": None}, 200, "cleaner: ok\n"),
        ({}, {"cleaner": None, "listener": None}, 200, "cleaner: ok\nlistener: ok\n"),
        ({}, {"cleaner": None, "listener": "ended"}, 503, "cleaner: ok\nlistener: ended\n"),
    ],
)
def test_liveness(
    serve: Callable[..., MetricsServer],
    conditions: dict[str, str | None],
    alive: dict[str, str | None],
    status: int,
    text: str,
) -> None:
    """A restart doesn't help a database that is down."""
    assert ask(serve(conditions, ready=False, alive=alive), "/healthz") == (status, text)


def test_a_name_that_is_not_utf_8_in_a_cause(serve: Callable[..., MetricsServer]) -> None:
    _, text = ask(serve({"directory": os.fsdecode(b"at \xff")}), "/readyz")
    assert "directory: at \\udcff\n" in text


def test_the_landing_page_links_to_every_page(serve: Callable[..., MetricsServer]) -> None:
    server = serve()
    status, text = ask(server, "/")
    links = re.findall('href="(.*?)"', text)
    assert (status, links) == (200, ["/metrics", "/readyz", "/healthz"])
    assert [ask(server, link)[0] for link in links] == [200] * 3


def test_head_has_no_body(serve: Callable[..., MetricsServer]) -> None:
    server = serve()
    for path in ("/", "/metrics", "/readyz", "/nothing"):
        with connect(server) as client:
            client.sendall(f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
            assert client.makefile("rb").read().endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /healthz HTTP/1.0\nA: b\n\n",
        b"GET /healthz HTTP/1.1\r\nA: b\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n",
    ],
)
def test_one_answer_to_a_connection(serve: Callable[..., MetricsServer], request_: bytes) -> None:
    with connect(serve()) as client:
        for byte in range(0, len(request_), 7):  # the end of the head in two pieces
            client.sendall(request_[byte : byte + 7])
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.0 200") and answer.count(b"HTTP/1.0") == 1


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /healthz HTTP/1.0\r\nA: " + b"x" * (MAX_HEAD - 30) + b"\r\n\r\n", b"200"),
        (b"GET /healthz HTTP/1.0\r\nA: " + b"x" * MAX_HEAD, b"431"),
        (b"GET /" + b"x" * MAX_HEAD, b"431"),
        (b"GET /healthz HTTP/1.0\r\n" + b"A: b\r\n" * 101 + b"\r\n", b"431"),
    ],
)
def test_a_request_is_bounded(
    serve: Callable[..., MetricsServer], line: bytes, status: bytes
) -> None:
    with connect(serve()) as client:
        client.sendall(line[: MAX_HEAD + 1])  # what is never read would reset the connection
        assert client.makefile("rb").readline().split()[1] == status


def test_a_request_in_many_pieces_is_refused(serve: Callable[..., MetricsServer]) -> None:
    with connect(serve()) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):
            client.sendall(b"GET / HTTP/1.0\r\nA: ")
            while not select.select([client], [], [], 0.001)[0]:
                client.sendall(b"b")
            assert client.recv(1) == b""


def test_a_slow_request_ends(
    serve: Callable[..., MetricsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "REQUEST_TIMEOUT", 0.3)
    with connect(serve()) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\nA: b")
        assert client.recv(1) == b""


def test_the_oldest_connection_gives_way(serve: Callable[..., MetricsServer]) -> None:
    server = serve()
    clients = [connect(server) for _ in range(MAX_CONNECTIONS)]
    wait_for(lambda: len(server._open) == MAX_CONNECTIONS, TIMEOUT, "all connections")
    assert ask(server, "/healthz")[0] == 200
    assert clients[0].recv(1) == b""
    clients[-1].sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert clients[-1].makefile("rb").readline().split()[1] == b"200"
    for client in clients:
        client.close()


def test_without_a_free_slot_a_connection_is_refused(
    serve: Callable[..., MetricsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a page is being made; afterwards everything is served again."""
    monkeypatch.setattr(served, "SLOT_TIMEOUT", 0.05)
    server = serve()
    with server.turn:
        clients = [connect(server) for _ in range(MAX_CONNECTIONS)]
        for client in clients:
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        wait_for(lambda: len(server._open) == MAX_CONNECTIONS, TIMEOUT, "all connections")
        with connect(server) as late:
            assert late.recv(1) == b""
    for client in clients[1:]:
        assert client.makefile("rb").readline().split()[1] == b"200"
    assert ask(server, "/healthz")[0] == 200
    for client in clients:
        client.close()
    wait_for(lambda: not server._open, TIMEOUT, "the end of the connections")


def test_without_a_free_thread_a_connection_is_refused(
    serve: Callable[..., MetricsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    server = serve()
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    for _ in range(MAX_CONNECTIONS + 1):  # each gives back its slot
        with connect(server) as client:
            assert client.recv(1) == b""
    monkeypatch.undo()
    assert ask(server, "/healthz")[0] == 200


def test_any_failure_to_accept_leaves_it_serving(
    serve: Callable[..., MetricsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "RETRY_DELAY", 0.0)
    failures = iter([MemoryError(), OSError("no descriptor"), ValueError()])
    really = MetricsServer.get_request

    def fail(self: MetricsServer) -> tuple[Any, Any]:
        if failure := next(failures, None):
            raise failure
        return really(self)

    monkeypatch.setattr(MetricsServer, "get_request", fail)
    assert ask(serve(), "/healthz")[0] == 200


def test_a_flood_of_connections_is_slowed_down(
    serve: Callable[..., MetricsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    waits: list[float] = []
    monkeypatch.setattr(server._stopping, "wait", waits.append)
    for number in range(1, 4):
        assert ask(server, "/healthz")[0] == 200
        expected = [served.ACCEPT_INTERVAL] * number
        wait_for(lambda: waits == expected, TIMEOUT, "a wait")  # noqa: B023 - called at once


def test_the_address_is_not_looked_up(
    serve: Callable[..., MetricsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that doesn't answer must not delay the start."""
    asked: list[str] = []
    monkeypatch.setattr(socket, "getfqdn", asked.append)
    serve()
    assert not asked


def test_it_stops_at_once(serve: Callable[..., MetricsServer]) -> None:
    before = set(threading.enumerate())
    server = serve()
    (thread,) = set(threading.enumerate()) - before
    address = server.server_address
    server.stop()
    thread.join(30)
    assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError), socket.socket() as client:
        client.connect(address)


def test_without_descriptors_it_waits_for_some(
    serve: Callable[..., MetricsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It doesn't try all the time."""
    tries: list[None] = []
    get_request = MetricsServer.get_request

    def counted(self: MetricsServer) -> tuple[Any, Any]:
        tries.append(None)
        return get_request(self)

    monkeypatch.setattr(MetricsServer, "get_request", counted)
    server = serve()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client:
        lowest = os.dup(client.fileno())
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            client.connect(server.server_address)
            wait_for(lambda: len(tries) >= 2, 30, "a second try")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(tries) < 10
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b"cleaner: ok" in client.makefile("rb").read()


def test_a_server_whose_thread_ended_answers_again(
    serve: Callable[..., MetricsServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = serve()

    def end() -> None:
        raise SystemExit

    with monkeypatch.context() as ending:
        ending.setattr(server, "handle_request", end)
        ending.setattr(threading, "excepthook", lambda arguments: None)
        ask(server, "/")  # the last one, by the call that was under way
        wait_for(lambda: server._thread.ended, TIMEOUT, "its end")
    server.supervise()
    assert ask(server, "/healthz")[0] == 200
    assert caplog.messages == ["HTTP server failed, restarting it: its thread has ended"]


def new_service(directory: Path, residue: int = 0) -> Service:
    """A service on a directory with that many files of deleted images."""
    url = f"sqlite:///{directory / 'glance.sqlite'}"
    images = Images(url)
    images.create_table()
    for image in (str(uuid.uuid4()) for _ in range(residue)):
        images.insert(image, deleted=True)
        (directory / image).touch()
    images.close()
    file = directory / "glance-api.conf"
    file.write_text(
        f"[DEFAULT]\nnode_staging_uri = file://{directory}\n[database]\nconnection = {url}\n"
        "[staging_watcher]\nnotifications = false\n"
    )
    return Service(conf.load(["--config-file", str(file)]))


def test_a_cleaner_that_hangs_is_unhealthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = new_service(tmp_path)
    assert service.conditions()["cleaner"] == "its thread has ended"
    service.start()
    wait_for(lambda: service.stats.sweeps, 30, "the first sweep")
    assert service.conditions()["cleaner"] is None
    monkeypatch.setattr("watcher.service.STALL_TIMEOUT", -1.0)
    stall = service.conditions()["cleaner"]
    assert stall is not None and stall.startswith("no progress for ")
    monkeypatch.undo()
    service.stop()
    assert service.conditions()["cleaner"] == "its thread has ended"


def test_each_removal_is_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand huge files are looked up together, and take their time."""
    service = new_service(tmp_path, residue=5)
    heartbeats = []
    remove = Staging.remove

    def watched(self: Staging, name: str, seen: os.stat_result | None) -> int | None:
        heartbeats.append(service._heartbeat)
        return remove(self, name, seen)

    monkeypatch.setattr(Staging, "remove", watched)
    service.start()
    wait_for(lambda: service.stats.sweeps, 30, "the first sweep")
    service.stop()
    assert len(set(heartbeats)) == 5
