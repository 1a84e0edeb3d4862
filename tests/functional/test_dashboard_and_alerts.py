# SPDX-License-Identifier: Apache-2.0
"""The dashboard and the alerts in etc/ fit the program's metrics, and Prometheus."""

import json
import re
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bcrypt
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.conftest import sqlite_url
from tests.functional.host import GlanceNotifier, Host, new_id
from tests.functional.program import SECRET
from tests.services import RabbitMQ, wait_for
from tests.services.certificates import Authority
from tests.services.ports import free_port
from tests.services.prometheus import Prometheus, without_variables
from tests.services.requirements import unavailable

PREFIX = "glance_staging_watcher_"
ETC = Path(__file__).parents[2] / "etc"
TIMEOUT = 60.0  # seconds
OF_PROMETHEUS = {"up": {"": {""}}}  # metrics that Prometheus makes itself
OF_TARGETS = {"job", "instance"}  # labels that Prometheus adds
COMPONENTS = {
    *("cleaner", "database", "directory", "removals", "notifications", "file_events", "audit"),
    "closer",
    *("absent_removals_limit", "witness"),
}
HAVE_THEIR_ALERT = {"absent_removals_limit", "witness"}

# A metric's labels, each with its values.
Labels = dict[str, set[str]]

GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
SELECTOR = re.compile(r"(?<![\w.$])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
SYNTAX = {"", "else", "end"}  # of Go's templates
OPERATORS = {"and", "or", "unless", "bool", "offset"}

database_url = sqlite_url


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
    components = found[f"{PREFIX}healthy"]["component"]
    assert components <= COMPONENTS
    components |= COMPONENTS  # some are there only in certain configurations
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
        assert {label for pair in shown for label in pair} - SYNTAX <= known, text


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


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ETC / "prometheus-alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_alerts(exposed: dict[str, Labels]) -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules()) > 0
    for rule in rules():
        assert rule["alert"].startswith("GlanceStagingWatcher")
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert "$labels.instance" in rule["annotations"]["summary"]
        check(rule["expr"], iter(rule["annotations"].values()), exposed)
    named = set(re.findall(r"\w+", " ".join(r["annotations"]["description"] for r in rules())))
    assert exposed[f"{PREFIX}healthy"]["component"] - HAVE_THEIR_ALERT <= named


RUNBOOK = (
    "{{ with $externalLabels.glance_staging_watcher_docs }}{{ . }}/metrics.html{{ else "
    "}}docs/metrics.md{{ end }}"
)


def test_each_alert_has_a_section_in_the_docs() -> None:
    page = (ETC.parent / "docs" / "metrics.md").read_text()
    sections = {title.lower(): title for title in re.findall("^### (.*)$", page, re.MULTILINE)}
    for rule in rules():
        url, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert url == RUNBOOK
        assert sections[anchor] == rule["alert"]


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
    staged = exposed[f"{PREFIX}staged_files"]
    for label, values in {**files, **exposed[f"{PREFIX}healthy"], **staged}.items():
        row = re.search(rf"^\| `{label}` \| (.*)", page, re.MULTILINE)
        assert row and values - {""} <= set(re.findall(r"`?(\w+)`?", row[1])), label
    for name in exposed:
        assert not name.startswith("process_") or f"`{name}`" in page, name
    alerts = re.findall(r"^\| `(Glance\w+)` \| (\w+) \|", page, re.MULTILINE)
    assert alerts == [(rule["alert"], rule["labels"]["severity"]) for rule in rules()]


# Rules, by promtool

PROMTOOL = "/usr/bin/promtool"
UP, SWEEPS, LAST = "up", "sweeps_total", "last_sweep_timestamp_seconds"
ERRORS, HEALTHY = 'last_sweep_files{result="error"}', 'healthy{component="database"}'
WITNESS, AUDIT = 'healthy{component="witness"}', 'healthy{component="audit"}'
LIMIT, DUE = "absent_removals_limit_reached", 'queue_depth{state="due"}'
OLD, ACTIVE = (
    f'staged_oldest_age_seconds{{kind="live",image_status="{status}"}}'
    for status in ("importing", "active")
)
FOREIGN = 'staged_oldest_age_seconds{kind="foreign",image_status=""}'

#: one value a minute, for 70 minutes, with a sweep every ten minutes; promtool's time begins at 0
WELL = {
    UP: "1x70",
    SWEEPS: "1x70",
    "sweep_interval_seconds": "600x70",
    LAST: " ".join(f"{60 * minute}x9" for minute in range(0, 70, 10)),
    ERRORS: "0x70",
    HEALTHY: "1x70",
    WITNESS: "1x70",
    AUDIT: "1x70",
    LIMIT: "0x70",
    DUE: "0x70",
    OLD: "0x70",
    ACTIVE: "0x70",
    FOREIGN: "9000000x70",
}


class Case(NamedTuple):
    """Which alerts fire at some minute, where series differ from those of a healthy host."""

    name: str
    series: dict[str, str]
    minute: int
    alerts: set[str]


CASES = [
    Case("all is well", {}, 69, set()),
    Case("down for a moment", {UP: "1x9 0x3 1x50"}, 13, set()),
    Case("down", {UP: "1x9 0x50"}, 16, {"Down"}),
    Case("up again", {UP: "1x9 0x20 1x50"}, 40, set()),
    Case("new series", dict.fromkeys(WELL, "_x29 ") | {UP: "_x29 1x30"}, 31, set()),
    Case("first sweep is slow", {SWEEPS: "0x8 1x60", LAST: "_x8 540x60"}, 12, set()),
    Case("first sweep doesn't finish", {SWEEPS: "0x70", LAST: "_x70"}, 11, {"NoSweep"}),
    Case("no further sweep, not yet late", {LAST: "0x70"}, 39, set()),
    Case("no further sweep", {LAST: "0x70"}, 42, {"NoSweep"}),
    Case(
        "a restart",
        {SWEEPS: "5x29 0x1 1x40", LAST: "1200x29 _x1 1920x9 2520x9 3120x9 3720x9"},
        45,
        set(),
    ),
    Case(
        "a restart after each minute",
        {
            UP: "1 0 1 0 1 0 1 0 1 0 1 0 1 0 1",
            SWEEPS: "0 _ 0 _ 0 _ 0 _ 0 _ 0 _ 0 _ 0",
            LAST: "_x14",
        },
        13,
        {"NoSweep"},
    ),
    Case("database fails for a moment", {HEALTHY: "1x9 0x8 1x50"}, 25, set()),
    Case("database fails", {HEALTHY: "1x9 0x50"}, 21, {"ComponentFailing"}),
    Case("audit fails from the start", {AUDIT: "0x50"}, 11, {"ComponentFailing"}),
    Case("failures in the first sweep", {ERRORS: "5x50"}, 16, {"FilesNotRemoved"}),
    Case("failures, new series", {ERRORS: "_x29 5x30"}, 46, {"FilesNotRemoved"}),
    Case("no failures any more", {ERRORS: "5x29 0x30"}, 31, set()),
    Case("limit not reached", {LIMIT: "0x70"}, 69, set()),
    Case("limit reached", {LIMIT: "0x29 1x30"}, 30, {"AbsentRemovalsLimit"}),
    Case("limit reached at the first scrape", {LIMIT: "1x70"}, 0, {"AbsentRemovalsLimit"}),
    Case(
        "limit still reached after a restart", {LIMIT: "1x9 _x1 1x50"}, 12, {"AbsentRemovalsLimit"}
    ),
    Case("limit free again", {LIMIT: "1x29 0x30"}, 31, set()),
    Case("held back until the first image", {WITNESS: "0x50 1x10"}, 49, set()),
    Case("held back", {WITNESS: "0x70"}, 61, {"FilesHeldBack"}),
    Case("a burst", {DUE: "0x9 5000x9 0x50"}, 40, set()),
    Case("the queue grows", {DUE: "2000+10x70"}, 40, {"QueueGrows"}),
    Case("the queue shrinks", {DUE: "9000-10x70"}, 40, set()),
    Case("an import of two days", {OLD: "172800+60x70"}, 69, set()),
    Case("an import of three days", {OLD: "259200+60x70"}, 62, {"OldLiveFiles"}),
    Case("old leftovers, new series", {ACTIVE: "_x4 864000x65"}, 66, {"OldLiveFiles"}),
    Case("old leftovers that went", {ACTIVE: "864000x40 0x29"}, 69, set()),
]


def unit_test(case: Case) -> dict[str, Any]:
    """A test of promtool's."""
    target = 'job="glance-staging-watcher",instance="a"'
    series = []
    for name, values in (WELL | case.series).items():
        bare, _, labels = name.rstrip("}").partition("{")
        full = bare if bare == UP else PREFIX + bare
        labels = f"{labels},{target}" if labels else target
        series.append({"series": f"{full}{{{labels}}}", "values": values})
    firing = [
        {"labels": f'{{alertname="GlanceStagingWatcher{alert}"}}', "value": 1}
        for alert in sorted(case.alerts)
    ]
    return {
        "name": f"{case.name}, minute {case.minute}",
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{case.minute}m",
                "exp_samples": firing,
            }
        ],
    }


def test_the_rules_fire_when_they_should(tmp_path: Path) -> None:
    if not Path(PROMTOOL).exists():
        unavailable("prometheus is not installed")
    assert {alert for case in CASES for alert in case.alerts} == {
        rule["alert"].removeprefix("GlanceStagingWatcher") for rule in rules()
    }
    file = ETC / "prometheus-alerts.yml"
    checked = promtool("check", "rules", str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tests = tmp_path / "tests.yml"
    tests.write_text(
        yaml.safe_dump({"rule_files": [str(file)], "tests": [unit_test(case) for case in CASES]})
    )
    tested = promtool("test", "rules", str(tests))
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize(
    ("labels", "url"),
    [
        ({}, "docs/metrics.md"),
        (
            {"glance_staging_watcher_docs": "https://docs.test/x"},
            "https://docs.test/x/metrics.html",
        ),
    ],
)
def test_the_link_to_the_runbook(tmp_path: Path, labels: dict[str, str], url: str) -> None:
    if not Path(PROMTOOL).exists():
        unavailable("prometheus is not installed")
    [rule] = [each for each in rules() if each["alert"] == "GlanceStagingWatcherDown"]
    down = {"job": "glance-staging-watcher", "instance": "a"}
    fired = {
        "exp_labels": down | rule["labels"],
        "exp_annotations": {
            "summary": "The staging watcher on a is down",
            "description": rule["annotations"]["description"],
            "runbook_url": f"{url}#glancestagingwatcherdown",
        },
    }
    series = [{"series": 'up{job="glance-staging-watcher",instance="a"}', "values": "0x20"}]
    test = {
        "interval": "1m",
        "external_labels": labels,
        "input_series": series,
        "alert_rule_test": [{"eval_time": "9m", "alertname": rule["alert"], "exp_alerts": [fired]}],
    }
    tests = tmp_path / "tests.yml"
    file = ETC / "prometheus-alerts.yml"
    tests.write_text(yaml.safe_dump({"rule_files": [str(file)], "tests": [test]}))
    tested = promtool("test", "rules", str(tests))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def promtool(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROMTOOL, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


# Debian's Prometheus, which scrapes the program


def test_prometheus_scrapes_the_program(
    new_host: Callable[..., Host], tmp_path: Path, rabbitmq: RabbitMQ, notifier: GlanceNotifier
) -> None:
    """Each query of the dashboard has data, and only the alerts that should fire do."""
    if reason := Prometheus.missing():
        unavailable(reason)
    port = free_port()
    host = new_host(
        transport_url=rabbitmq.url(),
        watcher=f"metrics_port = {port}\nabsent_grace = 0\nmax_absent_removals = 1\n"
        "sweep_interval = 1",
    )
    host.stage_live()
    for _ in range(2):
        host.stage(new_id())
    program = host.start()
    program.wait_for_line("Listening for notifications")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        linted = promtool("check", "metrics", stdin=answer.read().decode())
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")
    (tmp_path / "prometheus").mkdir()
    prometheus = Prometheus(tmp_path / "prometheus", port)
    try:
        prometheus.start()
        wait_for(lambda: prometheus.query("up == 1"), TIMEOUT, "the first scrape")
        notifier.deleted(new_id())  # between two scrapes, for a rate
        for expression in dashboard_queries():
            wait_for(lambda: has_data(prometheus, expression), TIMEOUT, expression)  # noqa: B023
        wait_for(lambda: prometheus.query('ALERTS{alertstate="firing"}'), TIMEOUT, "an alert")
        (alert,) = prometheus.query('ALERTS{alertstate="firing"}')
        assert alert["metric"]["alertname"] == "GlanceStagingWatcherAbsentRemovalsLimit"
    finally:
        prometheus.stop()


def test_prometheus_scrapes_by_https_with_a_password(
    new_host: Callable[..., Host], tmp_path: Path
) -> None:
    if reason := Prometheus.missing():
        unavailable(reason)
    authority, port, web = Authority(tmp_path), free_port(), tmp_path / "web.yml"
    certificate = authority.issue("server")
    stored = bcrypt.hashpw(SECRET.encode(), bcrypt.gensalt(4)).decode()
    web.write_text(
        f"tls_server_config: {{cert_file: {certificate.path}, key_file: {certificate.key}}}\n"
        f"basic_auth_users: {{prometheus: {stored}}}\n"
    )
    host = new_host(watcher=f"metrics_port = {port}\nmetrics_web_config = {web}")
    host.start()
    (tmp_path / "prometheus").mkdir()
    prometheus = Prometheus(
        tmp_path / "prometheus",
        port,
        scheme="https",
        tls_config={"ca_file": str(authority.certificate)},
        basic_auth={"username": "prometheus", "password": SECRET},
    )
    try:
        prometheus.start()
        wait_for(lambda: prometheus.query("up == 1"), TIMEOUT, "the first scrape")
    finally:
        prometheus.stop()


def dashboard_queries() -> list[str]:
    """Queries, with the variables replaced as Grafana does."""
    dashboard = json.loads((ETC / "grafana-dashboard.json").read_text())
    return [
        without_variables(target["expr"], __rate_interval="30s", __range="1h")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]


def has_data(prometheus: Prometheus, expression: str) -> bool:
    result = prometheus.query(expression)
    return bool(result) and all(sample["value"][1] != "NaN" for sample in result)
