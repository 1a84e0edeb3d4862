# SPDX-License-Identifier: Apache-2.0
"""The pages' commands on Debian 13 beside Debian's own Glance, RabbitMQ and MariaDB.

By pip and with the Debian package.
"""

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
from tests.docs.pages import DOCS, Commands, commands
from tests.packaging import debian13
from tests.packaging.conftest import SOURCE, Dist, needed, wheels
from tests.packaging.debian13 import Machine, UnavailableError
from tests.services.requirements import unavailable
from tests.services.waiting import wait_for

pytestmark = [pytest.mark.large, pytest.mark.timeout(1500)]

NAME = "glance-staging-watcher"
CONFIG = f"/etc/{NAME}/{NAME}.conf"
LOG = f"/var/log/{NAME}/{NAME}.log"
STAGING = "/var/lib/glance/os_glance_staging_store"
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

HOSTNAME = os.uname().nodename
HOSTS = f"127.0.0.1 localhost {HOSTNAME} BROKER DBHOST\n"  # the last ones of the pages
YES = 'APT::Get::Assume-Yes "true";\n'
PIP = "[global]\nno-index = true\nfind-links = /srv/wheels\n"

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


def run(machine: Machine, block: Commands, directory: str = "/", *, check: bool = True) -> str:
    """Run a block of commands inside; its output.

    :param check: end at the first that fails, and raise RuntimeError
    """
    options, script = "-ec" if check else "-c", f"cd {directory}\n{block.script}"
    return machine.run("bash", options, script, check=check)


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
        built = run(builder, commands("install.md", "As a Debian package", 0), "/srv")
        (made,) = (source / "dist").glob("*.deb")
        assert built.splitlines()[-1] == f"dist/{made.name}"
        assert "dh_" not in built, "what the build's programs print"
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
        (etc / "hosts").write_text(HOSTS)
        (etc / "apt/apt.conf.d/yes").write_text(YES)
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


def show(host: Machine, *names: str) -> list[str]:
    """Properties of the service."""
    properties = f"--property={','.join(names)}"
    return host.run("systemctl", "show", "--value", properties, NAME).split()


def wait_removed(host: Machine, image: str) -> None:
    """Wait for the end of an image's staged file."""
    wait_for(lambda: not (host.path / STAGING[1:] / image).exists(), TIMEOUT, "the removal")


def in_the_page(output: str) -> list[str]:
    """Lines of ``check`` without what differs between hosts."""
    output = re.sub(r"(?<= = )\d+|(?<=  )\d+(?= rows)", "N", output)
    return re.sub(r"(?<=file_system     )\w+", "TYPE", output).splitlines()


def test_it_is_installed_upgraded_rolled_back_and_removed_by_pip(
    dist: Dist, host: Machine, tmp_path: Path
) -> None:
    checkout, etc = host.path / "srv/checkout", host.path / "etc"
    checkout.mkdir()
    subprocess.run(["tar", "-xzf", dist.sdist, "-C", checkout, "--strip-components=1"], check=True)
    extras = "[kafka,metrics,mysql]"
    made = wheels(tmp_path / "wheels", f"{dist.wheel}{extras}", "setuptools")
    shutil.copytree(made, host.path / "srv/wheels")
    (etc / "pip.conf").write_text(PIP)
    source = f"/srv/wheels/{dist.wheel.name}"
    opt = host.path / "opt"
    live, dead = staged(host), staged(host)
    request(host, "DELETE", f"{ELSEWHERE}/v2/images/{dead}")

    readme = commands("README.md", "Install it beside glance-api")
    first = commands("install.md", "Look first")
    run(host, commands("install.md", "With pip", SOURCE=source))
    for block in (readme, first):
        said = run(host, block, "/srv/checkout", check=False)
        assert re.search(r"^\d+ ok, \d+ with a warning, 0 failed$", said, re.MULTILINE), said
        assert "Would clean 1 stale staging file, 1 ignored (0 errors)" in said
    run(host, commands("configuration.md", "Kafka", SOURCE=source))
    run(host, commands("metrics.md", "Metrics and health", SOURCE=source))

    sql = (DOCS / "security.md").read_text().partition("```sql\n")[2]
    host.run("mariadb", "--execute", sql.partition("-- PostgreSQL")[0])
    run(host, commands("security.md", "Broker"))
    settings = (DOCS / "install.md").read_text().partition("```ini\n")[2].partition("```")[0]
    (etc / NAME).mkdir()
    (host.path / CONFIG[1:]).write_text(settings)
    host.run("chown", "root:glance", CONFIG)
    host.run("chmod", "640", CONFIG)
    run(host, commands("install.md", "Limits for queues", 0))
    run(host, commands("install.md", "Limits for queues", 1))
    run(host, commands("install.md", "Limits for queues", 2))

    run(host, commands("install.md", "systemd", 0))
    assert "Active: active (running)" in run(host, commands("install.md", "systemd", 1))
    assert {path.name for path in (host.path / STAGING[1:]).iterdir()} == {live}
    log = host.path / f"var/log/glance/{NAME}.log"
    wait_for(lambda: "Listening for notifications" in log.read_text(), TIMEOUT, "the listener")
    check = commands("install.md", "Check", HOST=HOSTNAME)
    assert in_the_page(run(host, check, check=False)) == in_the_page(check.prints)

    prove = commands("install.md", "Prove it", STAGING=STAGING, ID=dead)
    run(host, prove)
    line = prove.prints.removeprefix("INFO ").partition(" after ")[0]
    wait_for(lambda: line in log.read_text(), TIMEOUT, line)

    run(host, commands("kept-or-removed.md", "Stop all removals"))
    assert show(host, "ActiveState") == ["inactive"]
    (opt / NAME / "before").touch()
    said = run(host, commands("install.md", "Upgrade", SOURCE=source), check=False)
    assert "no service runs" in said and "Result: Failure" not in said
    assert show(host, "ActiveState") == ["active"]
    assert not (opt / NAME / "before").exists()
    run(host, commands("install.md", "Roll back", 0))
    assert show(host, "ActiveState") == ["active"]
    assert (opt / NAME / "before").exists() and len([*opt.iterdir()]) == 1
    assert "ERROR" not in log.read_text()

    run(host, commands("install.md", "Remove", 0, HOST=HOSTNAME))
    log.unlink()  # which the page leaves to the operator
    assert not {path for path in host.files() if NAME in path and not path.startswith("/srv/")}
    assert (host.path / STAGING[1:] / live).exists()
    left = host.run("rabbitmqctl", "list_queues") + host.run("rabbitmqctl", "list_policies")
    assert "unread-notifications" in left and "staging-watcher" not in left


def labels(status: str) -> list[str]:
    """First column of the first part of ``status``."""
    return re.findall(r"^(\w+(?: \w+)?)  ", status.partition("\n\n")[0], re.MULTILINE)


def older(host: Machine, deb: Path) -> str:
    """Make the package with a lower version, beside it; the version."""
    script = f"dpkg-deb --raw-extract {deb} old && sed -i 's/^Version: /&0~/' old/DEBIAN/control"
    host.run("sh", "-ec", f"cd /srv; {script}; dpkg-deb --build old .; rm -r old")
    return f"0~{version(NAME)}"


def test_it_runs_beside_debians_glance_and_goes_without_a_trace(deb: Path, host: Machine) -> None:
    (host.path / "srv/dist").mkdir()
    shutil.copy(deb, host.path / "srv/dist")
    old = older(host, Path("/srv/dist") / deb.name)
    host.run("apt-get", "-qq", "update", network=True)
    before, accounts = host.files(), host.run("getent", "passwd") + host.run("getent", "group")
    download = ("apt-get", "-qq", "install", "--download-only")
    host.run(*download, f"/srv/dist/{deb.name}", network=True)
    said = run(host, commands("install.md", "As a Debian package", 1), "/srv", check=False)
    assert re.search(r"^\d+ ok, \d+ with a warning, 0 failed$", said, re.MULTILINE), said
    assert "Would clean " in said

    assert show(host, "ActiveState", "UnitFileState") == ["inactive", "disabled"]
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
    run(host, commands("install.md", "As a Debian package", 2))
    log = host.path / LOG[1:]
    wait_for(lambda: "Listening for notifications" in log.read_text(), TIMEOUT, "the listener")
    request(host, "DELETE", f"{ELSEWHERE}/v2/images/{dead}")
    wait_removed(host, dead)
    assert (host.path / STAGING[1:] / live).exists()
    assert "ERROR" not in log.read_text()
    assert f"Removed '{STAGING}/{dead}'" in log.read_text()
    status = commands("formats.md", "Tables", 0)
    said = run(host, status)
    assert labels(said) == labels(status.prints) != []
    assert said.startswith("Service            running since ")
    history = commands("formats.md", "Tables", 2)
    head, first, *_ = run(host, history).splitlines()
    assert head.split() == history.prints.split("\n")[0].split()
    assert first.split()[3:5] == [dead, "deleted"]

    host.run("logrotate", "--force", "/etc/logrotate.conf")
    assert (log.with_suffix(".log.1")).exists()
    assert (log.with_name("audit.json.1")).exists()
    again = staged(host)
    request(host, "DELETE", f"{ELSEWHERE}/v2/images/{again}")
    wait_removed(host, again)
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
    (process,) = show(host, "MainPID")
    run(host, commands("install.md", "Roll back", 1, OLD=old), "/srv")
    assert host.run("dpkg-query", "--show", "--showformat=${Version}", NAME) == old
    assert show(host, "ActiveState") == ["active"] and show(host, "MainPID") != [process]
    host.run("systemctl", "stop", NAME)
    assert sorted(show(host, "Result", "ExecMainStatus")) == ["0", "success"]

    host.run("apt-get", "-qq", "remove", NAME)
    assert (host.path / CONFIG[1:]).exists()
    run(host, commands("install.md", "Remove", 1))
    # apt keeps what another package recommends, whoever installed it.
    strict = [f"--option=APT::AutoRemove::{kind}Important=false" for kind in KEPT_BY_APT]
    host.run("apt-get", "-qq", "autopurge", *strict)
    left = host.files() - before
    assert not {path for path in left if not NOISE.match(path)}
    assert not {path for path in left if NAME in path}
    assert host.run("getent", "passwd") + host.run("getent", "group") == accounts
