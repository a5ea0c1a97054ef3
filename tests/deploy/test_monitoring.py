"""Dashboards and alerts ask for metrics that the services really export, with labels that these really have."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from libs.serving.interceptors import FAULT_CODES, RedMetrics
from services.audio.metrics import AudioMetrics
from services.gateway.attempts import INNOCENT
from services.muxer.metrics import MuxerMetrics
from tests.deploy.rendering import CHART, VALUE_FILES, of_kind, render

ROOT = Path(__file__).resolve().parents[2]
RUNBOOKS = ROOT / "docs/runbooks"
RULES = CHART / "files/rules/soundstage.yaml"
DASHBOARDS = sorted((CHART / "files/dashboards").glob("*.json"))
SCOPE = 'namespace="NAMESPACE"'
OF_THE_SCRAPE = {"job", "namespace", "pod", "instance", "service", "container", "endpoint"}
OTHERS = {
    # Triton 24.10, seen on its own port (docs of the design, components); KEDA 2.20's documentation.
    "nv_inference_pending_request_count": {"model", "version"},
    "nv_inference_count": {"model", "version"},
    "nv_inference_exec_count": {"model", "version"},
    "keda_scaler_detail_errors_total": {"scaledObject", "scaler", "triggerIndex", "metric", "type"},
    "process_resident_memory_bytes": set[str](),
}
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


@cache
def exported() -> dict[str, set[str]]:
    """Name of a series -> its labels, from the registries of the five services."""
    registries = [CollectorRegistry() for _ in range(5)]
    RedMetrics.of(registries[0])
    for registry, service in zip(registries[1:], ("encoder", "denoiser", "audio", "muxer"), strict=True):
        getattr(importlib.import_module(f"services.{service}.metrics"), f"{service.capitalize()}Metrics")(registry)
    importlib.import_module("services.gateway.metrics")
    found: dict[str, set[str]] = {}
    for registry in (*registries, REGISTRY):
        for collector in registry._collector_to_names:
            if isinstance(collector, MetricWrapperBase):
                for suffix in SUFFIXES[collector._type]:
                    labels = {*collector._labelnames, *({"le"} if suffix == "_bucket" else ())}
                    found[collector._name + suffix] = labels
    return found


@cache
def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def queries() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                ((series, label),) = re.findall(r"^label_values\((\w+(?:{.*})?), (\w+)\)$", variable["query"])
                yield f"{path.stem}: ${variable['name']}", f"sum by ({label}) ({series})"
        for panel in board["panels"]:
            yield from ((f"{path.stem}: {panel['title']}", target["expr"]) for target in panel["targets"])


def known() -> dict[str, set[str]]:
    recorded = {rule["record"]: set[str]() for rule in rules() if "record" in rule}
    return {**exported(), **OTHERS, **recorded}


@pytest.mark.parametrize(("where", "query"), list(queries()), ids=lambda value: str(value)[:40])
def test_every_query_asks_for_what_is_exported(where: str, query: str) -> None:
    assert unknown(query) == []


def unknown(query: str) -> list[str]:
    """What a query asks for that nobody exports: names, labels it picks by, labels it groups by."""
    selectors = selectors_of(query)
    aggregates = nodes_of(query, promql_parser.AggregateExpr)
    groups = [label for one in aggregates if one.modifier is not None for label in one.modifier.labels]
    series = known()
    wrong = [one.name for one in selectors if one.name not in series]
    for one in selectors:
        has = series.get(one.name, set()) | OF_THE_SCRAPE
        wrong += [f"{one.name}{{{matcher.name}}}" for matcher in one.matchers.matchers if matcher.name not in has]
    anywhere = OF_THE_SCRAPE.union(*(series.get(one.name, set()) for one in selectors))
    return wrong + [f"by {label}" for label in groups if label not in anywhere]


def selectors_of(query: str) -> list[Any]:
    return nodes_of(query, promql_parser.VectorSelector)


def nodes_of(query: str, kind: type) -> list[Any]:
    found = []

    def visit(node: Any) -> bool:
        if isinstance(node, kind):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def test_the_check_sees_mistakes() -> None:
    assert unknown("soundstage_gateway_videos_total") == ["soundstage_gateway_videos_total"]
    assert unknown('soundstage_gateway_videos_ended_total{stage="x"}') == [
        "soundstage_gateway_videos_ended_total{stage}"
    ]
    assert unknown("sum by (tenant) (soundstage_gateway_queued_videos)") == ["by tenant"]
    with pytest.raises(ValueError, match="unclosed"):
        unknown("sum(")


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert {alert["alert"] for alert in alerts()} == pages
    for alert in alerts():
        assert alert["annotations"]["runbook_url"] == f"RUNBOOKS/{alert['alert']}.md"
    index = (RUNBOOKS / "README.md").read_text()
    for page in pages:
        text = (RUNBOOKS / f"{page}.md").read_text()
        assert [heading for heading in ("## Impact", "## Look", "## Do") if heading not in text] == [], page
        assert f"({page}.md)" in index


def test_burn_rates_are_those_of_the_objective() -> None:
    """Two windows each, 14.4, 6, 3 and 1 times the budget."""
    budgets = {"videos-failed": 0.01, "calls-failed": 0.001}
    enough = {"videos-failed": 3, "calls-failed": 5}
    factors = {"1h": 14.4, "6h": 6, "1d": 3, "3d": 1}
    burning = [alert for alert in alerts() if "slo" in alert["labels"]]
    assert len(burning) == len(budgets) * len(factors)
    for alert in burning:
        limits = {float(number) for number in re.findall(r"> ([0-9.]+)", alert["expr"])}
        expected = budgets[alert["labels"]["slo"]] * factors[alert["labels"]["window"]]
        assert [pytest.approx(expected)] == list(limits)
        assert f"ratio_rate{alert['labels']['window']}{{" in alert["expr"]
        assert alert["expr"].endswith(f"[{alert['labels']['window']}])) >= {enough[alert['labels']['slo']]}")


def test_every_query_looks_at_one_release() -> None:
    """Of another namespace's metrics nothing is shown and nothing raised, nor of other programs'."""
    wanted = {"alert": "NAMESPACE", "board": "$namespace"}
    unscoped = []
    for where, query in queries():
        kind = "board" if ": " in where else "alert"
        for one in selectors_of(query):
            scopes = [matcher.value for matcher in one.matchers.matchers if matcher.name == "namespace"]
            if scopes != [wanted[kind]] and not one.name.startswith("keda_"):
                unscoped.append(f"{where}: {one.name}")
    # It lists the namespaces.
    assert unscoped == [f"{path.stem}: $namespace: soundstage_gateway_watchers_videos" for path in DASHBOARDS]


def test_what_raises_an_alert_is_counted_from_zero() -> None:
    """The first failure of each pod would else increase nothing."""
    codes = {said for rule in rules() for said in re.findall(r'grpc_code=~"([A-Z_|]+)"', rule["expr"])}
    assert codes == {"|".join(FAULT_CODES)}
    registry = CollectorRegistry()
    AudioMetrics(registry), MuxerMetrics(registry), RedMetrics.of(registry).begin("soundstage.video.v1.VideoService")

    def counted(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    called = {"grpc_service": "soundstage.video.v1.VideoService", "grpc_method": "CreateVideo"}
    assert [counted("grpc_server_handled_total", grpc_code=code, **called) for code in FAULT_CODES] == [0.0] * 6
    for service, checks in (("audio", ("shape", "silence")), ("muxer", ("decodes", "streams", "sound_end"))):
        name = f"soundstage_{service}_gate_failures_total"
        assert [counted(name, check=check) for check in checks] == [0.0] * len(checks)


def test_attempts_that_are_nobodys_fault_raise_no_alert() -> None:
    (alert,) = (alert for alert in alerts() if alert["alert"] == "SoundstageStageFails")
    (outcomes,) = re.findall(r'outcome!~"([A-Z_|]+)"', alert["expr"])
    assert set(outcomes.split("|")) == INNOCENT


def test_dashboards_and_rules_are_rendered_whole() -> None:
    manifests = render(*VALUE_FILES["gpu"])
    (rule,) = of_kind(manifests, "PrometheusRule")
    assert [word for word in ("RUNBOOKS", "NAMESPACE", "FULLNAME") if word in str(rule)] == []
    assert 'namespace="video"' in str(rule)
    assert 'scaledObject=~"soundstage-(' in str(rule)
    assert len(rule["spec"]["groups"]) == len(yaml.safe_load(RULES.read_text())["groups"])
    shown = [one["data"] for one in of_kind(manifests, "ConfigMap") if "grafana_dashboard" in one["metadata"]["labels"]]
    boards = [json.loads(*data.values()) for data in shown]
    assert {board["uid"] for board in boards} == {f"soundstage-{path.stem}" for path in DASHBOARDS}
    assert {path.stem for path in DASHBOARDS} >= {"overview", "video", "capacity", "tenants"}
