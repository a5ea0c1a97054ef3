"""Who can reach whom, computed from the rendered NetworkPolicies as Kubernetes defines them, is what is drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.deploy.rendering import BUNDLED, OUTSIDE, TOGGLES, VALUE_FILES, Manifest, merged, of_kind, pods, render

Arrow = tuple[str, str, int]
STAGES = ("encoder", "denoiser", "audio", "muxer")
# docs of the design, section 1 and 7: the gateway calls the stages, the api asks the encoder about prompts, every one
# reads and writes artifacts, records and workflows are the gateway's alone.
DRAWN: set[Arrow] = {("gateway-worker", stage, 50051) for stage in STAGES} | {("gateway-api", "encoder", 50051)}
HEALTH_TEST: set[Arrow] = {("test", called, 50051) for called in ("gateway-api", "gateway-worker", *STAGES)}
STORES: set[Arrow] = {(caller, "seaweedfs", 8333) for caller in ("gateway-api", "gateway-worker", *STAGES)} | {
    (caller, store, port)
    for caller in ("gateway-api", "gateway-worker")
    for store, port in (("postgresql", 5432), ("temporal", 7233))
}
PORTS = (50051, 9090, 8000, 8001, 8002, 5432, 7233, 8333, 9000, 443, 80, 6443, 4318)
PROMETHEUS, DNS, ANYWHERE = "prometheus", "dns", "anywhere"
STRANGERS: dict[str, dict[str, Any]] = {
    PROMETHEUS: {"namespace": {"kubernetes.io/metadata.name": "monitoring"}, "labels": {}, "inside": True},
    DNS: {
        "namespace": {"kubernetes.io/metadata.name": "kube-system"},
        "labels": {"k8s-app": "kube-dns"},
        "inside": True,
    },
    "keda": {"namespace": {"kubernetes.io/metadata.name": "keda"}, "labels": {}, "inside": True},
    "neighbour": {"namespace": {"kubernetes.io/metadata.name": "other"}, "labels": {}, "inside": True},
    ANYWHERE: {"inside": False},
}


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "matchExpressions are not computed here"
    return selector.get("matchLabels", {}).items() <= labels.items()


def peer_allows(peer: Manifest, other: Manifest) -> bool:
    """`other`: a pod of the release (metadata), or one of STRANGERS."""
    if "ipBlock" in peer:
        return not other.get("inside", True)
    if "metadata" in other:
        namespace = {"kubernetes.io/metadata.name": "video"}
        labels = other["metadata"]["labels"]
        near = True
    else:
        if not other["inside"]:
            return False
        namespace, labels, near = other["namespace"], other["labels"], False
    in_namespace = matches(peer["namespaceSelector"], namespace) if "namespaceSelector" in peer else near
    return in_namespace and matches(peer.get("podSelector", {}), labels)


def allows(policies: Iterable[Manifest], direction: str, pod: Manifest, other: Manifest, port: int) -> bool:
    """No policy that selects the pod for this direction: everything; otherwise what any of them allows."""
    kind, side = ("Ingress", "from") if direction == "ingress" else ("Egress", "to")
    mine = [
        policy["spec"]
        for policy in policies
        if kind in policy["spec"]["policyTypes"] and matches(policy["spec"]["podSelector"], pod["metadata"]["labels"])
    ]
    if not mine:
        return True
    rules = [rule for spec in mine for rule in spec.get(direction) or []]
    return any(
        (not rule.get(side) or any(peer_allows(peer, other) for peer in rule[side]))
        and (not rule.get("ports") or port in [one["port"] for one in rule["ports"] if one["protocol"] == "TCP"])
        for rule in rules
    )


def inside(manifests: list[Manifest]) -> set[Arrow]:
    policies, all_pods = of_kind(manifests, "NetworkPolicy"), pods(manifests)
    return {
        (caller, called, port)
        for caller, one in all_pods.items()
        for called, other in all_pods.items()
        for port in PORTS
        if caller != called
        and allows(policies, "egress", one, other, port)
        and allows(policies, "ingress", other, one, port)
    }


def from_outside(manifests: list[Manifest]) -> set[Arrow]:
    policies = of_kind(manifests, "NetworkPolicy")
    return {
        (who, component, port)
        for component, pod in pods(manifests).items()
        for who, stranger in STRANGERS.items()
        for port in PORTS
        if allows(policies, "ingress", pod, stranger, port)
    }


def to_outside(manifests: list[Manifest]) -> set[Arrow]:
    policies = of_kind(manifests, "NetworkPolicy")
    return {
        (component, who, port)
        for component, pod in pods(manifests).items()
        for who, stranger in STRANGERS.items()
        for port in (*PORTS, 53)
        if allows(policies, "egress", pod, stranger, port)
    }


TRITON = TOGGLES["triton"]["pools"]


def on_triton(*pools: str) -> set[Arrow]:
    """The denoiser's steps and the muxer's decoding."""
    return {(caller, f"triton-{pool}", 8001) for caller in ("denoiser", "muxer") for pool in pools}


@pytest.mark.parametrize(
    ("manifests", "drawn"),
    [
        (lambda: render(values=OUTSIDE), DRAWN | HEALTH_TEST),
        (lambda: render(*VALUE_FILES["dev"]), DRAWN | HEALTH_TEST | STORES),
        (lambda: render(*VALUE_FILES["gpu"]), DRAWN | HEALTH_TEST | on_triton("default")),
        (lambda: render(*VALUE_FILES["large"]), DRAWN | HEALTH_TEST | on_triton("small", "large")),
        (
            lambda: render(values=merged(merged(BUNDLED, TRITON), TOGGLES["tests"]["no"])),
            DRAWN | STORES | on_triton("small", "large"),
        ),
    ],
    ids=["plain", "dev", "gpu", "large", "bundled with triton, no tests"],
)
def test_inside_just_the_drawn_arrows(manifests: Any, drawn: set[Arrow]) -> None:
    assert inside(manifests()) == drawn


def test_engines_go_from_a_job_to_the_store_and_from_there_to_triton_and_no_other_way() -> None:
    with_engines = merged(TRITON, TOGGLES["models"]["fetched, with engines"])
    pools = ("small", "large")
    both = {f"{who}-{pool}" for who in ("engines", "triton") for pool in pools}
    to_store = {(who, "seaweedfs", 8333) for who in both}
    bundled = render(values=merged(BUNDLED, with_engines))
    assert inside(bundled) == DRAWN | HEALTH_TEST | STORES | on_triton(*pools) | to_store
    outside = render(values=merged(OUTSIDE, with_engines))
    assert {(who, port) for who, called, port in to_outside(outside) if called == ANYWHERE and who in both} == {
        (who, 9000) for who in both
    }
    assert {called for _, called, _ in from_outside(outside)} & both == {f"triton-{pool}" for pool in pools}
    without = to_outside(render(values=merged(OUTSIDE, TRITON)))
    assert {who for who, _, _ in without if who.startswith("triton")} == set()


@pytest.mark.parametrize("name", VALUE_FILES)
def test_strangers_reach_the_gateway_and_nothing_else(name: str) -> None:
    arrows = from_outside(render(*VALUE_FILES[name]))
    assert {arrow for arrow in arrows if arrow[0] in ("neighbour", ANYWHERE, DNS)} == {
        *((who, "gateway-api", 50051) for who in ("neighbour", ANYWHERE, DNS)),
        *((who, "seaweedfs", 8333) for who in ("neighbour", ANYWHERE, DNS) if name == "dev"),
    }


def test_prometheus_reads_metrics_and_calls_nobody_but_the_gateway() -> None:
    arrows = {arrow for arrow in from_outside(render(*VALUE_FILES["gpu"])) if arrow[0] == PROMETHEUS}
    expected = {(PROMETHEUS, component, 9090) for component in ("gateway-api", "gateway-worker", *STAGES)}
    assert arrows == expected | {(PROMETHEUS, "triton-default", 8002), (PROMETHEUS, "gateway-api", 50051)}


def test_callers_can_be_named() -> None:
    clients = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}]
    arrows = from_outside(render(values=merged(BUNDLED, {"networkPolicy": {"clients": clients}})))
    for reached in (("gateway-api", 50051), ("seaweedfs", 8333)):
        assert {who for who, called, port in arrows if (called, port) == reached} == {"neighbour"}


def test_outwards_only_to_the_stores_and_dns() -> None:
    arrows = to_outside(render(values=OUTSIDE))
    dns = {(component, DNS, 53) for component in ("gateway-api", "gateway-worker", *STAGES, "test")}
    stores = {(component, who, 9000) for component in ("gateway-api", "gateway-worker", *STAGES) for who in STRANGERS}
    gateway = {(c, who, port) for c in ("gateway-api", "gateway-worker") for who in STRANGERS for port in (5432, 7233)}
    assert arrows == dns | stores | gateway


def test_stores_outside_can_be_named() -> None:
    s3 = {"networkPolicy": {"s3": {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}}}
    arrows = to_outside(render(values=merged(OUTSIDE, s3)))
    assert {who for component, who, port in arrows if component == "muxer" and port == 9000} == {ANYWHERE}


def test_with_bundled_stores_nobody_leaves() -> None:
    assert {who for _, who, _ in to_outside(render(*VALUE_FILES["dev"]))} == {DNS}


def test_keda_reads_the_bundled_queue_when_it_scales() -> None:
    with_keda = render(values=merged(BUNDLED, TOGGLES["scaling"]["keda"]))
    assert ("keda", "postgresql", 5432) in from_outside(with_keda)
    assert ("keda", "postgresql", 5432) not in from_outside(render(values=BUNDLED))


def test_tokens_are_checked_with_the_issuer_by_the_api_alone() -> None:
    arrows = to_outside(render(values=merged(OUTSIDE, TOGGLES["callers"]["oidc"])))
    assert {component for component, who, port in arrows if (who, port) == (ANYWHERE, 443)} == {"gateway-api"}


def test_without_policies_everybody_reaches_everybody() -> None:
    """So that the computation can tell the difference."""
    manifests = render(values=merged(OUTSIDE, TOGGLES["network"]["none"]))
    assert ("audio", "denoiser", 50051) in inside(manifests)


def test_the_denoiser_alone_reaches_kubernetes_to_tell_its_deletion_cost() -> None:
    arrows = to_outside(render(values=merged(OUTSIDE, TOGGLES["deletion cost"]["told"])))
    assert {component for component, who, port in arrows if (who, port) == (ANYWHERE, 6443)} == {"denoiser"}
    assert 6443 not in {port for _, _, port in to_outside(render(values=OUTSIDE))}


def test_every_service_reaches_the_collector_of_traces_if_there_is_one() -> None:
    traced = merged(OUTSIDE, TOGGLES["traces"]["sent"])
    more = to_outside(render(values=traced)) - to_outside(render(values=OUTSIDE))
    assert more == {(c, who, 4318) for c in ("gateway-api", "gateway-worker", *STAGES) for who in STRANGERS}
    assert inside(render(values=traced)) == inside(render(values=OUTSIDE))


@pytest.mark.parametrize(
    ("endpoint", "port"), [("http://otel/v1/traces", 80), ("https://otel", 443), ("https://otel:8002/", 8002)]
)
def test_the_collectors_port_is_the_endpoints(endpoint: str, port: int) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}]
    values = merged(OUTSIDE, {"tracing": {"endpoint": endpoint}, "networkPolicy": {"otlp": {"to": peers}}})
    before = to_outside(render(values=merged(values, {"tracing": {"endpoint": ""}})))
    more = {arrow for arrow in to_outside(render(values=values)) - before if arrow[0] == "encoder"}
    assert more == {("encoder", "neighbour", port)}
