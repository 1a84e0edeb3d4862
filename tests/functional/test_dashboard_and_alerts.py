# SPDX-License-Identifier: Apache-2.0
"""What etc/ has for Grafana and Prometheus names only metrics and labels which the program has."""

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.functional.host import Host
from tests.services.ports import free_port

PREFIX = "glance_staging_watcher_"
ETC = Path(__file__).parents[2] / "etc"
OF_PROMETHEUS = {"up": {"": {""}}}  # metrics that Prometheus makes itself
OF_TARGETS = {"job", "instance"}  # labels that Prometheus adds

# A metric's labels, each with its values.
Labels = dict[str, set[str]]

GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
SELECTOR = re.compile(r"(?<![\w.$])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
OPERATORS = {"and", "or", "unless", "bool", "offset"}


class Query(NamedTuple):
    """What a PromQL expression names."""

    selectors: list[tuple[str, list[tuple[str, str, str]]]]
    grouping: set[str]


def parse_query(text: str) -> Query:
    grouping = {label.strip() for found in GROUPING.findall(text) for label in found.split(",")}
    bare = re.sub(r"\[[^\]]*\]", "", GROUPING.sub("", text))
    selectors = [
        (name, MATCHER.findall(matchers))
        for name, matchers in SELECTOR.findall(bare)
        if name not in OPERATORS
    ]
    return Query(selectors, grouping - {""})


def test_how_a_query_is_parsed() -> None:
    assert parse_query(
        'sum by (le, a) (rate(m_bucket{a="b,(c)",d=~".*"}[$__rate_interval])) > 2 * n:o offset 5m'
        " or max without(trigger)(p) and on (instance) q == 1e9"
    ) == Query(
        [("m_bucket", [("a", "=", "b,(c)"), ("d", "=~", ".*")]), ("n:o", []), ("p", []), ("q", [])],
        {"le", "a", "trigger", "instance"},
    )


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """SQLite only: the kind of database makes no difference here."""
    return f"sqlite:///{tmp_path / 'glance.sqlite'}"


@pytest.fixture
def exposed(new_host: Callable[..., Host]) -> dict[str, Labels]:
    """The running program's metrics, with all parts of it on."""
    port = free_port()
    new_host(transport_url="fake://", watcher=f"metrics_port = {port}").start()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    found: dict[str, Labels] = {name: dict(labels) for name, labels in OF_PROMETHEUS.items()}
    for family in parse(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def check(expression: str, texts: Iterator[str], exposed: dict[str, Labels]) -> None:
    """Metrics, labels and values of a query exist, and the labels which texts show of it."""
    query = parse_query(expression)
    assert query.selectors, expression
    known = set(OF_TARGETS)
    for name, matchers in query.selectors:
        assert name in exposed, f"no metric {name}: {expression}"
        known |= exposed[name].keys()
        for label, operator, value in matchers:
            if label not in OF_TARGETS:
                assert label in exposed[name], f"no label {label}: {expression}"
                assert operator != "=" or value in exposed[name][label], expression
    assert query.grouping <= known, expression
    for text in texts:
        shown = re.findall(r"\$labels\.(\w+)|\{\{\s*(\w+)\s*\}\}", text)
        assert {label for pair in shown for label in pair if label} <= known, text


def test_the_dashboard(exposed: dict[str, Labels]) -> None:
    dashboard = json.loads((ETC / "grafana-dashboard.json").read_text())
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    ours = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["instance"]["datasource"] == ours
    asked = re.fullmatch(r"label_values\((\w+), instance\)", variables["instance"]["definition"])
    assert asked and asked[1] in exposed
    panels: list[dict[str, Any]] = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"] and panel["fieldConfig"]["defaults"]["unit"], panel["id"]
        for target in panel["targets"]:
            assert panel["datasource"] == target["datasource"] == ours
            check(target["expr"], iter([target["legendFormat"]]), exposed)
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert used <= {"instance", "__rate_interval", "__range"}, target["expr"]


def test_the_alerts(exposed: dict[str, Labels]) -> None:
    groups = yaml.safe_load((ETC / "prometheus-alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 0
    for rule in rules:
        assert rule["alert"].startswith("GlanceStagingWatcher")
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description", "action"}
        assert "$labels.instance" in rule["annotations"]["summary"]
        check(rule["expr"], iter(rule["annotations"].values()), exposed)
    told = set(re.findall(r"\w+", " ".join(rule["annotations"]["description"] for rule in rules)))
    assert exposed[f"{PREFIX}condition"]["part"] <= told, "each part is explained"


def test_the_page_of_metrics(exposed: dict[str, Labels]) -> None:
    """It has each metric with its labels, each value of a label, and each alert; and no other."""
    page = (ETC.parent / "docs" / "metrics.md").read_text()
    ours = {
        re.sub("_(bucket|sum|count)$", "", name.removeprefix(PREFIX)): labels.keys() - {"le"}
        for name, labels in exposed.items()
        if name.startswith(PREFIX)
    }
    rows = re.findall(
        r"^\| `(\w+)` \| (?:counter|gauge|histogram) \| (.*?) ?\|", page, re.MULTILINE
    )
    assert {name: set(re.findall(r"\w+", labels)) for name, labels in rows} == ours
    files = exposed[f"{PREFIX}files_total"]
    for label, values in {**files, **exposed[f"{PREFIX}condition"]}.items():
        row = re.search(rf"^\| `{label}` \| (.*)", page, re.MULTILINE)
        assert row and values <= set(re.findall(r"`(\w+)`", row[1])), label
    for name in exposed:
        assert not name.startswith("process_") or f"`{name}`" in page, name
    alerts = re.findall(r"^\| `(Glance\w+)` \| (\w+) \|", page, re.MULTILINE)
    groups = yaml.safe_load((ETC / "prometheus-alerts.yml").read_text())["groups"]
    rules = [(rule["alert"], rule["labels"]["severity"]) for g in groups for rule in g["rules"]]
    assert alerts == rules
