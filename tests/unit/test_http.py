# SPDX-License-Identifier: Apache-2.0
import http.client
import os
import resource
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.services import Images, wait_for
from tests.services.ports import free_port
from watcher import conf
from watcher.service import Service
from watcher.staging.directory import Staging
from watcher.stats import Stats
from watcher.telemetry.http import new_server
from watcher.telemetry.httpserver import Server
from watcher.workqueue import WorkQueue

OK = {"cleaner": None, "database": None, "directory": None, "notifications": None}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers for made-up conditions."""
    servers = []

    def make(conditions: dict[str, str | None], *, ready: bool = True) -> Server:
        file = tmp_path / "glance-api.conf"
        file.write_text(f"[staging_watcher]\nmetrics_port = {free_port()}\n")
        server = new_server(
            conf.load(["--config-file", str(file)]),
            stats=Stats(),
            queue=WorkQueue(),
            conditions=lambda: OK | conditions,
            ready=lambda: ready,
            sweep_interval=lambda: 600,
        )
        server.start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()


def ask(server: Server, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection(*server.server_address[:2], timeout=30)) as connection:  # type: ignore[arg-type]
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


@pytest.mark.parametrize(
    ("path", "conditions", "ready", "status", "text"),
    [
        ("/healthz", {}, False, 200, "cleaner: ok\n"),
        ("/healthz", {"database": "down", "directory": "gone"}, False, 200, "cleaner: ok\n"),
        ("/healthz", {"cleaner": "no progress"}, True, 503, "cleaner: no progress\n"),
        ("/readyz", {}, True, 200, "first_sweep: ok\ndatabase: ok\ndirectory: ok\n"),
        (
            "/readyz",
            {"notifications": "down", "cleaner": "no progress"},
            True,
            200,
            "first_sweep: ok\ndatabase: ok\ndirectory: ok\n",
        ),
        (
            "/readyz",
            {"database": "no such host: ü"},
            True,
            503,
            "first_sweep: ok\ndatabase: no such host: ü\ndirectory: ok\n",
        ),
        (
            "/readyz",
            {"directory": "no such device"},
            False,
            503,
            "first_sweep: not over yet\ndatabase: ok\ndirectory: no such device\n",
        ),
    ],
)
def test_health(
    serve: Callable[..., Server],
    path: str,
    conditions: dict[str, str | None],
    ready: bool,
    status: int,
    text: str,
) -> None:
    assert ask(serve(conditions, ready=ready), path) == (status, text)


def test_it_stops_at_once(serve: Callable[..., Server]) -> None:
    before = set(threading.enumerate())
    server = serve({})
    (thread,) = set(threading.enumerate()) - before
    address = server.server_address
    server.stop()
    thread.join(30)
    assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError), socket.socket() as client:
        client.connect(address)


def test_without_descriptors_it_waits_for_some(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It doesn't try all the time."""
    tries: list[None] = []
    get_request = Server.get_request

    def counted(self: Server) -> tuple[Any, Any]:
        tries.append(None)
        return get_request(self)

    monkeypatch.setattr(Server, "get_request", counted)
    server = serve({})
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


def test_a_cleaner_that_hangs_is_out_of_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    def watched(self: Staging, name: str, status: os.stat_result | None = None) -> int | None:
        heartbeats.append(service._reconciler.heartbeat)
        return remove(self, name, status)

    monkeypatch.setattr(Staging, "remove", watched)
    service.start()
    wait_for(lambda: service.stats.sweeps, 30, "the first sweep")
    service.stop()
    assert len(set(heartbeats)) == 5
