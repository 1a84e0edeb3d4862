# SPDX-License-Identifier: Apache-2.0
"""The Ansible role, run by ansible-core on a Debian 13 with systemd, RabbitMQ and MariaDB."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.functional.host import new_id
from tests.packaging import debian13
from tests.packaging.conftest import SOURCE, Dist, wheels
from tests.packaging.debian13 import Machine
from tests.packaging.test_deb import deb, debian  # noqa: F401 - a fixture
from tests.services.waiting import wait_for

NAME = "glance-staging-watcher"
ROLE = SOURCE / "etc/ansible/roles/glance_staging_watcher"
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
PREFIX = "glance_staging_watcher_"
PACKAGES = (
    "dbus",
    "mariadb-server",
    "python3-apt",
    "python3-packaging",
    "python3-venv",
    "rabbitmq-server",
    "systemd",
)
STAGING = "/var/lib/glance/staging"
PASSWORD = "a'b\\c$d%e@f"
URL_PASSWORD = "a%27b%5Cc$$d%25e%40f"
TIMEOUT = 60.0  # seconds

Method = Callable[[Machine, pytest.FixtureRequest, Path], dict[str, str]]

GLANCE = f"""\
[DEFAULT]
node_staging_uri = file://{STAGING}
transport_url = rabbit://guest:guest@127.0.0.1:5672/
[oslo_messaging_notifications]
driver = messagingv2
"""

DATABASE = """\
CREATE DATABASE glance;
CREATE TABLE glance.images (
  id VARCHAR(36) PRIMARY KEY, deleted BOOL NOT NULL, status VARCHAR(30) NOT NULL, name VARCHAR(255)
);
INSERT INTO glance.images VALUES ('{live}', 0, 'active', 'a'), ('{dead}', 1, 'deleted', 'b');
"""


def role_file(name: str) -> Any:
    """A file of the role."""
    return yaml.safe_load((ROLE / name).read_text())


def test_its_defaults_are_those_of_its_argument_specs() -> None:
    options = role_file("meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert role_file("defaults/main.yml") == {
        name: option["default"] for name, option in options.items()
    }


def test_its_policy_is_that_of_the_file() -> None:
    (policy,) = json.loads((SOURCE / "etc/rabbitmq-policy.json").read_text())["policies"]
    assert role_file("defaults/main.yml")[f"{PREFIX}rabbitmq_policy"] == policy["definition"]
    tasks = role_file("tasks/rabbitmq.yml")
    (setting,) = (task["ansible.builtin.command"]["argv"] for task in tasks[1:])
    assert policy["name"] in setting and policy["pattern"] in setting
    assert f"--apply-to={policy['apply-to']}" in setting


@pytest.mark.parametrize(
    "path",
    ["docs/ansible.md", "etc/ansible/site.yml", str(ROLE / "README.md")],
    ids=os.path.basename,
)
def test_its_documents_name_variables_that_exist(path: str) -> None:
    named = set(re.findall(rf"\b{PREFIX}\w+", (SOURCE / path).read_text()))
    assert named and named <= role_file("defaults/main.yml").keys()


def test_the_example_is_a_playbook_with_this_role(tmp_path: Path) -> None:
    subprocess.run(
        [PLAYBOOK, "--syntax-check", SOURCE / "etc/ansible/site.yml"],
        env=os.environ | {"ANSIBLE_HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
        check=True,
    )


class Play:
    """Runs the role.

    :param directory: an empty one
    :param connection: variables of the inventory's only host
    """

    def __init__(self, directory: Path, **connection: Any) -> None:
        self._directory = directory
        inventory = {"all": {"hosts": {"controller": connection}}}
        (directory / "inventory.json").write_text(json.dumps(inventory))
        self.write(roles=[ROLE.name])

    def write(self, **play: Any) -> None:
        """Write the play."""
        play |= {"hosts": "all", "gather_facts": False}
        (self._directory / "play.json").write_text(json.dumps([play]))

    def run(self, **variables: Any) -> tuple[int, str]:
        """Run it with these variables, less their prefix; exit code and output."""
        given = {f"{PREFIX}{name}": value for name, value in variables.items()}
        run = subprocess.run(
            [
                *(PLAYBOOK, "--inventory", self._directory / "inventory.json"),
                *("--extra-vars", json.dumps(given), self._directory / "play.json"),
            ],
            env=os.environ
            | {
                "ANSIBLE_HOME": str(self._directory),
                "ANSIBLE_LOCALHOST_WARNING": "false",
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_ROLES_PATH": str(ROLE.parent),
                "LC_ALL": "C.UTF-8",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return run.returncode, run.stdout

    def changed(self, **variables: Any) -> list[str]:
        """Run it; names of the tasks that changed something."""
        code, output = self.run(**variables)
        assert code == 0, output
        assert PASSWORD not in output
        assert "WARNING" not in output, output
        tasks = re.split(r"^(?:TASK|RUNNING HANDLER) \[", output, flags=re.MULTILINE)
        names = [
            task.partition("]")[0].removeprefix(f"{ROLE.name} : ")
            for task in tasks[1:]
            if re.search(r"^changed: ", task, re.MULTILINE)
        ]
        (counted,) = re.findall(r"\bchanged=(\d+)", output)
        assert len(names) == int(counted), output
        return names


@pytest.mark.parametrize(
    ("variables", "cause"),
    [
        ({"install_method": "snap"}, "value of glance_staging_watcher_install_method must be one"),
        ({"config": "debug"}, "glance_staging_watcher_config"),
        (
            {"database_host": "controller", "state": "stopped"},
            "glance_staging_watcher_database_password isn't set",
        ),
    ],
    ids=["choice", "type", "password"],
)
def test_a_mistake_is_named_before_anything_is_done(
    tmp_path: Path, variables: dict[str, str], cause: str
) -> None:
    play = Play(tmp_path, ansible_connection="local", ansible_python_interpreter=sys.executable)
    code, output = play.run(**variables)
    assert code != 0 and cause in output, output
    assert "changed=0" in output


def test_its_templates_render_the_options(tmp_path: Path) -> None:
    play = Play(tmp_path, ansible_connection="local", ansible_python_interpreter=sys.executable)
    names = ("glance-staging-watcher.conf", "override.conf")
    tasks = [
        {
            "name": name,
            "ansible.builtin.template": {
                **{"src": f"{ROLE}/templates/{name}.j2", "dest": str(tmp_path / name)},
                "mode": "0640",
            },
        }
        for name in names
    ]
    play.write(tasks=tasks)
    options = {
        "config": {"staging_watcher": {"sweep_interval": 300, "topics": ["a", "b"]}, "x": {"y": 1}},
        "service": {"ReadWritePaths": ["-/srv", "/x"], "Nice": 1, "User": "me"},
    }
    assert play.changed(**options) == list(names)
    assert [(tmp_path / name).read_text() for name in names] == [
        "# Ansible managed\n\n[staging_watcher]\nsweep_interval = 300\ntopics = a,b\n\n"
        "[x]\ny = 1\n",
        "# Ansible managed\n[Service]\nReadWritePaths=-/srv\nReadWritePaths=/x\nNice=1\nUser=me\n",
    ]


@contextlib.contextmanager
def booted(scratch: Path, packages: Sequence[str]) -> Iterator[Machine]:
    """A Debian 13 that runs RabbitMQ and MariaDB."""
    with debian(scratch, packages, *debian13.SYSTEMD) as machine:
        started = ("running", "degraded")
        state = ("systemctl", "is-system-running")
        wait_for(lambda: machine.run(*state, check=False).strip() in started, TIMEOUT, "systemd")
        yield machine


class Host:
    """A host of Glance's with a live image's file and one of residue."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.live, self.dead = new_id(), new_id()
        if not machine.run("getent", "passwd", "glance", check=False):
            machine.run("useradd", "--system", "--user-group", "--home=/var/lib/glance", "glance")
        machine.run("install", "-d", "-o", "glance", "-g", "glance", STAGING, "/var/log/glance")
        machine.run("mariadb", "--execute", DATABASE.format(live=self.live, dead=self.dead))
        (machine.path / "etc/glance").mkdir(exist_ok=True)
        (machine.path / "etc/glance/glance-api.conf").write_text(GLANCE)
        for image in (self.live, self.dead):
            machine.run("install", "-o", "glance", "/etc/hostname", f"{STAGING}/{image}")

    def staged(self) -> set[str]:
        """Names of the staged files."""
        return set(self.machine.run("ls", STAGING).split())

    def show(self, name: str) -> str:
        """A property of the service."""
        return self.machine.run("systemctl", "show", "--value", f"--property={name}", NAME).strip()

    def policies(self) -> dict[str, str]:
        """Policy of each queue of a watcher."""
        rows = self.machine.run(
            *("rabbitmqctl", "--quiet", "list_queues", "--formatter=json", "name", "policy")
        )
        return {row["name"]: row["policy"] for row in json.loads(rows)}

    def grants(self) -> str:
        """What the watcher's user may do."""
        return self.machine.run(
            *("mariadb", "--batch", "--skip-column-names"),
            *("--execute", "SHOW GRANTS FOR staging_watcher@'%'"),
        )


def venv_method(machine: Machine, request: pytest.FixtureRequest, scratch: Path) -> dict[str, str]:
    """Variables for an installation by pip, without the network."""
    dist: Dist = request.getfixturevalue("dist")
    shutil.copytree(
        wheels(scratch / "wheels", f"{dist.wheel}[mysql,metrics]"), machine.path / "srv/wheels"
    )
    return {
        "source": f"/srv/wheels/{dist.wheel.name}[mysql,metrics]",
        "pip_arguments": "--no-index --find-links=/srv/wheels",
    }


def package_method(
    machine: Machine, request: pytest.FixtureRequest, scratch: Path
) -> dict[str, str]:
    """Variables for an installation of the Debian package; apt has what it needs already."""
    path = Path(shutil.copy(request.getfixturevalue("deb"), machine.path / "srv"))
    name = f"/srv/{path.name}"
    machine.run("apt-get", "-qq", "update", network=True)
    machine.run("apt-get", "-qq", "install", "python3-apt", network=True)
    machine.run("apt-get", "-qq", "install", "--download-only", name, network=True)
    return {"install_method": "package", "source": name}


INSTALLED: dict[Method, list[str]] = {
    venv_method: [
        "Install into an environment of its own",
        "Install the unit",
        "Create the directory of the configuration",
    ],
    package_method: ["Install the package"],
}


@pytest.mark.large
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("method", "packages"),
    [(venv_method, PACKAGES), (package_method, debian13.HOST)],
    ids=["venv", "package"],
)
def test_a_second_run_changes_nothing(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    method: Method,
    packages: Sequence[str],
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "ansible").mkdir()
    with booted(tmp_path / "root", packages) as machine:
        host = Host(machine)
        enter = " ".join(machine.enter())
        environment = "PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8"
        ssh = tmp_path / "ssh"
        ssh.write_text(f'#!/bin/bash\nexec env -i {environment} {enter} sh -c "${{@: -1}}"\n')
        ssh.chmod(0o755)
        play = Play(
            tmp_path / "ansible",
            ansible_connection="ssh",
            ansible_ssh_executable=str(ssh),
            ansible_ssh_transfer_method="piped",
            ansible_python_interpreter="/usr/bin/python3",
        )
        variables: dict[str, Any] = {
            **method(machine, request, tmp_path),
            "config": {
                "database": {
                    "connection": f"mysql+pymysql://staging_watcher:{URL_PASSWORD}@127.0.0.1/glance"
                },
                "staging_watcher": {"sweep_interval": 300},
            },
            "service": {"ReadWritePaths": ["-/srv"], "Nice": 1},
            "rabbitmq_host": "controller",
            "database_host": "controller",
            "database_password": PASSWORD,
        }
        assert play.changed(**variables) == [
            "Set the policy",
            "Create the user and its grants",
            *INSTALLED[method],
            "Write the configuration",
            "Create the directory of the unit's settings",
            "Write the unit's settings",
            "Start or stop the service",
            "Restart glance-staging-watcher",
        ]
        assert host.show("ActiveState") == "active", machine.run("journalctl", "--unit", NAME)
        assert host.show("UnitFileState") == "enabled" and host.show("Nice") == "1"
        assert host.staged() == {host.live}
        modes = machine.run("stat", "--format=%a %U:%G", f"/etc/{NAME}/{NAME}.conf", f"/etc/{NAME}")
        assert modes.splitlines() == ["640 root:glance", "750 root:glance"]
        (granted,) = re.findall(r"GRANT SELECT \((.*?)\) ON `glance`.`images`", host.grants())
        assert set(granted.split(", ")) == {"`id`", "`deleted`", "`status`"}
        queue = f"{NAME}-{machine.run('hostname').strip()}"
        wait_for(lambda: queue in host.policies(), TIMEOUT, "the queue")
        assert host.policies()[queue] == "staging-watcher"

        pid = host.show("MainPID")
        assert play.changed(**variables) == []
        assert host.show("MainPID") == pid

        machine.run("rabbitmqctl", "clear_policy", "staging-watcher")
        machine.run("mariadb", "--execute", "ALTER USER staging_watcher@'%' IDENTIFIED BY 'x'")
        variables["config"]["staging_watcher"]["sweep_interval"] = 200
        assert play.changed(**variables) == [
            "Set the policy",
            "Create the user and its grants",
            "Write the configuration",
            "Restart glance-staging-watcher",
        ]
        assert host.show("ActiveState") == "active" and host.show("MainPID") != pid
        assert host.policies()[queue] == "staging-watcher"

        assert play.changed(**variables, state="stopped") == ["Start or stop the service"]
        assert host.show("ActiveState") == "inactive"
        assert host.show("UnitFileState") == "disabled"
