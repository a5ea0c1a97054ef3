"""The chart's rendering as podman can play it: one pod a Deployment, at a fixed address of one network.

``podman play kube`` (4.3) knows no Service, no StatefulSet and no claim template. So

- a StatefulSet becomes a Deployment;
- an emptyDir and a claim template become volumes of podman's, which alone get their pod's user as owner (no fsGroup);
- each pod has an address of its own, and every pod's /etc/hosts has the Services' names for these;
- where a Service's port is not the pod's, the pod's port is named;
- ports are not listed: podman would open each on the host, where two pods' would meet;
- probes by gRPC and preStop's sleep, NetworkPolicies and disruption budgets are Kubernetes' own: left out or
  passed over.

Everything else (images, users, read-only roots, dropped capabilities, environment, secrets, volumes) is as rendered.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Pod", "pods_of"]

Manifest = dict[str, Any]
COMPONENT = "app.kubernetes.io/component"


@dataclass(frozen=True)
class Pod:
    """``component`` as in the chart; ``manifest`` for ``podman play kube --ip=address``."""

    component: str
    address: str
    manifest: Manifest

    @property
    def spec(self) -> Manifest:
        """Of the pod itself, also inside a Deployment."""
        return _spec(self.manifest)

    @property
    def containers(self) -> list[str]:
        """Their names, as podman gives them."""
        pod = _name(self.manifest) + ("-pod-0" if self.manifest["kind"] == "Deployment" else "")
        return [f"{pod}-{container['name']}" for container in self.spec["containers"]]

    @property
    def volumes(self) -> list[str]:
        """Podman's, made when the pod is played."""
        claims = (volume.get("persistentVolumeClaim") for volume in self.spec["volumes"])
        return [claim["claimName"] for claim in claims if claim]


def pods_of(rendering: Iterable[Manifest], network: str) -> list[Pod]:
    """``network``: the first three numbers of the addresses, "10.90.0". Stores come first, then in order of names."""
    manifests = [copy.deepcopy(manifest) for manifest in rendering]
    works = [manifest for manifest in manifests if manifest["kind"] in ("StatefulSet", "Deployment")]
    tests = [manifest for manifest in manifests if manifest["kind"] == "Pod"]
    services = [manifest for manifest in manifests if manifest["kind"] == "Service"]
    works.sort(key=lambda manifest: (manifest["kind"] != "StatefulSet", manifest["metadata"]["name"]))
    addresses = {_component(manifest): f"{network}.{number}" for number, manifest in enumerate(works, 11)}
    hosts = [
        {
            "ip": addresses[_component(service)],
            "hostnames": [_name(service), f"{_name(service)}.{service['metadata']['namespace']}.svc"],
        }
        for service in services
    ]
    ports = _other_ports(services, works)
    pods = []
    for number, manifest in enumerate([*works, *tests], 11):
        played = _as_deployment(manifest) if manifest["kind"] == "StatefulSet" else manifest
        for before, after in ports.items():
            played = json.loads(json.dumps(played).replace(before, after))
        spec = _spec(played)
        spec["hostAliases"] = hosts
        for volume in spec["volumes"]:
            if volume.pop("emptyDir", None) is not None:
                volume["persistentVolumeClaim"] = {"claimName": f"{_name(manifest)}-{volume['name']}"}
        for container in spec["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "ports"):
                container.pop(probe, None)
        pods.append(Pod(_component(manifest), f"{network}.{number}", played))
    return pods


def _as_deployment(manifest: Manifest) -> Manifest:
    spec = manifest["spec"]
    claims = spec.pop("volumeClaimTemplates", [])
    spec.pop("serviceName", None)
    volumes = spec["template"]["spec"].setdefault("volumes", [])
    volumes += [{"name": claim["metadata"]["name"], "emptyDir": {}} for claim in claims]
    return {**manifest, "kind": "Deployment"}


def _other_ports(services: Iterable[Manifest], works: Iterable[Manifest]) -> dict[str, str]:
    """name:port of a Service -> name:port of its pod, where the two ports differ."""
    named = {
        (_component(work), port["name"]): port["containerPort"]
        for work in works
        for container in work["spec"]["template"]["spec"]["containers"]
        for port in container.get("ports", ())
    }
    changed = {}
    for service in services:
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            number = named.get((_component(service), target), target)
            if number != port["port"]:
                changed[f"{_name(service)}:{port['port']}"] = f"{_name(service)}:{number}"
    return changed


def _spec(manifest: Manifest) -> Manifest:
    spec: Manifest = manifest["spec"].get("template", manifest)["spec"]
    return spec


def _component(manifest: Manifest) -> str:
    return str(manifest["metadata"]["labels"][COMPONENT])


def _name(manifest: Manifest) -> str:
    return str(manifest["metadata"]["name"])
