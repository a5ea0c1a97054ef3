"""The chart as helm renders it, for the checks: no cluster is asked."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tools.helm import helm

CHART = Path(__file__).resolve().parents[2] / "deploy/helm/soundstage"
VALUE_FILES: dict[str, tuple[str, ...]] = {
    "dev": ("values-dev.yaml",),
    "gpu": ("values-gpu.yaml",),
    "large": ("values-gpu.yaml", "values-large.yaml"),
}
EXTRA_APIS = ("keda.sh/v1alpha1", "cert-manager.io/v1", "monitoring.coreos.com/v1")
RENDER_SECONDS = 120
CANDIDATES = 300
Manifest = dict[str, Any]

OUTSIDE = {"temporal": {"address": "temporal.example:7233"}, "s3": {"endpoint": "s3.example:9000", "secure": False}}
BUNDLED = {"bundled": {name: {"enabled": True} for name in ("postgresql", "seaweedfs", "temporal")}}
ISSUER = {"issuerRef": {"name": "an-issuer"}}
COMPONENTS = ("gateway-api", "gateway-worker", "encoder", "denoiser", "audio", "muxer")
GIVEN_SECRETS = {"certManager": {"enabled": False}, "existingSecrets": {name: f"{name}-cert" for name in COMPONENTS}}
GPU = {"limits": {"memory": "16Gi", "nvidia.com/gpu": 1}}
POOLS = [
    {"name": name, "models": ["diorama"], "replicas": 0, "maxReplicas": 3, "resources": GPU}
    for name in ("small", "large")
]
MODELS = [f"s3://soundstage/models/{name}/{'0' * 64}" for name in ("diorama", "other")]
ENGINES = {"triton": {"image": "example/triton:0.1.0", "engines": {"enabled": True}}}
TOGGLES: dict[str, dict[str, Mapping[str, Any]]] = {
    "stores": {"outside": OUTSIDE, "bundled": BUNDLED},
    "scaling": {
        "none": {},
        "keda": {"autoscaling": {"mode": "keda"}},
        "keda to zero": {"autoscaling": {"mode": "keda", "queue": {"scaleToZero": True}}},
        "hpa": {"autoscaling": {"mode": "hpa"}},
    },
    "deletion cost": {"none": {}, "told": {"autoscaling": {"deletionCost": {"enabled": True}}}},
    "tls inside": {
        "none": {},
        "cert-manager": {"tls": {"internal": {"enabled": True, "certManager": ISSUER}}},
        "secrets": {"tls": {"internal": {"enabled": True, **GIVEN_SECRETS}}},
    },
    "tls outside": {
        "none": {},
        "cert-manager": {"tls": {"public": {"enabled": True, "dnsNames": ["a.example"], "certManager": ISSUER}}},
        "secret": {"tls": {"public": {"enabled": True, "dnsNames": ["a.example"], "existingSecret": "cert"}}},
    },
    "triton": {"none": {}, "pools": {"triton": {"enabled": True, "pools": POOLS}}},
    "callers": {
        "keys": {},
        "oidc": {"auth": {"apiKeys": False, "oidc": {"issuer": "https://id.example", "audience": "soundstage"}}},
    },
    "network": {"policies": {}, "none": {"networkPolicy": {"enabled": False}}},
    "traces": {"none": {}, "sent": {"tracing": {"endpoint": "http://otel.example:4318", "ratio": 0.1}}},
    "monitoring": {
        "none": {},
        "all": {"monitoring": {kind: {"enabled": True} for kind in ("serviceMonitor", "prometheusRule", "dashboards")}},
    },
    "models": {
        "image": {},
        "claim": {"models": {"existingClaim": "models"}},
        "fetched": {"models": {"fetch": MODELS}},
        "cached": {"models": {"fetch": MODELS, "fetching": {"cacheClaim": "cache", "cacheGib": 100}}},
        "fetched, with engines": {"models": {"fetch": MODELS}, **ENGINES},
    },
    "tests": {"yes": {}, "no": {"tests": {"enabled": False}}},
}


def render(*files: str, values: Mapping[str, Any] | None = None, apis: Sequence[str] = EXTRA_APIS) -> list[Manifest]:
    """Raises subprocess.CalledProcessError with helm's words in ``stderr``. The result is shared: do not change it."""
    return _rendered(files, json.dumps(values or {}, sort_keys=True), tuple(apis))


@cache
def _rendered(files: tuple[str, ...], values: str, apis: tuple[str, ...]) -> list[Manifest]:
    return template(CHART, files, values, apis)


def template(chart: Path, files: Sequence[str], values: str = "{}", apis: Sequence[str] = EXTRA_APIS) -> list[Manifest]:
    """Of any chart; ``files`` lie in it, ``values`` are JSON. Raises as `render` does."""
    options = [option for file in files for option in ("--values", str(chart / file))]
    options += [option for api in apis for option in ("--api-versions", api)]
    text = run_helm(
        "template", "soundstage", str(chart), "--namespace", "video", *options, "--values", "-", stdin=values
    )
    return [manifest for manifest in yaml.load_all(text, yaml.CSafeLoader) if manifest]


def run_helm(*arguments: str, stdin: str = "") -> str:
    with tempfile.TemporaryDirectory() as home:
        environment = {"HOME": home, "PATH": "/usr/bin:/bin", "GOGC": "off"}
        command = [str(helm()), *arguments]
        return subprocess.run(
            command, input=stdin, env=environment, check=True, capture_output=True, text=True, timeout=RENDER_SECONDS
        ).stdout


def combination(choices: Mapping[str, str]) -> dict[str, Any]:
    """The values of one choice a toggle."""
    values: dict[str, Any] = {}
    for toggle, choice in choices.items():
        values = merged(values, TOGGLES[toggle][choice])
    return values


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(first)
    for key, value in second.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def every_combination() -> Iterator[dict[str, str]]:
    for choices in itertools.product(*TOGGLES.values()):
        yield dict(zip(TOGGLES, choices, strict=True))


@cache
def pairs() -> list[dict[str, str]]:
    """Few combinations in which every two choices of different toggles meet at least once."""
    everything = random.Random(0).sample(list(every_combination()), CANDIDATES)
    missing = {pair for one, other in itertools.combinations(TOGGLES, 2) for pair in _choices_of(one, other)}
    chosen = []
    while missing:
        best = max(everything, key=lambda choices: len(_pairs_of(choices) & missing))
        assert _pairs_of(best) & missing, "more CANDIDATES are needed"
        chosen.append(best)
        missing -= _pairs_of(best)
    return chosen


def _choices_of(one: str, other: str) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    for first, second in itertools.product(TOGGLES[one], TOGGLES[other]):
        yield (one, first), (other, second)


def _pairs_of(choices: Mapping[str, str]) -> set[tuple[tuple[str, str], tuple[str, str]]]:
    return set(itertools.combinations(choices.items(), 2))


def all_renderings() -> dict[str, list[Manifest]]:
    """The value files, and the combinations of `pairs`."""
    named = {name: render(*files) for name, files in VALUE_FILES.items()}
    combined = {" ".join(choices.values()): render(values=combination(choices)) for choices in pairs()}
    return {**named, **combined}


def of_kind(manifests: Sequence[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def pod_of(manifest: Manifest) -> Manifest | None:
    """The pod that a manifest makes, with labels and spec."""
    if manifest["kind"] == "Pod":
        return manifest
    template = manifest.get("spec", {}).get("template")
    return template if manifest["kind"] in ("Deployment", "StatefulSet", "Job") else None


def pods(manifests: Sequence[Manifest]) -> dict[str, Manifest]:
    """Component -> pod."""
    found = [pod for manifest in manifests if (pod := pod_of(manifest))]
    return {pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod for pod in found}
