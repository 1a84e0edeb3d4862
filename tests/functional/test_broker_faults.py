# SPDX-License-Identifier: Apache-2.0
"""Faults of the broker: what happens, what the operator sees, and that nothing is left behind."""

import json
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import amqp
import pytest

from tests.conftest import running, sqlite_url
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.program import SECRET, Program
from tests.services import RabbitMQ, TcpProxy, unique_name, wait_for
from tests.services.refusing_proxy import RefusingProxy

INFO = "notifications.info"
BACK_TIMEOUT = 60.0  # seconds; the driver waits up to half a minute between its tries
DRIVER = "oslo.messaging: "

# What the operator sees
LISTENING = "INFO Listening for notifications in queue watcher-host[0-9]+"
LOST = "ERROR Notification listener disconnected; sweeps and file events continue: broker [^ ]+: "
BACK = "INFO Notification listener connected again"
UNREACHABLE = LOST + (
    r"(the connection was lost|\[Errno [0-9]+\] [A-Za-z ]+"
    r"|\(320\) CONNECTION_FORCED - broker forced connection closure with reason 'shutdown')"
)
LOGIN_REFUSED = LOST + (
    r"\(403\) ACCESS_REFUSED - Login was refused using authentication mechanism AMQPLAIN. "
    "For details see the broker logfile."
)

_LINE = re.compile(r"[-0-9]+ [:.0-9]+ [0-9]+ ([A-Z]+) ([^ ]+) \[[^]]*\] (.*)")

database_url = sqlite_url


@pytest.fixture(scope="module")
def own_rabbitmq() -> Iterator[RabbitMQ]:
    """A broker that other tests don't see."""
    yield from running(RabbitMQ)


@pytest.fixture
def broker(own_rabbitmq: RabbitMQ) -> RabbitMQ:
    """The broker of this module, running."""
    own_rabbitmq.start()
    return own_rabbitmq


@pytest.fixture
def vhost(broker: RabbitMQ) -> str:
    """An empty virtual host."""
    return broker.new_vhost()


@pytest.fixture
def proxy(broker: RabbitMQ) -> Iterator[TcpProxy]:
    """The network between watcher and broker."""
    made = TcpProxy(broker.port)
    yield made
    made.close()


def said(program: Program) -> list[str]:
    """Level and text of what the operator sees: every line at INFO and above, less what the
    other modules say in good order."""
    lines = []
    for line in program.log.splitlines():
        found = _LINE.fullmatch(line)
        level, logger, text = found.groups() if found else ("UNKNOWN", "", line)
        ours = logger.startswith("watcher.") and logger != "watcher.triggers.listener"
        if level != "DEBUG" and not (ours and level == "INFO"):
            lines.append(f"{level} {text}")
    return lines


def check_said(program: Program, *patterns: str) -> None:
    """The operator sees these lines, each once and in this order, and no other."""
    lines = said(program)
    matches = [re.fullmatch(*pair) for pair in zip(patterns, lines, strict=False)]
    assert len(lines) == len(patterns) and all(matches), "\n".join(lines)


def wait_said(program: Program, *patterns: str) -> None:
    """Wait for that many lines, which must be these."""
    wait_for(lambda: len(said(program)) >= len(patterns), BACK_TIMEOUT, program.log)
    check_said(program, *patterns)


def report(transport_url: str, image: str) -> None:
    """Report a deletion as glance-api does."""
    notifier = GlanceNotifier(transport_url)
    notifier.deleted(image)
    notifier.close()


class Scene:
    """A watcher that goes through a fault, and another that is stopped while it lasts.

    Sweeps come at the start and after a reconnect only. Of each file below an event reports only
    before the start, and notifications of them are sent only when a test says so.
    """

    def __init__(
        self, new_host: Callable[..., Host], transport_url: str, rabbit: str = "", **more: str
    ) -> None:
        more["more"] = f"[oslo_messaging_rabbit]\n{rabbit}\n"
        self.hosts = [new_host(transport_url=transport_url, **more) for _ in range(2)]
        self.host = self.hosts[0]
        for host in self.hosts:
            host.stage_live()
            host.stage_live(".uc")
        self.lost, self.reported = (self.host.stage_live(suffix) for suffix in ("", ""))
        self.old = [host.stage_deleted() for host in self.hosts]
        self.program, self.other = (host.start() for host in self.hosts)
        assert not any(path.exists() for path in self.old), "the first sweep waits for no broker"

    def listen(self) -> None:
        """Wait until both hear notifications."""
        for program in (self.program, self.other):
            wait_said(program, LISTENING)

    def during(self, *patterns: str) -> None:
        """While the fault lasts: it was logged, residue arises that no notification reports,
        file events are heeded, and the program can be stopped."""
        wait_said(self.program, *patterns)
        self.delete(self.lost)
        self.host.wait_gone(self.host.stage_deleted(".raw"))
        wait_said(self.other, *patterns)
        assert self.other.stop() == 0
        check_said(self.other, *patterns)
        assert (self.host.staging / self.lost).exists()

    def after(self, transport_url: str, *patterns: str) -> None:
        """When the fault is over: it was logged, the residue is gone, notifications arrive."""
        wait_said(self.program, *patterns)
        self.host.wait_gone(self.host.staging / self.lost)
        self.delete(self.reported)
        report(transport_url, self.reported)
        self.host.wait_gone(self.host.staging / self.reported)
        assert self.program.stop() == 0
        check_said(self.program, *patterns)
        for host in self.hosts:
            host.check_live()

    def delete(self, image: str) -> None:
        """Delete an image, without a notification."""
        self.host.forget(image)
        self.host.images.delete(image)


def through(proxy: TcpProxy, broker: RabbitMQ) -> str:
    """The transport URL by way of the proxy."""
    return broker.url().replace(f":{broker.port}/", f":{proxy.port}/")


def test_absent_at_start(new_host: Callable[..., Host], own_rabbitmq: RabbitMQ) -> None:
    own_rabbitmq.stop()
    scene = Scene(new_host, own_rabbitmq.url())
    scene.program.wait_for_line(DRIVER + "Connection failed", count=3)
    scene.during(UNREACHABLE)
    own_rabbitmq.start()
    scene.after(own_rabbitmq.url(), UNREACHABLE, BACK)


def test_a_name_that_cannot_be_resolved(new_host: Callable[..., Host], broker: RabbitMQ) -> None:
    scene = Scene(new_host, f"rabbit://glance:{SECRET}@no-such-host.invalid:5672/")
    scene.program.wait_for_line(DRIVER + "Connection failed", BACK_TIMEOUT, count=2)
    unresolved = LOST.replace("[^ ]+", "no-such-host.invalid:5672") + r"\[Errno -[0-9]+\] .*"
    scene.during(unresolved)
    assert scene.program.stop() == 0
    check_said(scene.program, unresolved)
    text = scene.host.config_file.read_text()
    scene.host.config_file.write_text(
        re.sub("transport_url = .*", f"transport_url = {broker.url()}", text)
    )
    scene.program = scene.host.start()
    scene.after(broker.url(), LISTENING)


def test_killed_and_back_after_seconds(new_host: Callable[..., Host], broker: RabbitMQ) -> None:
    scene = Scene(new_host, broker.url())
    scene.listen()
    broker.sync()
    broker.kill()
    scene.program.wait_for_line("is unreachable", count=3)
    scene.during(LISTENING, UNREACHABLE)
    broker.start()
    scene.after(broker.url(), LISTENING, UNREACHABLE, BACK)


def test_stopped_while_10000_notifications_wait(
    new_host: Callable[..., Host], broker: RabbitMQ
) -> None:
    scene = Scene(new_host, broker.url(), "rabbit_qos_prefetch_count = 100")
    scene.listen()
    host, process = scene.host, scene.program.process
    ids = [new_id() for _ in range(10_000)]
    host.images.insert(*ids)
    paths = [host.stage(image, b"") for image in ids]
    host.wait_gone(host.stage_deleted())  # all the events before are dealt with

    host.images.delete(*ids)
    process.send_signal(signal.SIGSTOP)
    with broker.channel() as channel:
        for image in ids:
            channel.basic_publish(message(image), "glance", INFO)
    queue = f"watcher-{host.directory.name}"
    wait_for(lambda: broker.queues()[queue] >= 9000, BACK_TIMEOUT, f"a full {queue}")
    broker.stop()
    process.send_signal(signal.SIGCONT)
    scene.during(LISTENING, UNREACHABLE)
    assert sum(path.exists() for path in paths) >= 9000

    broker.start()
    wait_for(lambda: not any(path.exists() for path in paths), BACK_TIMEOUT, "an empty directory")
    scene.after(broker.url(), LISTENING, UNREACHABLE, BACK)


def test_a_connection_that_is_reset(
    new_host: Callable[..., Host], broker: RabbitMQ, proxy: TcpProxy
) -> None:
    scene = Scene(new_host, through(proxy, broker))
    scene.listen()
    proxy.refuse()
    proxy.reset()
    scene.during(LISTENING, UNREACHABLE)
    proxy.accept()
    scene.after(broker.url(), LISTENING, UNREACHABLE, BACK)


def test_a_connection_on_which_nothing_comes_any_more(
    new_host: Callable[..., Host], broker: RabbitMQ, proxy: TcpProxy
) -> None:
    scene = Scene(new_host, through(proxy, broker), "heartbeat_timeout_threshold = 4")
    scene.listen()
    proxy.freeze()
    half_open = LOST + "Too many heartbeats missed"
    scene.during(LISTENING, half_open)
    scene.program.wait_for_line("is unreachable", count=2)
    proxy.thaw()
    scene.after(broker.url(), LISTENING, half_open, BACK)


class Refusal:
    """Something that the broker refuses until the operator repairs it."""

    said: str
    url: str

    def __init__(self, broker: RabbitMQ) -> None:
        self.broker = broker
        self.name = unique_name("other")
        self.password = f"{SECRET}-{self.name}"

    def repair(self) -> None:
        """Let the broker accept what it refused."""
        raise NotImplementedError


class WrongPassword(Refusal):
    said = LOGIN_REFUSED

    def __init__(self, broker: RabbitMQ) -> None:
        super().__init__(broker)
        broker.add_user(self.name, self.password + "-old")
        self.url = broker.url(self.name, self.password)

    def repair(self) -> None:
        self.broker.ctl("change_password", self.name, self.password)


class WrongVhost(Refusal):
    said = LOST + r"Connection.open: \(530\) NOT_ALLOWED - vhost other_[0-9]+ not found"

    def __init__(self, broker: RabbitMQ) -> None:
        super().__init__(broker)
        self.url = broker.url(vhost=self.name)

    def repair(self) -> None:
        self.broker.ctl("add_vhost", self.name)


class NoPermission(Refusal):
    said = LOST + (
        r"Exchange.declare: \(403\) ACCESS_REFUSED - (configure )?access to exchange 'glance' in "
        "vhost '/' refused for user 'other_[0-9]+'"
    )

    def __init__(self, broker: RabbitMQ) -> None:
        super().__init__(broker)
        broker.add_user(self.name, self.password, configure="^$")
        self.url = broker.url(self.name, self.password)

    def repair(self) -> None:
        self.broker.ctl("set_permissions", self.name, ".*", ".*", ".*")


REFUSALS: list[type[Refusal]] = [WrongPassword, WrongVhost, NoPermission]


@pytest.mark.parametrize("kind", [WrongPassword, NoPermission])
def test_refused_until_repaired(
    new_host: Callable[..., Host], broker: RabbitMQ, kind: type[Refusal]
) -> None:
    refusal = kind(broker)
    scene = Scene(new_host, refusal.url)
    scene.program.wait_for_line("Attempt 2 to listen failed")
    scene.during(refusal.said)
    refusal.repair()
    scene.after(refusal.url, refusal.said, BACK)


def test_a_fault_is_logged_once_for_any_cause(
    new_host: Callable[..., Host], broker: RabbitMQ
) -> None:
    refusal = WrongVhost(broker)
    scene = Scene(new_host, refusal.url)
    scene.program.wait_for_line("Attempt 2 to listen failed")
    scene.during(refusal.said)
    refusal.repair()
    scene.program.wait_for_line("access to vhost", BACK_TIMEOUT)
    check_said(scene.program, refusal.said)
    broker.ctl("set_permissions", "--vhost", refusal.name, "glance", ".*", ".*", ".*")
    scene.after(refusal.url, refusal.said, BACK)


def test_refused_attempts_leak_nothing(new_host: Callable[..., Host], broker: RabbitMQ) -> None:
    refusals = [kind(broker) for kind in REFUSALS]
    programs = [new_host(transport_url=refusal.url).start() for refusal in refusals]
    connections = len(broker.ctl("list_connections", "pid").splitlines())
    for program, refusal in zip(programs, refusals, strict=True):
        program.wait_for_line("Attempt 1 to listen failed")
        few = resources(program)
        program.wait_for_line("Attempt 5 to listen failed", BACK_TIMEOUT)
        # One connection more, in the middle of an attempt or until the garbage is collected
        wait_for(lambda: resources(program) <= few + 1, 5, f"no more than {few} + 1")  # noqa: B023
        check_said(program, refusal.said)
    now = len(broker.ctl("list_connections", "pid").splitlines())
    assert now <= connections + 1


def resources(program: Program) -> int:
    """Open descriptors and threads of a process."""
    proc = Path(f"/proc/{program.process.pid}")
    return len(list((proc / "fd").iterdir())) + len(list((proc / "task").iterdir()))


def test_a_password_changed_while_connected(
    new_host: Callable[..., Host], broker: RabbitMQ
) -> None:
    refusal = WrongPassword(broker)
    refusal.repair()
    scene = Scene(new_host, refusal.url)
    scene.listen()
    broker.ctl("change_password", refusal.name, f"{SECRET}-new")
    broker.restart()
    scene.program.wait_for_line("Login was refused", BACK_TIMEOUT)
    scene.during(LISTENING, UNREACHABLE)
    refusal.repair()
    scene.after(refusal.url, LISTENING, UNREACHABLE, BACK)


def test_the_queue_is_deleted_while_connected(
    new_host: Callable[..., Host], broker: RabbitMQ
) -> None:
    scene = Scene(new_host, broker.url())
    scene.listen()
    scene.delete(scene.lost)
    with broker.channel() as channel:
        channel.queue_delete(f"watcher-{scene.host.directory.name}")
    cancelled = LOST + "(Basic.cancel: .*|the connection was lost)"
    scene.after(broker.url(), LISTENING, cancelled, BACK)


def durable_exchange(channel: amqp.Channel, queues: list[str]) -> None:
    channel.exchange_declare("glance", "topic", durable=True, auto_delete=False)


def durable_queue(channel: amqp.Channel, queues: list[str]) -> None:
    for queue in queues:
        channel.queue_declare(queue, durable=True, auto_delete=False)


def queue_with_arguments(channel: amqp.Channel, queues: list[str]) -> None:
    for queue in queues:
        channel.queue_declare(queue, auto_delete=False, arguments={"x-max-length": 7})


@pytest.mark.parametrize(
    ("declare", "argument"),
    [
        (durable_exchange, "'durable' for exchange 'glance'"),
        (durable_queue, "'durable' for queue 'watcher-.*'"),
        (queue_with_arguments, "'x-max-length' for queue 'watcher-.*'"),
    ],
)
def test_declared_otherwise_before(
    new_host: Callable[..., Host],
    broker: RabbitMQ,
    vhost: str,
    declare: Callable[[amqp.Channel, list[str]], None],
    argument: str,
) -> None:
    queues = [unique_name("other") for _ in range(2)]
    pools = iter(queues)

    def with_pool(**options: str) -> Host:
        return new_host(watcher=f"pool = {next(pools)}", **options)

    with broker.channel(vhost) as channel:
        declare(channel, queues)
    url = broker.url(vhost=vhost)
    scene = Scene(with_pool, url)
    scene.program.wait_for_line("Attempt 2 to listen failed")
    mismatch = LOST + (
        rf"(Exchange|Queue).declare: \(406\) PRECONDITION_FAILED - inequivalent arg {argument} .*"
    ).replace("watcher-.*", "other_[0-9]+")
    scene.during(mismatch)
    with broker.channel(vhost) as channel:
        for queue in queues:
            channel.queue_delete(queue)
        channel.exchange_delete("glance")
    scene.after(url, mismatch, BACK)


def test_an_old_exchange_under_quorum_queues(
    new_host: Callable[..., Host], broker: RabbitMQ, vhost: str
) -> None:
    """oslo.messaging is refused twice; the second time for the queue that it makes of it."""
    with broker.channel(vhost) as channel:
        channel.exchange_declare("glance", "topic", durable=False, auto_delete=False)
    url = f"{broker.url(vhost=vhost)}?rabbit_quorum_queue=true"
    scene = Scene(new_host, url)
    old = LOST + (
        r"Exchange.declare: \(406\) PRECONDITION_FAILED - inequivalent arg 'durable' for exchange "
        "'glance' .*; the exchange is older than the options in Glance's file: .*"
    )
    scene.during(old)
    with broker.channel(vhost) as channel:
        channel.exchange_delete("glance")
    scene.after(url, old, BACK)


def test_transient_queues_are_refused(new_host: Callable[..., Host], broker: RabbitMQ) -> None:
    """As by RabbitMQ 4.3."""
    proxy = RefusingProxy(broker.port)
    url = broker.url().replace(f":{broker.port}/", f":{proxy.port}/")
    scene = Scene(new_host, url)
    scene.program.wait_for_line("Reconnected to AMQP server", BACK_TIMEOUT, count=3)
    refused = LOST + (
        r"connected, but the queue watcher-host[0-9]+ can't be consumed: .*\(541\) INTERNAL_ERROR"
        r" - transient non-exclusive queues are not permitted; set \[oslo_messaging_rabbit\] "
        "amqp_durable_queues or rabbit_quorum_queue in Glance's file"
    )
    scene.during(refused)
    proxy.permit()
    scene.after(url, refused, BACK)
    proxy.close()


LOG_LEVELS = ",".join(
    f"{name}=CRITICAL"
    for name in (
        *("oslo.messaging", "oslo.messaging._drivers.impl_rabbit", "oslo_messaging", "kombu"),
        *("oslo_messaging._drivers.impl_rabbit", "amqp", "oslo.messaging._drivers.amqpdriver"),
    )
)
LOGGING_FILE = """\
[loggers]
keys = root, rabbit, watcher
[handlers]
keys = stderr
[formatters]
keys = plain
[logger_root]
level = CRITICAL
handlers =
[logger_rabbit]
level = CRITICAL
qualname = oslo.messaging._drivers.impl_rabbit
propagate = 0
handlers =
[logger_watcher]
level = DEBUG
qualname = watcher
propagate = 0
handlers = stderr
[handler_stderr]
class = StreamHandler
args = (sys.stderr,)
formatter = plain
[formatter_plain]
format = %(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s [-] %(message)s
datefmt = %Y-%m-%d %H:%M:%S
"""


@pytest.mark.parametrize("how", ["default_log_levels", "log_config_append"])
def test_log_levels_of_the_operator(
    new_host: Callable[..., Host], broker: RabbitMQ, tmp_path: Path, how: str
) -> None:
    """What is noticed depends on none of them."""
    (tmp_path / "logging.conf").write_text(LOGGING_FILE)
    value = LOG_LEVELS if how == "default_log_levels" else tmp_path / "logging.conf"
    scene = Scene(new_host, broker.url(), f"[DEFAULT]\n{how} = {value}")
    scene.listen()
    broker.kill()
    scene.during(LISTENING, UNREACHABLE)
    broker.start()
    scene.after(broker.url(), LISTENING, UNREACHABLE, BACK)


@pytest.mark.parametrize("options", ["", "?amqp_durable_queues=true", "?rabbit_quorum_queue=true"])
@pytest.mark.parametrize("first", ["glance", "watcher"])
def test_glance_and_the_watcher_declare_alike(
    new_host: Callable[..., Host], broker: RabbitMQ, vhost: str, first: str, options: str
) -> None:
    url = broker.url(vhost=vhost) + options
    host = new_host(transport_url=url)
    image = host.stage_live()
    if first == "glance":
        report(url, new_id())
    program = host.start()
    wait_said(program, LISTENING)
    host.forget(image)
    host.images.delete(image)
    report(url, image)
    host.wait_gone(host.staging / image)
    count = 2 if first == "glance" else 1
    wait_for(lambda: broker.queues(vhost)[INFO] == count, 20, "all of them in Glance's own queue")
    check_said(program, LISTENING)


def test_a_durable_watcher_joins_an_exchange_that_is_not(
    new_host: Callable[..., Host], broker: RabbitMQ, vhost: str
) -> None:
    url = broker.url(vhost=vhost)
    report(url, new_id())
    host = new_host(transport_url=f"{url}?amqp_durable_queues=true")
    image = host.stage_live()
    wait_said(host.start(), LISTENING)
    host.forget(image)
    host.images.delete(image)
    report(url, image)
    host.wait_gone(host.staging / image)
    wait_for(lambda: broker.queues(vhost)[INFO] == 2, 20, "both in Glance's own queue")


def message(image: str) -> amqp.Message:
    """A notification as oslo.messaging writes it."""
    return envelope(
        {
            "_unique_id": uuid.uuid4().hex,
            "event_type": "image.delete",
            "payload": {"id": image},
            "priority": "INFO",
            "publisher_id": "image.host",
        }
    )


def envelope(text: object) -> amqp.Message:
    return body(json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(text)}))


def body(text: str | bytes, **properties: object) -> amqp.Message:
    common = {"content_type": "application/json", "content_encoding": "utf-8"}
    data = text.encode() if isinstance(text, str) else text
    return amqp.Message(data, **(common | properties))


def poison() -> Iterator[amqp.Message]:
    """Messages that nothing can be done with."""
    yield amqp.Message("plain text")
    for text in ("", "{}", "[]", "[1, [2]]", '"text"', "7", "null", "{", b"\xff\xfe", '"\\ud800"'):
        yield body(text)
    yield body("[" * 200_000 + "]" * 200_000)
    versions: tuple[object, ...] = ("99.0", "2.0 ", "", [], None, 2)
    for version in versions:
        yield body(json.dumps({"oslo.version": version, "oslo.message": "{}"}))
    for inner in ("{", "[1]", "null", {"a": 1}, '{"a": ' * 50_000 + "1" + "}" * 50_000):
        yield body(json.dumps({"oslo.version": "2.0", "oslo.message": inner}))
    for priority in (7, None, ["INFO"], "no such", "INFO\n2026-01-01 00:00:00.000 1 ERROR forged"):
        yield envelope({"priority": priority, "event_type": "image.delete"})
    for unique in ([1], {"a": 1}, None):
        yield envelope({"priority": "INFO", "_unique_id": unique})
    yield envelope({"priority": "INFO", "_msg_id": "x", "_reply_q": "y", "_timeout": "z"})
    yield envelope({"priority": "INFO", "event_type": "image.delete", "payload": "x" * 5_000_000})
    yield body(b"\x80\x04N.", content_type="application/x-python-serialize")
    yield body("{}", content_type="application/no-such")
    yield body("{}", content_encoding="no-such")
    for compression in ("no-such", "gzip", 7, {"a": [1]}):
        yield body("{}", application_headers={"compression": compression})
    twice = message(new_id())
    yield from (twice, twice)


@pytest.mark.parametrize("prefetch", [0, 1])
def test_poison(new_host: Callable[..., Host], broker: RabbitMQ, vhost: str, prefetch: int) -> None:
    host = new_host(
        transport_url=broker.url(vhost=vhost),
        more=f"[oslo_messaging_rabbit]\nrabbit_qos_prefetch_count = {prefetch}",
    )
    live = host.stage_live()
    images = [host.stage_live() for _ in range(2)]
    program = host.start()
    wait_said(program, LISTENING)
    with broker.channel(vhost) as channel:
        for image in images:
            for each in poison():
                channel.basic_publish(each, "glance", INFO)
            channel.basic_publish(message(live), "glance", INFO)
            host.forget(image)
            host.images.delete(image)
            channel.basic_publish(message(image), "glance", INFO)
            host.wait_gone(host.staging / image, timeout=BACK_TIMEOUT)
    queue = f"watcher-{host.directory.name}"
    wait_for(lambda: unacknowledged(broker, vhost)[queue] == "0", BACK_TIMEOUT, "all acknowledged")
    assert program.stop() == 0
    check_said(program, LISTENING)


def unacknowledged(broker: RabbitMQ, vhost: str) -> dict[str, str]:
    rows = broker.ctl("list_queues", f"--vhost={vhost}", "name", "messages").splitlines()
    return dict(row.split("\t") for row in rows[1:])
