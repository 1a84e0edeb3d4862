# SPDX-License-Identifier: Apache-2.0
"""The log arrives, and never in Glance's own file. Each case in a process of its own: logging is
global."""

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.services.namespaces import MOUNTS, can_run, impossible

SCRIPT = """
import logging, sys
from watcher import conf, logs
from watcher.errors import ConfigError
from oslo_log import log
loaded = conf.load(sys.argv[1:])
print("path", logs.file_path(loaded))
sys.stdout.flush()
try:
    logs.setup(loaded)
except ConfigError as error:
    sys.exit(f"refused: {error}")
log.getLogger("watcher.service").info("a line")
log.getLogger("watcher.service").debug("a detail")
"""

# as openstack-helm and genestack write it
HELM = """
[loggers]
keys = root,glance
[handlers]
keys = stdout,stderr,null
[formatters]
keys = default
[logger_root]
level = WARNING
handlers = null
[logger_glance]
level = INFO
handlers = {handler}
qualname = glance
{more}
[handler_null]
class = logging.NullHandler
formatter = default
args = ()
[handler_stdout]
class = StreamHandler
args = (sys.stdout,)
formatter = default
[handler_stderr]
class = StreamHandler
args = (sys.stderr,)
formatter = default
[formatter_default]
format = GLANCE %(message)s
"""


def run(directory: Path, text: str, *arguments: str, own: str = "") -> tuple[str, str]:
    """What a process with this in glance-api.conf prints on stdout and stderr."""
    glances, ours = directory / "glance-api.conf", directory / "own.conf"
    glances.write_text(f"[DEFAULT]\n{text}\n")
    ours.write_text(f"[DEFAULT]\n{own}\n")
    files = ["--config-file", str(glances), "--config-file", str(ours)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *files, *arguments],
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("glances", "own", "arguments", "file", "said"),
    [
        ("log_file = {d}/glance-api.log", "", (), "glance-staging-watcher.log", True),
        ("log_dir = {d}\nlog_file = api.log", "", (), "glance-staging-watcher.log", True),
        ("log_dir = {d}", "", (), "glance-staging-watcher.log", False),
        ("log_file = {d}/glance-staging-watcher-1", "", (), "glance-staging-watcher-1", False),
        ("log_file = {d}/api.log", "log_file = {d}/own.log", (), "own.log", False),
        ("log_file = {d}/api.log", "", ("--log-file", "{d}/api2.log"), "api2.log", False),
    ],
)  # fmt: skip
def test_the_file_is_our_own(
    tmp_path: Path, glances: str, own: str, arguments: tuple[str, ...], file: str, said: bool
) -> None:
    filled = [each.format(d=tmp_path) for each in arguments]
    made = run(tmp_path, glances.format(d=tmp_path), *filled, own=own.format(d=tmp_path))
    assert made == (f"path {tmp_path}/{file}\n", "")
    assert {path.name for path in tmp_path.iterdir()} == {"glance-api.conf", "own.conf", file}
    lines = (tmp_path / file).read_text().splitlines()
    assert "INFO watcher.service [-] a line" in lines[-1]
    assert [f"Logging to {tmp_path}/{file}; " in line for line in lines] == [True, False][
        -len(lines) :
    ]
    assert len(lines) == (2 if said else 1)


@pytest.mark.parametrize("handler", ["stdout", "stderr"])
def test_a_logging_file_that_names_glances_loggers_only(tmp_path: Path, handler: str) -> None:
    file = tmp_path / "logging.conf"
    file.write_text(HELM.format(handler=handler, more=""))
    output = run(tmp_path, f"log_config_append = {file}")[handler == "stderr"]
    lines = output.removeprefix("path None\n").splitlines()
    assert lines == [
        f"GLANCE No handler in {file} for logger watcher; logging as logger glance",
        "GLANCE a line",
    ]


@pytest.mark.parametrize("handlers", ["null", "file"])
def test_a_logging_file_that_names_no_handler_for_us(tmp_path: Path, handlers: str) -> None:
    file, glances = tmp_path / "logging.conf", tmp_path / "glance-api.log"
    text = HELM.format(handler=handlers, more="propagate = 0")
    text = text.replace("keys = stdout,stderr,null", "keys = file,null")
    text += f"[handler_file]\nclass = handlers.WatchedFileHandler\nargs = ('{glances}',)\n"
    file.write_text(text)
    lines = run(tmp_path, f"log_config_append = {file}")[1].splitlines()
    assert "for logger watcher; logging as stderr" in lines[0] and "INFO" in lines[0]
    assert lines[1].endswith("INFO watcher.service [-] a line")
    assert glances.read_text() == ""


def test_a_logging_file_with_a_handler_for_all(tmp_path: Path) -> None:
    file = tmp_path / "logging.conf"
    text = HELM.format(handler="null", more="").replace(
        "WARNING\nhandlers = null", "DEBUG\nhandlers = stdout"
    )
    file.write_text(text)
    output = run(tmp_path, f"log_config_append = {file}")[0]
    assert output.splitlines()[1:] == ["GLANCE a line", "GLANCE a detail"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("default_log_levels = glance=DEBUG,sqlalchemy=WARN", ["a line"]),
        ("default_log_levels =", ["a line"]),
        ("debug = true\ndefault_log_levels = glance=ERROR", ["a line", "a detail"]),
        ("default_log_levels = watcher=WARNING", []),
    ],
)
def test_levels_of_the_configuration(tmp_path: Path, text: str, expected: list[str]) -> None:
    lines = run(tmp_path, text)[0].splitlines()[1:]
    said = [line.partition("[-] ")[2] for line in lines if "watcher.service" in line]
    assert [" ".join(line.split()[:2]) for line in said] == expected


@pytest.mark.skipif(find_spec("systemd") is not None, reason="the module is there")
def test_the_journal_without_its_module(tmp_path: Path) -> None:
    error = run(tmp_path, "use_journal = true")[1]
    assert error.startswith("refused: use_journal is set, but ") and "python3-systemd" in error
    assert "systemd-python" in error


def test_syslog_does_not_silence_the_others(tmp_path: Path) -> None:
    assert "a line" in run(tmp_path, "use_syslog = true")[0]


def test_syslog_gets_it(tmp_path: Path) -> None:
    if not can_run(*MOUNTS, "true"):
        impossible("private name spaces can't be made here")
    glances, devices = tmp_path / "glance-api.conf", tmp_path / "dev"
    glances.write_text("[DEFAULT]\nuse_syslog = true\nsyslog_log_facility = LOG_LOCAL3\n")
    devices.mkdir()
    steps = ""
    for name in ("null", "urandom"):
        (devices / name).touch()
        steps += f"mount --bind /dev/{name} {devices}/{name} && "
    steps += f'mount --rbind {devices} /dev && exec "$@"'
    program = [sys.executable, "-c", SCRIPT, "--config-file", str(glances)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(devices / "log"))
        syslog.settimeout(60)
        subprocess.run(
            [*MOUNTS, "sh", "-c", steps, "sh", *program],
            check=True,
            capture_output=True,
            timeout=60,
        )
        message = syslog.recv(4096).decode()
    assert message.startswith(f"<{19 * 8 + 6}>"), "local3, info"
    assert "INFO watcher.service [-] a line" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("log_file = /nonexistent/x.log", "; name another file with --log-file"),
        ("log_config_append = /nonexistent", "; correct [DEFAULT] log_config_append or its file"),
        ("log_config_append = {d}/own.conf", "; correct [DEFAULT] log_config_append or its file"),
        ("default_log_levels = watcher=LOUD", "Unknown level: 'LOUD'; correct the option or"),
        ("use_syslog = true\nsyslog_log_facility = NONE", "; correct the option or the logging"),
        ("use_stderr = perhaps", "Value for option use_stderr is not valid"),
    ],
)
def test_a_log_that_cannot_be_made(tmp_path: Path, text: str, said: str) -> None:
    error = run(tmp_path, text.format(d=tmp_path))[1]
    assert error.startswith("refused: Cannot log as the configuration says: ")
    assert said.format(d=tmp_path) in error and len(error.splitlines()) == 1
