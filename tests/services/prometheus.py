# SPDX-License-Identifier: Apache-2.0
"""Debian's Prometheus, which scrapes one program every second."""

import json
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from .server import Server

RULES = Path(__file__).parents[2] / "etc/prometheus-alerts.yml"


def without_variables(query: str, **values: str) -> str:
    """A query of a dashboard for all instances, with these values of its other variables."""
    for name, value in ({"instance": ".*"} | values).items():
        query = query.replace(f"${name}", value)
    return query


class Prometheus(Server):
    """A Prometheus with our alerts.

    :param target: port of the program's metrics
    :param scrape: more options of the scrape
    """

    def __init__(self, directory: Path, target: int, **scrape: Any) -> None:
        super().__init__(directory)
        self._target, self._scrape = target, scrape

    @classmethod
    def missing(cls) -> str | None:
        """Say whether it isn't installed."""
        return None if Path("/usr/bin/prometheus").exists() else "prometheus is not installed"

    def _command(self) -> list[str]:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {
                    "job_name": "glance-staging-watcher",
                    "static_configs": [{"targets": [f"127.0.0.1:{self._target}"]}],
                    **self._scrape,
                }
            ],
        }
        (self.directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        return [
            "/usr/bin/prometheus",
            f"--config.file={self.directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.data}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def _serving(self) -> bool:
        with suppress(OSError):
            return bool(self.get("/-/ready"))
        return False

    def get(self, path: str) -> str:
        """What it answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of a query."""
        encoded = urllib.parse.urlencode({"query": expression})
        result = json.loads(self.get(f"/api/v1/query?{encoded}"))
        assert result["status"] == "success", result
        return list(result["data"]["result"])

    def query_range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[dict[str, Any]]:
        """The result of a query from start to end, seconds since the epoch, each step seconds."""
        encoded = urllib.parse.urlencode(
            {"query": expression, "start": start, "end": end, "step": step}
        )
        result = json.loads(self.get(f"/api/v1/query_range?{encoded}"))
        assert result["status"] == "success", result
        return list(result["data"]["result"])
