# SPDX-License-Identifier: Apache-2.0
"""The Debian package on Debian 13, beside Debian's own Glance, RabbitMQ and MariaDB."""

import configparser
import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

from tests.acceptance.client import IDENTITY
from tests.packaging import debian13
from tests.packaging.conftest import SOURCE, Dist, needed, unavailable
from tests.packaging.debian13 import Machine, UnavailableError
from tests.services.waiting import wait_for

pytestmark = [pytest.mark.large, pytest.mark.timeout(1500)]

NAME = "glance-staging-watcher"
CONFIG = f"/etc/{NAME}/{NAME}.conf"
LOG = f"/var/log/{NAME}/{NAME}.log"
STAGING = "/var/lib/glance/staging"
GLANCE = "http://127.0.0.1:9292"
ELSEWHERE = "http://127.0.0.1:9293"  # the same Glance on another host
TIMEOUT = 60.0  # seconds
AS_GLANCE = ("runuser", "-u", "glance", "--")

SITE = """\
[DEFAULT]
enabled_backends = file:file
enabled_import_methods = [glance-direct]
transport_url = rabbit://guest:guest@127.0.0.1:5672/
[glance_store]
default_backend = file
[file]
filesystem_store_datadir = /var/lib/glance/images
[os_glance_tasks_store]
filesystem_store_datadir = /var/lib/glance/tasks
[database]
connection = mysql+pymysql://glance:secret@127.0.0.1/glance
[oslo_messaging_notifications]
driver = messagingv2
"""

HERE = """
[DEFAULT]
bind_port = {port}
workers = 1
[os_glance_staging_store]
filesystem_store_datadir = {staging}
"""

DATABASE = """\
CREATE DATABASE glance;
CREATE USER glance@localhost IDENTIFIED BY 'secret';
GRANT ALL ON glance.* TO glance@localhost;
"""

# What apt, dpkg and the services write, with any package.
NOISE = re.compile(
    r"/var/(lib/(apt|dpkg|glance|logrotate|mysql|rabbitmq|systemd)|cache|log|tmp|backups)/"
    r"|/run/|/tmp/|/etc/ld\.so\.cache|.*/__pycache__"
)
KEPT_BY_APT = ("Recommends", "Suggests")


@contextlib.contextmanager
def debian(scratch: Path, packages: Sequence[str], *init: str) -> Iterator[Machine]:
    """A Debian 13 with these packages; without one fail in CI and skip elsewhere."""
    needed("debootstrap", "ip", "nsenter", "setpriv", "unshare")
    if os.geteuid() != 0:
        unavailable("only root can boot a Debian 13")
    with contextlib.ExitStack() as stack:
        try:
            machine = stack.enter_context(Machine(debian13.tree(*packages), scratch, *init))
        except UnavailableError as error:
            unavailable(str(error))
        yield machine


@pytest.fixture(scope="session")
def deb(dist: Dist, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, as ``make deb`` builds it from a release on Debian 13."""
    scratch = tmp_path_factory.mktemp("builder")
    output = tmp_path_factory.mktemp("deb")
    with debian(scratch, debian13.BUILDERS, "sleep", "infinity") as builder:
        source = builder.path / "srv"
        subprocess.run(
            ["tar", "-xzf", dist.sdist, "-C", source, "--strip-components=1"], check=True
        )
        built = builder.run("make", "--silent", "--directory=/srv", "deb")
        (made,) = (source / "dist").glob("*.deb")
        assert built.splitlines()[-1] == f"dist/{made.name}"
        assert len(built.splitlines()) == 2, "not what the build's programs print"
        said = builder.run(
            "lintian", "--allow-root", "--fail-on=error,warning", f"/srv/dist/{made.name}"
        )
        assert not said
        return Path(shutil.copy(made, output))


def field(deb: Path, name: str) -> str:
    """A field of its control file."""
    needed("dpkg-deb")
    run = subprocess.run(
        ["dpkg-deb", "--field", deb, name], capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


def test_it_is_small_and_has_debians_packages_as_dependencies(deb: Path) -> None:
    assert field(deb, "Architecture") == "all"
    assert int(field(deb, "Installed-Size")) < 1024, "KiB"
    depends = {}
    for each in field(deb, "Depends").split(", "):
        package, _, bound = each.partition(" ")
        depends[package] = bound.strip("(>= )")
    setup = configparser.ConfigParser()
    setup.read(SOURCE / "setup.cfg")
    for requirement in setup["options"]["install_requires"].split():
        found = re.fullmatch(r"([\w.]+)(?:\[\w+\])?>=([\d.]+).*", requirement)
        assert found
        name, low = found.groups()
        assert depends[f"python3-{name.lower()}"] in ("", low), requirement
    assert depends.keys() >= {"glance-common", "python3:any"}


def test_its_version_and_programs_are_those_of_the_distribution() -> None:
    changelog = (SOURCE / "debian/changelog").read_text()
    assert changelog.startswith(f"{NAME} ({version(NAME)}) ")
    links = (SOURCE / "debian/glance-staging-watcher.links").read_text()
    linked = {line.split()[1] for line in links.splitlines()}
    programs = {
        each.name
        for each in entry_points(group="console_scripts")
        if each.dist and each.dist.name == NAME
    }
    assert linked == {f"usr/bin/{program}" for program in programs}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A host with Debian's Glance, ready; a second glance-api stages elsewhere."""
    scratch = tmp_path_factory.mktemp("host")
    with debian(scratch, debian13.HOST, *debian13.SYSTEMD) as machine:
        etc = machine.path / "etc"
        paste = etc / "glance/glance-api-paste.ini"
        paste.write_text(paste.read_text().replace("unauthenticated-context root", "context root"))
        machine.run("cp", "--archive", "/etc/glance", "/etc/elsewhere")
        for name, port, staging in (
            ("glance", 9292, STAGING),
            ("elsewhere", 9293, "/var/lib/glance/elsewhere"),
        ):
            with (etc / name / "glance-api.conf").open("a") as file:
                file.write(HERE.format(port=port, staging=staging))
        (etc / "glance/glance.conf.d").mkdir()
        (etc / "glance/glance.conf.d/site.conf").write_text(SITE)

        started = ("running", "degraded")
        state = ("systemctl", "is-system-running")
        wait_for(lambda: machine.run(*state, check=False).strip() in started, TIMEOUT, "systemd")
        machine.run("mariadb", "--execute", DATABASE)
        machine.run(*AS_GLANCE, "glance-manage", "db", "sync")
        machine.run("systemctl", "restart", "glance-api")
        machine.run(
            *("systemd-run", "--uid=glance", "--gid=glance", "--working-directory=/var/lib/glance"),
            *("glance-api", "--config-file=/etc/elsewhere/glance-api.conf"),
        )
        for url in (GLANCE, ELSEWHERE):
            wait_for(partial(answers, machine, url), TIMEOUT, url)
        yield machine


def request(host: Machine, method: str, url: str, data: str = "", kind: str = "json") -> str:
    """Ask Glance's API as keystone's middleware would; the answer."""
    return host.run(
        *("curl", "--silent", "--show-error", "--fail-with-body", "--request", method),
        *(part for each in IDENTITY.items() for part in ("--header", ": ".join(each))),
        *("--header", f"Content-Type: application/{kind}", "--data-binary", data, url),
    )


def answers(host: Machine, url: str) -> bool:
    """Whether a glance-api serves."""
    with contextlib.suppress(RuntimeError):
        return bool(request(host, "GET", f"{url}/v2/images"))
    return False


def staged(host: Machine) -> str:
    """Stage an image; its id."""
    body = {"name": "x", "disk_format": "raw", "container_format": "bare"}
    image = str(json.loads(request(host, "POST", f"{GLANCE}/v2/images", json.dumps(body)))["id"])
    request(host, "PUT", f"{GLANCE}/v2/images/{image}/stage", "data" * 1000, "octet-stream")
    assert (host.path / STAGING[1:] / image).exists()
    return image


def test_it_runs_beside_debians_glance_and_goes_without_a_trace(deb: Path, host: Machine) -> None:
    shutil.copy(deb, host.path / "srv")
    host.run("apt-get", "-qq", "update", network=True)
    before, accounts = host.files(), host.run("getent", "passwd") + host.run("getent", "group")
    host.run("apt-get", "-qq", "install", f"/srv/{deb.name}", network=True)

    state = host.run("systemctl", "show", "--property=ActiveState,UnitFileState", NAME)
    assert state.splitlines() == ["ActiveState=inactive", "UnitFileState=disabled"]
    modes = host.run("stat", "--format=%a %U:%G", CONFIG, str(Path(CONFIG).parent))
    assert modes.splitlines() == ["640 root:glance", "750 root:glance"]
    assert host.run("stat", "--format=%a %U:%G", str(Path(LOG).parent)) == "750 glance:glance\n"
    assert host.run("dpkg-query", "--show", "--showformat=${Conffiles}", NAME).split()[::2] == [
        *(CONFIG, f"/etc/logrotate.d/{NAME}")
    ]
    assert host.run(NAME, "--version").strip() == version(NAME)
    theirs = host.run("python3", "-c", "import watcher; print(watcher.__file__)").strip()
    assert theirs.startswith("/usr/lib/python3/dist-packages/"), "OpenStack Watcher's"
    for page in (NAME, f"{NAME}-status"):
        assert (host.path / f"usr/share/man/man8/{page}.8.gz").exists()
    assert f" {NAME}\n" in host.run(
        "bash",
        "-c",
        f". /usr/share/bash-completion/bash_completion; _comp_load {NAME}; complete -p",
    )
    zsh = f"autoload -U compinit; compinit -D; print $_comps[{NAME}]"
    assert host.run("zsh", "--no-rcs", "-c", zsh).strip() == f"_{NAME}"

    live, dead = staged(host), staged(host)
    said = host.run(*AS_GLANCE, NAME, "check", check=False)
    assert re.search(r"^\d+ ok, \d+ with a warning, 0 failed$", said, re.MULTILINE), said
    host.run("systemctl", "enable", "--now", NAME)
    log = host.path / LOG[1:]
    wait_for(lambda: "Listening for notifications" in log.read_text(), TIMEOUT, "the listener")
    request(host, "DELETE", f"{ELSEWHERE}/v2/images/{dead}")
    wait_for(lambda: not (host.path / STAGING[1:] / dead).exists(), TIMEOUT, "the removal")
    assert (host.path / STAGING[1:] / live).exists()
    assert "ERROR" not in log.read_text()
    assert f"Removed '{STAGING}/{dead}'" in log.read_text()
    history = host.run(NAME, "history").splitlines()
    assert [line.split()[3:5] for line in history[1:2]] == [[dead, "deleted"]]
    assert host.run(NAME, "status", check=False).startswith("Service            running since ")

    host.run("logrotate", "--force", "/etc/logrotate.conf")
    assert (log.with_suffix(".log.1")).exists()
    assert (log.with_name("audit.json.1")).exists()
    again = staged(host)
    request(host, "DELETE", f"{ELSEWHERE}/v2/images/{again}")
    wait_for(lambda: not (host.path / STAGING[1:] / again).exists(), TIMEOUT, "the removal")
    request(
        host,
        "POST",
        f"{GLANCE}/v2/images/{live}/import",
        json.dumps({"method": {"name": "glance-direct"}}),
    )
    wait_for(
        lambda: (
            json.loads(request(host, "GET", f"{GLANCE}/v2/images/{live}"))["status"] == "active"
        ),
        TIMEOUT,
        "the import",
    )
    host.run("systemctl", "stop", NAME)
    result = host.run("systemctl", "show", "--property=Result,ExecMainStatus", NAME)
    assert sorted(result.splitlines()) == ["ExecMainStatus=0", "Result=success"]

    host.run("apt-get", "-qq", "remove", NAME)
    assert (host.path / CONFIG[1:]).exists()
    # apt keeps what another package recommends, whoever installed it.
    strict = [f"--option=APT::AutoRemove::{kind}Important=false" for kind in KEPT_BY_APT]
    host.run("apt-get", "-qq", "autopurge", *strict, NAME)
    left = host.files() - before
    assert not {path for path in left if not NOISE.match(path)}
    assert not {path for path in left if NAME in path}
    assert host.run("getent", "passwd") + host.run("getent", "group") == accounts
