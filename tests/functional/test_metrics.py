# SPDX-License-Identifier: Apache-2.0
"""Metrics and health of the real program, as Prometheus and an operator ask for them."""

import http.client
import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.conftest import sqlite_url
from tests.docs.pages import commands
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.program import SECRET, Program
from tests.services import RabbitMQ, wait_for
from tests.services.ports import free_port

PREFIX = "glance_staging_watcher_"
MOVED_IN = 16384  # bytes of a file, a multiple of the file system's block
CHANGE_TIMEOUT = 40.0  # seconds; the directory is looked at each ten seconds

database_url = sqlite_url


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def host(new_host: Callable[..., Host], port: int) -> Host:
    """A host without a message bus, whose watcher serves metrics."""
    return new_host(watcher=f"metrics_port = {port}")


class Answer(NamedTuple):
    status: int
    type: str
    text: str


def ask(
    port: int, path: str, *, method: str = "GET", address: str = "127.0.0.1", accept: str = ""
) -> Answer:
    """What the program answers."""
    with closing(http.client.HTTPConnection(address, port, timeout=30)) as connection:
        connection.request(method, path, headers={"Accept": accept} if accept else {})
        response = connection.getresponse()
        text = response.read().decode()
        assert SECRET not in text
        return Answer(response.status, response.getheader("Content-Type", ""), text)


def scrape(port: int) -> dict[tuple[str, ...], float]:
    """Values by name and the values of labels, which are in the order of their names."""
    answer = ask(port, "/metrics")
    assert answer.status == 200
    return {
        (
            sample.name.removeprefix(PREFIX),
            *(text for _, text in sorted(sample.labels.items())),
        ): sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }


def wait_for_answer(port: int, path: str, status: int, text: str) -> Answer:
    def answered() -> Answer | None:
        answer = ask(port, path)
        return answer if answer.status == status and text in answer.text else None

    return wait_for(answered, CHANGE_TIMEOUT, f"{status} and {text!r}")  # type: ignore[return-value]


# Numbers


def disk_space(*paths: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in paths)


def move_in(host: Host, name: str) -> Path:
    """Have a file in the staging directory by one file event."""
    outside = host.directory / name
    outside.write_bytes(b"x" * MOVED_IN)
    return outside.rename(host.staging / name)


def test_removals_are_counted_by_what_triggered_them(
    new_host: Callable[..., Host], port: int, rabbitmq: RabbitMQ, notifier: GlanceNotifier
) -> None:
    host = new_host(
        transport_url=rabbitmq.url(), watcher=f"metrics_port = {port}\nabsent_grace = 2"
    )
    bytes_freed = {}

    swept = [host.stage_deleted(), host.stage_deleted(".raw")]
    swept[0].write_bytes(b"x" * 50_000)
    bytes_freed["sweep"] = disk_space(*swept)
    irremovable = new_id()
    host.images.insert(irremovable, deleted=True)
    (host.staging / irremovable).mkdir()
    foreign = host.stage("notanimageid")
    program = host.start()
    found = scrape(port)
    assert found["last_sweep_files", "cleaned"] == 2
    assert found["last_sweep_files", "ignored"] == 1
    assert found["last_sweep_files", "error"] == 1
    assert found["last_sweep_timestamp_seconds",] >= foreign.stat().st_ctime
    assert 0 < found["last_sweep_duration_seconds",] < 30
    program.wait_for_line("Listening for notifications")
    wait_for(lambda: scrape(port)["sweeps_total",] == 2, 10, "the sweep after it connected")

    image = new_id()
    host.images.insert(image)
    notified = [move_in(host, image + suffix) for suffix in ("", ".uc")]
    seen = ("files_total", "ignored", "file_event")
    wait_for(lambda: scrape(port)[seen] == 2, 10, "their file events")
    bytes_freed["notification"] = disk_space(*notified)
    host.images.delete(image)
    notifier.deleted(image)
    host.wait_gone(*notified)

    image = new_id()
    host.images.insert(image, deleted=True)
    host.wait_gone(move_in(host, image))
    bytes_freed["file_event"] = MOVED_IN

    absent = host.stage(new_id(), b"a" * 30_000)
    bytes_freed["recheck"] = disk_space(absent)
    host.wait_gone(absent)

    wait_for(lambda: scrape(port)["files_total", "cleaned", "recheck"], 10, "the stats")
    found = scrape(port)
    for trigger, cleaned in {"sweep": 2, "notification": 2, "file_event": 1, "recheck": 1}.items():
        assert found["files_total", "cleaned", trigger] == cleaned, trigger
        assert found["freed_bytes_total", trigger] == bytes_freed[trigger] > 0, trigger
    assert found["files_total", "error", "sweep"] == found["sweeps_total",] == 2
    assert found["rechecks_total",] >= 1
    assert found["notifications_total",] == 1
    assert found["notification_lag_seconds_count",] == 1
    assert 0 <= found["notification_lag_seconds_sum",] < 60
    assert found["sweep_interval_seconds",] == 600
    assert found["process_resident_memory_bytes",] > 1e6
    assert {name[1]: held for name, held in found.items() if name[0] == "healthy"}.items() >= {
        **dict.fromkeys(["cleaner", "database", "directory", "file_events", "notifications"], 1)
    }.items()


def test_the_limit_is_a_gauge(new_host: Callable[..., Host], port: int) -> None:
    """However many sweeps meet it."""
    host = new_host(
        watcher=f"metrics_port = {port}\nabsent_grace = 0\nmax_absent_removals = 1\n"
        "sweep_interval = 1"
    )
    host.stage_live()
    for _ in range(3):
        host.stage(new_id())
    host.start()
    assert scrape(port)["absent_removals_limit_reached",] == 1
    wait_for(lambda: scrape(port)["sweeps_total",] >= 2, 30, "the second sweep")
    assert scrape(port)["absent_removals_limit_reached",] == 1
    assert "absent_removals_limit: " in wait_for_answer(port, "/readyz", 503, "").text


def test_the_interval_is_the_one_in_force(new_host: Callable[..., Host], port: int) -> None:
    host = new_host(watcher=f"metrics_port = {port}\nsweep_interval = 300")
    program = host.start()
    assert scrape(port)["sweep_interval_seconds",] == 300
    text = host.config_file.read_text()
    for seconds, said in (
        ("-1", "keeping the old values"),
        ("200", "Configuration reloaded"),
    ):
        assert scrape(port)["sweep_interval_seconds",] == 300
        host.config_file.write_text(text.replace("= 300", f"= {seconds}"))
        program.process.send_signal(signal.SIGHUP)
        program.wait_for_line(said)
    assert scrape(port)["sweep_interval_seconds",] == 200


def test_formats(host: Host, port: int) -> None:
    """The oldest one for who asks for none, OpenMetrics for Prometheus; a part of it by name."""
    host.start()
    assert ask(port, "/metrics").type.startswith("text/plain; version=0.0.4")
    answer = ask(port, "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert answer.type.startswith("application/openmetrics-text")
    names = {each.name for each in parse_openmetrics(answer.text)}  # type: ignore[no-untyped-call]
    assert {f"{PREFIX}build", f"{PREFIX}files"} <= names
    name = f"{PREFIX}sweeps_total"
    only = parse(ask(port, f"/metrics?name[]={name}").text)
    assert [sample.name for family in only for sample in family.samples] == [name]


# Health


def test_not_ready_before_the_first_sweep_is_over(host: Host, port: int, database_url: str) -> None:
    path = database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        program = host.start(ready=False)
        program.wait_for_line("Serving metrics and health")
        answer = ask(port, "/readyz")
        assert answer.status == 503 and "first_sweep: not finished yet\n" in answer.text
        assert ask(port, "/healthz").status == 200
        database.execute("ROLLBACK")
    wait_for_answer(port, "/readyz", 200, "first_sweep: ok\n")


def test_ready_while_the_database_answers(host: Host, port: int, database_url: str) -> None:
    host.start()
    answer = ask(port, "/readyz")
    assert (answer.status, answer.type) == (200, "text/plain; charset=utf-8")
    lines = answer.text.splitlines()
    assert {"first_sweep: ok", "database: ok", "directory: ok", "file_events: ok"} <= {*lines}
    assert all(line.endswith(": ok") for line in lines)
    path = database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE images RENAME TO aside")
    host.stage(new_id())
    answer = wait_for_answer(port, "/readyz", 503, "database: no such table: images")
    block = commands("metrics.md", "Health", **{"9798": str(port)})
    assert subprocess.check_output(["sh", "-ec", block.script], text=True) == block.prints
    assert answer.text == block.prints
    assert scrape(port)["healthy", "database"] == 0
    alive = ask(port, "/healthz")
    assert alive.status == 200 and "database" not in alive.text
    assert {"cleaner: ok", "file_events: ok", "closer: ok"} <= {*alive.text.splitlines()}
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE aside RENAME TO images")
    wait_for_answer(port, "/readyz", 200, "database: ok\n")
    assert scrape(port)["healthy", "database"] == 1


def test_ready_while_the_directory_can_be_read(host: Host, port: int) -> None:
    host.start()
    aside = host.staging.rename(host.directory / "aside")
    host.staging.touch()
    wait_for_answer(port, "/readyz", 503, "directory: [Errno 20] Not a directory")
    host.staging.unlink()
    aside.rename(host.staging)
    wait_for_answer(port, "/readyz", 200, "directory: ok\n")


def test_ready_without_a_directory(host: Host, port: int) -> None:
    """It comes with the first stage; a sweep has nothing to do until then."""
    host.staging.rmdir()
    host.start()
    assert ask(port, "/readyz").status == 200
    assert scrape(port)["sweeps_total",] == 1
    assert scrape(port)["last_sweep_files", "cleaned"] == 0
    host.staging.mkdir()


def test_a_database_that_cannot_be_reached_and_no_secret(
    new_host: Callable[..., Host], port: int, database_url: str
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{unused.getsockname()[1]}/glance"
        host = new_host(watcher=f"metrics_port = {port}")
        text = host.config_file.read_text()
        url = f"postgresql+psycopg://glance:{SECRET}@{where}"
        host.config_file.write_text(text.replace(database_url, url))
        host.start()
        assert "database: connection failed" in wait_for_answer(port, "/readyz", 503, "").text
        scrape(port)


# The server


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


@pytest.mark.parametrize("path", ["/x", "/metrics/", "/metricsx", "/healthz/x", "*"])
def test_other_paths(host: Host, port: int, path: str) -> None:
    host.start()
    assert ask(port, path).status == 404


def test_other_methods(host: Host, port: int) -> None:
    program = host.start()
    for path in ("/", "/metrics", "/healthz", "/readyz"):
        answer, head = ask(port, path), ask(port, path, method="HEAD")
        assert head == (answer.status, answer.type, "")
        with connect(port) as client:
            client.sendall(f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
            assert client.makefile("rb").read().endswith(b"\r\n\r\n"), "no body follows"
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X" * 1000):
        assert ask(port, "/metrics", method=method).status == 501
    assert ask(port, "/nothing", method="HEAD") == (404, ask(port, "/nothing").type, "")
    assert not program.lines("HTTP/1"), "no log of accesses"


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Connections to be closed at the end."""
    made: list[socket.socket] = []
    yield made
    for each in made:
        each.close()


def descriptors(program: Program) -> int:
    return len(os.listdir(f"/proc/{program.process.pid}/fd"))


def test_hostile_clients_hold_nobody_up(
    host: Host, port: int, sockets: list[socket.socket]
) -> None:
    """Neither another client, nor removals, nor the stop."""
    program = host.start()
    before = descriptors(program)
    for number in range(200):
        sockets.append(connect(port))
        if number % 3 == 0:
            sockets[-1].sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
    assert ask(port, "/healthz").status == 200
    wait_for(lambda: descriptors(program) <= before + 30, 10, "the oldest to give way")
    for junk in (
        b"\r\n\r\n",
        b"\0\xff\xfe" * 5000 + b"\r\n\r\n",
        b"GET /metrics\r\n",
        b"GET http://[/metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics?name[]=%00%ff&" + b"a=b&" * 9000 + b" HTTP/1.0\r\n\r\n",
        b"GET /metrics HTTP/1.0\r\nAccept: text/plain; version=nonsense\r\n\r\n",
        b"GET /metrics HTTP/1.0\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"GET /metrics HTTP/9999999999999999999.1\r\n\r\n",
        b"GET /metrics HTTP/1.0\r\nContent-Length: 99999999999\r\n\r\n",
    ):
        with connect(port) as client:
            client.sendall(junk)
            client.shutdown(socket.SHUT_WR)
    for _ in range(20):
        with connect(port) as client:  # closed before the answer
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert scrape(port)["sweeps_total",] == 1
    host.wait_gone(host.stage_deleted())
    assert not program.lines("ERROR")
    assert program.stop() == 0


def peak(program: Program) -> int:
    """The most memory that it has had so far, in bytes of resident set size."""
    status = Path(f"/proc/{program.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def send_headers(port: int, size: int) -> None:
    """Send lines of headers, until the server closes the connection."""
    with connect(port) as client, suppress(OSError):
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        header = b"X: " + b"y" * 65000 + b"\r\n"
        for _ in range(size // len(header)):
            client.sendall(header)
        client.recv(65536)


@pytest.mark.usefixtures("executed")
def test_hostile_clients_cost_no_memory(host: Host, port: int) -> None:
    """20 clients with as many headers as the standard library takes, 6 MiB each."""
    program = host.start()
    scrape(port)
    before = peak(program)
    clients = [Thread(target=send_headers, args=(port, 6 * 2**20)) for _ in range(20)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert scrape(port)["sweeps_total",] == 1
    figures = f"peak before: {before / 1e6:.1f} MB, after: {peak(program) / 1e6:.1f} MB"
    assert peak(program) <= 100_000_000, figures
    assert peak(program) - before <= 5_000_000, figures


def listening(program: Program) -> set[str]:
    """Addresses and ports, as the kernel writes them, on which a process listens."""
    place = Path(f"/proc/{program.process.pid}")
    links = []
    for path in (place / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(path))
    inodes = {link.removeprefix("socket:[").removesuffix("]") for link in links}
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in (place / "net" / name).read_text().splitlines()[1:]
    ]
    return {row[1] for row in rows if row[3] == "0A" and row[9] in inodes}


def test_off_unless_asked_for_and_then_on_loopback(
    new_host: Callable[..., Host], host: Host, port: int
) -> None:
    assert listening(host.start()) == {f"0100007F:{port:04X}"}
    assert not listening(new_host().start())


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback address")
def test_an_ipv6_address(new_host: Callable[..., Host], port: int) -> None:
    host = new_host(watcher=f"metrics_port = {port}\nmetrics_host = ::1")
    program = host.start()
    assert ask(port, "/healthz", address="::1").status == 200
    assert listening(program) == {f"{'0' * 24}01000000:{port:04X}"}


def refused(host: Host) -> str:
    program = host.start(ready=False)
    assert program.wait() == 2
    (line,) = [each for each in program.log.splitlines() if "glance-staging-watcher: " in each]
    return line


def test_a_port_in_use(host: Host, port: int) -> None:
    residue = host.stage_deleted()
    with socket.create_server(("127.0.0.1", port)):
        line = refused(host)
    assert f"Cannot serve metrics on 127.0.0.1 port {port}: Address already in use" in line
    assert residue.exists()


def test_an_address_of_another_host(new_host: Callable[..., Host], port: int) -> None:
    host = new_host(watcher=f"metrics_port = {port}\nmetrics_host = 192.0.2.1")
    assert "Cannot assign requested address" in refused(host)


def test_without_prometheus_client(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.modules['prometheus_client'] = None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    line = refused(host)
    assert "prometheus_client is not installed" in line
    assert "pip install 'glance-staging-watcher[metrics]'" in line
    host.config_file.write_text(host.config_file.read_text().replace("metrics_port", "#"))
    assert host.start().stop() == 0, "it isn't needed where it is off"
