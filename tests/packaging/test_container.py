# SPDX-License-Identifier: Apache-2.0
"""The images, built on Debian 13 in place of their base images, and what runs them."""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.docs.pages import Commands, commands
from tests.functional.host import GlanceNotifier, new_id
from tests.packaging import debian13
from tests.packaging.conftest import SOURCE, make_site, needed
from tests.packaging.containers import PROGRAMS, Container, Store
from tests.packaging.debian13 import UnavailableError
from tests.services import Images, MariaDB, RabbitMQ, unique_name, wait_for
from tests.services.requirements import unavailable

large = [pytest.mark.large, pytest.mark.timeout(1200)]

NAME = "glance-staging-watcher"
PAGE = SOURCE / "docs/containers.md"
MANIFESTS = sorted((SOURCE / "etc/kubernetes").glob("*.yaml"))
DEBIAN = ("ca-certificates", "dumb-init", "python3-venv", "python3-yaml", "sudo")
KOLLA = "23.0.0"
UID = 42415  # of Kolla's glance
STAGING = "var/lib/glance/staging"
TIMEOUT = 60.0  # seconds

PYTHON_BASE = """\
FROM localhost/debian
RUN ln -s python3 /usr/bin/python
"""

# As Kolla's own Dockerfile.j2 of base and of glance-base do it.
KOLLA_BASE = """\
FROM localhost/debian
COPY base/set_configs.py /usr/local/bin/kolla_set_configs
COPY base/start.sh /usr/local/bin/kolla_start
COPY base/copy_cacerts.sh /usr/local/bin/kolla_copy_cacerts
COPY base/install_projects.sh /usr/local/bin/kolla_install_projects
COPY base/sudoers /etc/sudoers
COPY glance/glance-base/extend_start.sh /usr/local/bin/kolla_extend_start
COPY glance/glance-api/extend_start.sh /usr/local/bin/kolla_glance_extend_start
RUN chmod 755 /usr/local/bin/kolla_* \
    && chmod 440 /etc/sudoers \
    && groupadd --gid 42400 kolla \
    && groupadd --gid 42415 glance \
    && useradd -l -M -d /var/lib/glance -s /usr/sbin/nologin -u 42415 -g 42415 -G kolla glance
ENTRYPOINT ["dumb-init", "--single-child", "--"]
CMD ["kolla_start"]
USER glance
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Storage with the base images ``python`` and ``kolla``."""
    needed("debootstrap", *PROGRAMS)
    if os.geteuid() != 0:
        unavailable("only root can build an image from a root directory")
    try:
        tree = debian13.tree(*DEBIAN)
    except UnavailableError as error:
        unavailable(str(error))
    scratch = tmp_path_factory.mktemp("images")
    with Store(tmp_path_factory.mktemp("store")) as store:
        store.import_tree(tree, "localhost/debian")
        (scratch / "python").write_text(PYTHON_BASE)
        store.build("--file", scratch / "python", "--tag", "localhost/python", scratch)
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *(f"--dest={scratch}", f"kolla=={KOLLA}"),
            ],
            check=True,
        )
        (wheel,) = scratch.glob("kolla-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch)
        (scratch / "base").write_text(KOLLA_BASE)
        context = scratch / "kolla/docker"
        store.build("--file", scratch / "base", "--tag", "localhost/kolla", context)
        yield store


@pytest.fixture(scope="module")
def image(store: Store) -> str:
    """The image that the Containerfile makes."""
    base = "--build-arg=PYTHON_IMAGE=localhost/python"
    store.build(base, "--tag", NAME, SOURCE)
    return NAME


class Glance:
    """The files of a host with Glance, its table and its notifications.

    :param root: the host's root directory
    """

    def __init__(self, root: Path, mariadb: MariaDB, rabbitmq: RabbitMQ) -> None:
        name = unique_name("container")
        mariadb.create_database(name)
        self.root, self.rabbitmq, self.vhost = root, rabbitmq, rabbitmq.new_vhost()
        bus = rabbitmq.url(vhost=self.vhost)
        self.images = Images(mariadb.url(name))
        self.images.create_table()
        self.notifier = GlanceNotifier(bus)
        self.staging = root / STAGING
        self.staging.mkdir(parents=True)
        os.chown(self.staging, 0, UID)  # as fsGroup does
        self.staging.chmod(0o2775)
        self.configuration = (
            f"[DEFAULT]\nnode_staging_uri = file:///{STAGING}\ntransport_url = {bus}\n"
            f"[database]\nconnection = {mariadb.url(name)}\n"
            "[oslo_messaging_notifications]\ndriver = messagingv2\n"
        )
        self.write("etc/glance/glance-api.conf", self.configuration, 0o644)

    def write(self, path: str, text: str, mode: int) -> None:
        """Write a file of root's."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)
        (self.root / path).chmod(mode)

    def staged(self, *, deleted: bool = False) -> tuple[str, Path]:
        """An image and its staged file, which belongs to Glance's user."""
        image = new_id()
        self.images.insert(image, deleted=deleted, status="deleted" if deleted else "uploading")
        path = self.staging / image
        path.write_bytes(b"data")
        os.chown(path, UID, UID)
        return image, path

    def delete(self, image: str) -> None:
        """Delete an image on another host."""
        self.images.delete(image)
        self.notifier.deleted(image)

    def pools(self) -> set[str]:
        """Queues of watchers."""
        return {name for name in self.rabbitmq.queues(self.vhost) if name.startswith(NAME)}

    def close(self) -> None:
        """Close its connections."""
        self.notifier.close()
        self.images.close()


@pytest.fixture
def glance(tmp_path: Path, mariadb: MariaDB, rabbitmq: RabbitMQ) -> Iterator[Glance]:
    """A host with Glance."""
    (tmp_path / "host").mkdir()
    made = Glance(tmp_path / "host", mariadb, rabbitmq)
    yield made
    made.close()


class TestImage:
    pytestmark = large

    def test_it_has_the_program_and_its_drivers(self, store: Store, image: str) -> None:
        assert store.config(image)["User"] == f"{UID}:{UID}"
        with Container(store, image, ["--version"]) as container:
            assert container.wait() == 0
            assert container.log.strip() == version(NAME)
        (program,) = store.config(image)["Entrypoint"]
        python = str(Path(program).with_name("python"))
        name = store.run("buildah", "from", "--pull-never", image).strip()
        modules = "import confluent_kafka, prometheus_client, psycopg, pymysql"
        store.run("buildah", "run", "--isolation=chroot", name, "--", python, "-c", modules)

    def test_it_sweeps_as_kollas_user(self, store: Store, image: str, tmp_path: Path) -> None:
        (tmp_path / "site").mkdir()
        site = make_site(tmp_path / "site", "/srv/site")
        command = ["sweep", "--config-file", "/srv/site/glance-api.conf"]
        with Container(store, image, command, volumes=[f"{tmp_path}/site:/srv/site"]) as container:
            assert container.wait() == 0, container.log
            assert "Cleaned 1 stale staging file, 1 ignored (0 errors)" in container.log
        assert site.live.exists() and not site.residue.exists()


def gone(path: Path) -> bool:
    """Whether a file was removed."""
    return not path.exists()


def workload(manifest: Path) -> dict[str, Any]:
    """The only document of a manifest."""
    (document,) = yaml.safe_load_all(manifest.read_text())
    assert isinstance(document, dict)
    return document


def pod_spec(manifest: Path) -> dict[str, Any]:
    """Specification of the pods."""
    spec: dict[str, Any] = workload(manifest)["spec"]["template"]["spec"]
    return spec


def sidecar(manifest: Path) -> dict[str, Any]:
    """The watcher's container."""
    (container,) = (each for each in pod_spec(manifest)["containers"] if each["name"] == NAME)
    assert isinstance(container, dict)
    return container


class Pod(Container):
    """The watcher's container of a manifest, as it stands.

    :param facts: what the field references name
    """

    def __init__(
        self, store: Store, image: str, manifest: Path, root: Path, facts: Mapping[str, str]
    ) -> None:
        spec = dict(sidecar(manifest))
        assert spec.pop("image") == f"{image}:{version(NAME)}"
        env: dict[str, str] = {}
        for each in spec.pop("env"):
            source = each.get("valueFrom", {}).get("fieldRef", {})
            value = facts[source["fieldPath"]] if source else each["value"]
            env[each["name"]] = re.sub(r"\$\((\w+)\)", lambda found: env[found[1]], value)
        known = {
            name: STAGING if name == "staging" else "etc/glance"
            for name in (*self._volumes(manifest), *self._claims(manifest))
        }
        volumes = []
        for mount in spec.pop("volumeMounts"):
            read_only = ":ro" if mount.get("readOnly") else ""
            volumes.append(f"{root}/{known[mount['name']]}:{mount['mountPath']}{read_only}")
        (port,) = spec.pop("ports")
        self.probes = {
            f"http://{facts['status.podIP']}:{port['containerPort']}{probe['path']}"
            for name in ("livenessProbe", "readinessProbe")
            if (probe := spec.pop(name, {}).get("httpGet"))
        }
        self.memory = int(spec.pop("resources")["limits"]["memory"].removesuffix("Mi"))
        assert spec.pop("securityContext") == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert spec == {"name": NAME}, "not proved"
        ids = pod_spec(manifest)["securityContext"]
        assert ids["fsGroup"] == ids["runAsGroup"]
        super().__init__(
            *(store, image),
            env=env,
            volumes=volumes,
            user=f"{ids['runAsUser']}:{ids['runAsGroup']}",
            confined=True,
        )

    @staticmethod
    def _volumes(manifest: Path) -> list[str]:
        return [each["name"] for each in pod_spec(manifest)["volumes"]]

    @staticmethod
    def _claims(manifest: Path) -> list[str]:
        claims = workload(manifest)["spec"].get("volumeClaimTemplates", ())
        return [each["metadata"]["name"] for each in claims]

    def answers(self, url: str) -> bool:
        """Whether a probe succeeds."""
        self.check_alive()
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
        return False

    @property
    def peak_memory(self) -> float:
        """MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (found,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        return int(found) / 1024


class TestKubernetes:
    @pytest.mark.parametrize("release", ["1.29", "1.37"])
    @pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
    def test_a_manifest_is_valid(self, manifest: Path, release: str) -> None:
        validator = pytest.importorskip("kubernetes_validate")
        validator.validate(workload(manifest), release, strict=True)
        assert release in PAGE.read_text()

    @pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
    def test_what_a_manifest_refers_to_is_in_it(self, manifest: Path) -> None:
        document, spec = workload(manifest), pod_spec(manifest)
        labels = document["spec"]["template"]["metadata"]["labels"]
        assert document["spec"]["selector"]["matchLabels"] == labels
        claims = document["spec"].get("volumeClaimTemplates", ())
        there = {each["name"] for each in spec["volumes"]}
        there |= {each["metadata"]["name"] for each in claims}
        for container in spec["containers"]:
            assert {each["name"] for each in container["volumeMounts"]} == there
        names = {port["name"] for port in sidecar(manifest)["ports"]}
        assert sidecar(manifest)["livenessProbe"]["httpGet"]["port"] in names

    def test_only_a_pod_of_its_own_is_unready_with_the_broker(self) -> None:
        ready = {path.stem for path in MANIFESTS if "readinessProbe" in sidecar(path)}
        alone = {path.stem for path in MANIFESTS if len(pod_spec(path)["containers"]) == 1}
        assert ready == alone == {"shared-pvc"}

    @pytest.mark.large
    @pytest.mark.timeout(1200)
    @pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
    def test_it_runs_and_keeps_its_queue_in_a_new_pod(
        self, store: Store, image: str, glance: Glance, manifest: Path
    ) -> None:
        _, live = glance.staged()
        for number in (1, 2):
            stable = workload(manifest)["kind"] == "StatefulSet"
            facts = {
                "metadata.name": "glance-api-0" if stable else f"glance-api-{new_id()[:8]}",
                "spec.nodeName": f"node{number}" if stable else "node1",
                "status.podIP": f"127.0.9.{number}",
            }
            image_id, path = glance.staged()
            _, residue = glance.staged(deleted=True)
            with Pod(store, image, manifest, glance.root, facts) as pod:
                for url in (*pod.probes, f"http://{facts['status.podIP']}:9798/readyz"):
                    wait_for(partial(pod.answers, url), TIMEOUT, url)
                assert not residue.exists(), "ready before the first sweep"
                glance.delete(image_id)
                wait_for(partial(gone, path), TIMEOUT, "the removal")
                assert pod.peak_memory < pod.memory
                assert pod.stop() == 0
                assert not pod.written()
            assert live.exists()
        assert len(glance.pools()) == 1


def recorded(directory: Path, root: Path, *blocks: Commands) -> list[list[str]]:
    """Command lines of podman in these blocks; the others are run, below ``root``."""
    script = "".join(block.script for block in blocks)
    script = re.sub(r"(?m)(^install .*) /etc/", rf"\1 {root}/etc/", script)
    (directory / "podman").write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        f"with open({str(directory / 'calls')!r}, 'a') as file:\n"
        "    print(json.dumps(sys.argv[1:]), file=file)\n"
    )
    (directory / "podman").chmod(0o755)
    subprocess.run(
        ["bash", "-e"],
        input=script,
        cwd=SOURCE,
        env=os.environ | {"PATH": f"{directory}:{os.environ['PATH']}"},
        text=True,
        check=True,
    )
    return [json.loads(line) for line in (directory / "calls").read_text().splitlines()]


def documented(store: Store, call: list[str], root: Path) -> Container:
    """What a documented ``podman run`` starts; its volumes are below ``root``."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    for name in ("--detach", "--rm"):
        parser.add_argument(name, action="store_true")
    for name in ("--name", "--restart"):
        parser.add_argument(name)
    parser.add_argument("--network", choices=["host"], required=True)
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--volume", action="append", default=[])
    parser.add_argument("image")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    assert call[0] == "run"
    options = parser.parse_args(call[1:])
    volumes = []
    for volume in options.volume:
        source = volume.partition(":")[0]
        inside = source if source.startswith("/") else f"/volumes/{source}"
        volumes.append(volume.replace(source, f"{root}{inside}", 1))
        (root / inside[1:]).mkdir(parents=True, exist_ok=True)
    env = dict(each.split("=", 1) for each in options.env)
    return Container(store, options.image, options.command, env=env, volumes=volumes)


class TestDocumentation:
    pytestmark = large

    def test_the_commands_build_and_run_it(
        self, store: Store, image: str, glance: Glance, tmp_path: Path
    ) -> None:
        build, service, dry_run = recorded(
            tmp_path,
            glance.root,
            commands("containers.md", "Image", 0),
            commands("containers.md", "Image", 1),
            commands("containers.md", "Image", 2),
        )
        assert build == ["build", "--tag", image, "."]
        _, residue = glance.staged(deleted=True)
        with documented(store, dry_run, glance.root) as container:
            assert container.wait() == 0, container.log
            assert "1 to remove" in container.log or residue.name in container.log
        assert residue.exists()
        with documented(store, service, glance.root) as container:
            wait_for(lambda: "Listening" in container.log, TIMEOUT, "the listener")
            wait_for(partial(gone, residue), TIMEOUT, "the first sweep")
            assert glance.pools() == {f"{NAME}-{os.uname().nodename}"}
            assert container.stop() == 0

    def test_kolla_starts_it(self, store: Store, glance: Glance, tmp_path: Path) -> None:
        log = "volumes/kolla_logs/glance/glance-staging-watcher.log"
        (glance.root / "volumes/glance").mkdir(parents=True)
        glance.staging.rename(glance.root / "volumes/glance/staging")
        glance.staging = glance.root / "volumes/glance/staging"
        (glance.root / "etc/glance/glance-api.conf").unlink()
        glance.write("etc/kolla/glance-api/glance-api.conf", glance.configuration, 0o660)
        build, run = recorded(
            tmp_path,
            glance.root,
            commands("containers.md", "Kolla", 0),
            commands("containers.md", "Kolla", 1),
        )
        assert build.pop(0) == "build"
        store.build("--build-arg=KOLLA_IMAGE=localhost/kolla", *build[:-1], SOURCE)
        logs = glance.root / "volumes/kolla_logs"
        logs.mkdir()
        os.chown(logs, 0, 42400)  # as Kolla's image has /var/log/kolla
        logs.chmod(0o2775)
        _, residue = glance.staged(deleted=True)
        with documented(store, run, glance.root) as container:

            def listening() -> bool:
                container.check_alive()
                path = glance.root / log
                return path.exists() and "Listening" in path.read_text()

            wait_for(listening, TIMEOUT, "the listener")
            wait_for(partial(gone, residue), TIMEOUT, "the first sweep")
            assert "Running command: '/opt/glance-staging-watcher/bin/" in container.log
            assert glance.pools() == {f"{NAME}-{os.uname().nodename}"}
            owner = Path(f"/proc/{container.pid}").stat().st_uid
            assert owner == UID
            assert container.stop() == 0
