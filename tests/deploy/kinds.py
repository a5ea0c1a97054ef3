"""Whether a manifest is what Kubernetes takes: its own schemas, strictly, and ours for kinds of other projects.

Ours hold the fields that the chart uses, as KEDA 2.20, cert-manager and the Prometheus operator 0.82 document them.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from functools import cache
from typing import Any

import jsonschema
from kubernetes_validate.utils import all_versions
from referencing import Registry, Resource

from tests.deploy.rendering import Manifest

VERSIONS = ("1.35", "1.36", "1.37")
Schema = dict[str, Any]


def problems(manifest: Manifest, version: str) -> list[str]:
    """Nothing, or what is wrong. A kind that nobody knows is wrong."""
    api, kind = manifest["apiVersion"], manifest["kind"]
    validator = _own(api, kind) or _kubernetes(version, api, kind)
    if validator is None:
        return [f"{api} {kind}: Kubernetes {version} has no such kind"]
    name = manifest["metadata"]["name"]
    return [f"{kind} {name}: {error.json_path} {error.message}"[:400] for error in validator.iter_errors(manifest)]


@cache
def _kubernetes(version: str, api: str, kind: str) -> jsonschema.Draft202012Validator | None:
    (exact,) = {known for known in all_versions() if known.startswith(version + ".")}
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{exact}-local-strict"
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api)  # rbac.authorization.k8s.io/v1 -> rbac-v1
    file = folder / f"{kind.lower()}-{group}.json"
    if not file.is_file():
        return None
    return jsonschema.Draft202012Validator(json.loads(file.read_text()), registry=_definitions(exact))


@cache
def _definitions(exact: str) -> Registry[Any]:
    """What the schemas of a version refer to, relative to themselves."""
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{exact}-local-strict"
    resource = Resource.from_contents(json.loads((folder / "_definitions.json").read_text()))
    return Registry().with_resources([("_definitions.json", resource), (resource.id() or "", resource)])


@cache
def _own(api: str, kind: str) -> jsonschema.Draft202012Validator | None:
    spec = OWN.get((api, kind))
    if spec is None:
        return None
    text = {"type": "string", "minLength": 1}
    metadata = closed(["name", "namespace", "labels"], name=text, namespace=text, labels=texts(), annotations=texts())
    return jsonschema.Draft202012Validator(
        closed(["apiVersion", "kind", "metadata", "spec"], apiVersion=text, kind=text, metadata=metadata, spec=spec)
    )


def closed(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def texts() -> Schema:
    return {"type": "object", "additionalProperties": {"type": "string"}}


def whole(least: int) -> Schema:
    return {"type": "integer", "minimum": least}


TEXT: Schema = {"type": "string", "minLength": 1}
DURATION: Schema = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w|y))+$"}
POLICIES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": closed(
        ["type", "value", "periodSeconds"],
        type={"enum": ["Pods", "Percent"]},
        value=whole(1),
        periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800},
    ),
}
RULES: Schema = closed(
    ["policies"],
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    selectPolicy={"enum": ["Max", "Min", "Disabled"]},
    policies=POLICIES,
)
TRIGGER: Schema = closed(
    ["type", "metadata", "authenticationRef"],
    type={"const": "postgresql"},
    name=TEXT,
    metricType={"enum": ["AverageValue", "Value"]},
    metadata=closed(
        ["query", "targetQueryValue"],
        query=TEXT,
        targetQueryValue={"type": "string", "pattern": "^[0-9.]+$"},
        activationTargetQueryValue={"type": "string", "pattern": "^[0-9.]+$"},
    ),
    authenticationRef=closed(["name"], name=TEXT),
)
ALERT: Schema = closed(
    ["alert", "expr", "labels", "annotations"],
    alert={"type": "string", "pattern": "^[A-Z][A-Za-z]+$"},
    expr=TEXT,
    **{"for": DURATION},
    labels=closed(["severity"], severity={"enum": ["page", "ticket"]}, slo=TEXT, window=TEXT),
    annotations=closed(["summary", "description", "runbook_url"], summary=TEXT, description=TEXT, runbook_url=TEXT),
)
RECORD: Schema = closed(
    ["record", "expr"], record={"type": "string", "pattern": "^[a-z_:0-9]+$"}, expr=TEXT, labels=texts()
)
OWN: dict[tuple[str, str], Schema] = {
    ("keda.sh/v1alpha1", "ScaledObject"): closed(
        ["scaleTargetRef", "triggers", "fallback", "minReplicaCount", "maxReplicaCount"],
        scaleTargetRef=closed(["name"], apiVersion=TEXT, kind=TEXT, name=TEXT),
        pollingInterval=whole(1),
        cooldownPeriod=whole(0),
        minReplicaCount=whole(0),
        maxReplicaCount=whole(1),
        fallback=closed(
            ["failureThreshold", "replicas"],
            failureThreshold=whole(1),
            replicas=whole(1),
            behavior={"enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]},
        ),
        advanced=closed(
            [],
            restoreToOriginalReplicaCount={"type": "boolean"},
            horizontalPodAutoscalerConfig=closed([], behavior=closed([], scaleUp=RULES, scaleDown=RULES)),
        ),
        triggers={"type": "array", "minItems": 1, "items": TRIGGER},
    ),
    ("keda.sh/v1alpha1", "TriggerAuthentication"): closed(
        ["secretTargetRef"],
        secretTargetRef={
            "type": "array",
            "minItems": 1,
            "items": closed(["parameter", "name", "key"], parameter={"const": "connection"}, name=TEXT, key=TEXT),
        },
    ),
    ("cert-manager.io/v1", "Certificate"): closed(
        ["secretName", "issuerRef", "dnsNames"],
        secretName=TEXT,
        dnsNames={"type": "array", "minItems": 1, "items": TEXT},
        usages={
            "type": "array",
            "items": {"enum": ["digital signature", "key encipherment", "server auth", "client auth"]},
        },
        privateKey=closed(
            [], algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]}, size=whole(256), rotationPolicy={"enum": ["Always"]}
        ),
        issuerRef=closed(["name"], name=TEXT, kind={"enum": ["Issuer", "ClusterIssuer"]}, group=TEXT),
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): closed(
        ["selector", "endpoints"],
        jobLabel=TEXT,
        selector=closed(["matchLabels"], matchLabels=texts()),
        endpoints={"type": "array", "minItems": 1, "items": closed(["port"], port=TEXT, interval=DURATION)},
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): closed(
        ["groups"],
        groups={
            "type": "array",
            "items": closed(
                ["name", "rules"],
                name=TEXT,
                interval=DURATION,
                rules={"type": "array", "minItems": 1, "items": {"anyOf": [ALERT, RECORD]}},
            ),
        },
    ),
}
