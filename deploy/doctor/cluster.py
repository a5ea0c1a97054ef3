"""A cluster, over the paths of its API: whether the chart can be installed with these values."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import urllib3

from deploy.doctor.checking import Check, Outcome, fail, ok, warn, why
from deploy.doctor.kubeconfig import CONNECTIONS, Api
from deploy.doctor.values import GPU, NamedSecret, Values

__all__ = ["OLDEST_VERSION", "ClusterDoctor"]

OLDEST_VERSION = (1, 34)
"""As kubeVersion of the chart says."""
VERBS = ("create", "patch", "delete")
KINDS = (
    ("", "services"),
    ("", "serviceaccounts"),
    ("", "configmaps"),
    ("", "secrets"),  # helm keeps its releases in them
    ("", "pods"),  # helm test
    ("apps", "deployments"),
    ("autoscaling", "horizontalpodautoscalers"),
    ("networking.k8s.io", "networkpolicies"),
    ("policy", "poddisruptionbudgets"),
)
KEDA = (("keda.sh", "scaledobjects"), ("keda.sh", "triggerauthentications"))
CERTIFICATES = (("cert-manager.io", "certificates"),)
PAGE = 250
DRIVER_LABEL = "nvidia.com/cuda.driver-version.full"
OLD_DRIVER_LABELS = ("nvidia.com/cuda.driver.major", "nvidia.com/cuda.driver.minor", "nvidia.com/cuda.driver.rev")


@dataclass(frozen=True)
class ClusterDoctor:
    api: Api
    values: Values
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    """What the named secrets hold, as far as they were found: filled by the checks, for those of the stores."""

    def checks(self) -> Iterator[Check]:
        yield Check("cluster version", self.version)
        yield Check("cluster namespace", self.namespace, needs="cluster version")
        yield Check("cluster permissions", self.permissions, needs="cluster version")
        yield from self._api_checks()
        if self.values.asks_for_gpus:
            yield Check("cluster gpus", self.gpus, needs="cluster version")
            yield Check("cluster gpu driver", self.driver, needs="cluster gpus")
        for name in self.values.priority_classes:
            yield Check(f"cluster priority class {name}", self._priority_class(name), needs="cluster version")
        for claim in self.values.claims:
            yield Check(f"cluster claim {claim}", self._claim(claim), needs="cluster namespace")
        for secret in self.values.secrets():
            if secret.name:
                yield Check(f"secret {secret.path}", self._reader(secret), needs="cluster namespace")

    def version(self) -> Outcome:
        try:
            status, said = self.api.ask("GET", "/version")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return fail(f"{self.api.server}: {why(error)}", "see that the kubeconfig's context is the right one")
        if status != 200:
            return fail(f"{self.api.server} answers {status}", "see that the kubeconfig's user may still get in")
        number = tuple(int(re.sub(r"\D.*", "", str(said.get(part, "0"))) or 0) for part in ("major", "minor"))
        text = f"Kubernetes {said.get('gitVersion', '')}"
        if number < OLDEST_VERSION:
            return fail(text, f"the chart needs {'.'.join(map(str, OLDEST_VERSION))} or newer")
        return ok(text)

    def namespace(self) -> Outcome:
        status, _ = self.api.ask("GET", f"/api/v1/namespaces/{self.api.namespace}")
        if status == 404:
            return fail(
                f"{self.api.namespace} is not there",
                f"kubectl create namespace {self.api.namespace}, and make the secrets in it",
            )
        return ok(f"{self.api.namespace} is there" if status == 200 else f"{self.api.namespace}; may not be looked at")

    def permissions(self) -> Outcome:
        asked = [(verb, group, resource) for group, resource in self._kinds() for verb in VERBS]
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            allowed = list(threads.map(self._may, asked))
        refused = [f"{verb} {resource}" for (verb, _, resource), may in zip(asked, allowed, strict=True) if not may]
        if refused:
            return fail(
                f"in {self.api.namespace} you may not {', '.join(refused)}",
                f"ask for the role admin (and that of the operators' kinds) in {self.api.namespace}",
            )
        return ok(f"all that the chart makes may be made in {self.api.namespace}")

    def gpus(self) -> Outcome:
        nodes = self._gpu_nodes()
        if nodes is None:
            return warn("you may not list nodes", f"see yourself that some offer {GPU}")
        there, wanted = sum(int(node["status"]["allocatable"][GPU]) for node in nodes), self.values.gpus
        if not there:
            fix = "install NVIDIA's GPU operator or device plugin, or add nodes"
            found = f"no node offers {GPU}, and the values ask for {wanted}"
            # Pools that begin at none leave it to the cluster's autoscaler to bring nodes.
            return fail(found, fix) if wanted else warn(found, fix)
        found = f"{there} on {len(nodes)} nodes, and the values ask for {wanted}"
        return ok(found) if there >= wanted else warn(found, "some pods will wait: add nodes, or fewer replicas")

    def driver(self) -> Outcome:
        versions = Counter(_driver(node) for node in self._gpu_nodes() or [])
        unknown = versions.pop("", 0)
        said = ", ".join(f"{version} on {count}" for version, count in sorted(versions.items()))
        if unknown:
            found = f"{unknown} nodes do not say" + (f"; {said}" if said else "")
            return warn(found, "install GPU feature discovery, or see by nvidia-smi that it suits triton.image")
        return ok(f"{said}; see that it suits {self.values.at('triton.image')}")

    def _priority_class(self, name: str) -> Callable[[], Outcome]:
        def look() -> Outcome:
            status, _ = self.api.ask("GET", f"/apis/scheduling.k8s.io/v1/priorityclasses/{name}")
            if status == 404:
                return fail("is not there, and no pod is made without it", "make it, as the chart's README shows")
            return ok("is there") if status == 200 else warn("may not be looked at", "see yourself that it is there")

        return look

    def _claim(self, name: str) -> Callable[[], Outcome]:
        def look() -> Outcome:
            path = f"/api/v1/namespaces/{self.api.namespace}/persistentvolumeclaims/{name}"
            status, _ = self.api.ask("GET", path)
            if status == 404:
                return fail("is not there, and its pods wait for it", "make it, and put into it what the values say")
            return ok("is there") if status == 200 else warn("may not be looked at", "see yourself that it is there")

        return look

    def _api_checks(self) -> Iterator[Check]:
        values = self.values
        monitors = ["servicemonitors"] * bool(values.at("monitoring.serviceMonitor.enabled"))
        monitors += ["prometheusrules"] * bool(values.at("monitoring.prometheusRule.enabled"))
        mode = values.at("autoscaling.mode")
        wanted = [
            ("keda", "keda.sh/v1alpha1", ["scaledobjects", "triggerauthentications"] * values.scales_by_keda,
             "install KEDA 2.20 or newer, or set autoscaling.mode to hpa or none"),
            ("prometheus operator", "monitoring.coreos.com/v1", monitors,
             "install the Prometheus operator, or set monitoring.….enabled to false"),
            ("cert-manager", "cert-manager.io/v1", ["certificates"] * values.uses_cert_manager,
             "install cert-manager, or name secrets in tls"),
            ("metrics server", "metrics.k8s.io/v1beta1", ["pods"] * (mode != "none"),
             "install metrics-server: HPAs on CPU read it"),
        ]  # fmt: skip
        for name, version, resources, fix in wanted:
            if resources:
                yield Check(f"cluster {name}", self._offers(version, resources, fix), needs="cluster version")
        if mode == "hpa":
            yield Check("cluster external metrics", self._external_metrics, needs="cluster version")

    def _offers(self, version: str, resources: list[str], fix: str) -> Callable[[], Outcome]:
        def look() -> Outcome:
            status, said = self.api.ask("GET", f"/apis/{version}")
            there = {one.get("name") for one in said.get("resources") or []} if status == 200 else set()
            missing = [name for name in resources if name not in there]
            return fail(f"{version} lacks {', '.join(missing)}", fix) if missing else ok(f"{version} is there")

        return look

    def _external_metrics(self) -> Outcome:
        status, _ = self.api.ask("GET", "/apis/external.metrics.k8s.io/v1beta1")
        if status == 200:
            return ok("an adapter is there")
        return fail("no adapter offers external metrics", "install prometheus-adapter, or set autoscaling.mode to keda")

    def _kinds(self) -> Iterator[tuple[str, str]]:
        yield from KINDS
        if any(self.values.at(f"bundled.{name}.enabled") for name in ("postgresql", "seaweedfs", "temporal")):
            yield "apps", "statefulsets"
        if self.values.builds_engines:
            yield "batch", "jobs"
        if self.values.at("autoscaling.deletionCost.enabled"):
            yield "rbac.authorization.k8s.io", "roles"
            yield "rbac.authorization.k8s.io", "rolebindings"
        if self.values.scales_by_keda:
            yield from KEDA
        if self.values.uses_cert_manager:
            yield from CERTIFICATES
        for value, resource in (("serviceMonitor", "servicemonitors"), ("prometheusRule", "prometheusrules")):
            if self.values.at(f"monitoring.{value}.enabled"):
                yield "monitoring.coreos.com", resource

    def _may(self, asked: tuple[str, str, str]) -> bool:
        verb, group, resource = asked
        attributes = {"namespace": self.api.namespace, "verb": verb, "group": group, "resource": resource}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        _, said = self.api.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        return bool((said.get("status") or {}).get("allowed"))

    def _gpu_nodes(self) -> list[dict[str, Any]] | None:
        """Those that offer GPUs; None where nodes may not be listed."""
        nodes: list[dict[str, Any]] = []
        following = ""
        while True:
            status, said = self.api.ask("GET", f"/api/v1/nodes?limit={PAGE}{following}")
            if status != 200:
                return None
            nodes += said.get("items") or []
            if not (token := (said.get("metadata") or {}).get("continue")):
                break
            following = f"&continue={token}"
        return [node for node in nodes if int((node["status"].get("allocatable") or {}).get(GPU, 0))]

    def _reader(self, secret: NamedSecret) -> Callable[[], Outcome]:
        return lambda: self._read(secret)

    def _read(self, secret: NamedSecret) -> Outcome:
        status, said = self.api.ask("GET", f"/api/v1/namespaces/{self.api.namespace}/secrets/{secret.name}")
        if status in (401, 403):
            return warn(f"{secret.name} may not be read", f"see yourself that it has {', '.join(secret.keys)}")
        data = said.get("data") or {}
        missing = [key for key in secret.keys if not data.get(key)]
        if status != 200 or missing:
            literals = " ".join(f"--from-literal={key}=…" for key in secret.keys)
            return fail(
                f"{secret.name} is not there" if status != 200 else f"{secret.name} lacks {', '.join(missing)}",
                f"kubectl -n {self.api.namespace} create secret generic {secret.name} {literals}",
            )
        self.secrets[secret.path] = {key: base64.b64decode(data[key]).decode(errors="replace") for key in secret.keys}
        return ok(f"{secret.name} has {', '.join(secret.keys)}")


def _driver(node: dict[str, Any]) -> str:
    labels = node["metadata"].get("labels") or {}
    return str(labels.get(DRIVER_LABEL) or ".".join(labels[name] for name in OLD_DRIVER_LABELS if name in labels))
