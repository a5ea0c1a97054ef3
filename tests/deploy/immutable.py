"""What Kubernetes refuses to change of an object that is there, as its API's validation has it.

`helm upgrade` sends the new manifest; where such a field differs, the whole upgrade fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.deploy.rendering import Manifest

FIELDS: Mapping[str, tuple[str, ...]] = {
    "Deployment": ("spec.selector",),
    "Job": ("spec.selector", "spec.template", "spec.completionMode", "spec.podFailurePolicy"),
    "PersistentVolumeClaim": ("spec.storageClassName", "spec.accessModes", "spec.volumeName", "spec.selector"),
    "RoleBinding": ("roleRef",),
    "Secret": ("type",),
    "Service": ("spec.clusterIP",),
    # Of a StatefulSet nearly everything.
    "StatefulSet": ("spec.selector", "spec.serviceName", "spec.podManagementPolicy", "spec.volumeClaimTemplates"),
}
KEPT: Mapping[str, tuple[str, ...]] = {"Service": ("spec.type",)}
"""What Kubernetes lets change, and nobody wants to: callers were told of the address."""
RUNS_PODS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")


def immutable(manifest: Manifest) -> dict[str, Any]:
    """Field -> value; for kinds all of whose fields may change, nothing."""
    return _values(manifest, FIELDS)


def refused(before: Sequence[Manifest], after: Sequence[Manifest]) -> list[str]:
    """Why an upgrade of one rendering to the other would fail or lose something; nothing, where all is well."""
    old = {_name(one): one for one in before if not _is_hook(one)}
    found = []
    for one in after:
        if _is_hook(one):
            continue
        kind, name = _name(one)
        if known := old.get((kind, name)):
            for fields, why in ((FIELDS, "cannot change"), (KEPT, "must not change")):
                fixed, now = _values(known, fields), _values(one, fields)
                found += [f"{kind} {name}: {field} {why}" for field in fixed if fixed[field] != now[field]]
            if _group(known) != _group(one):
                found.append(f"{kind} {name}: was {known['apiVersion']}, is {one['apiVersion']}")
        elif kind in RUNS_PODS:
            found += [f"{kind} {name}: was a {other}" for other in RUNS_PODS if (other, name) in old]
    return found


def _name(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _group(manifest: Manifest) -> str:
    """Of the API; its version may go up."""
    return str(manifest["apiVersion"]).rpartition("/")[0]


def _is_hook(manifest: Manifest) -> bool:
    """Made anew each time, by its delete policy."""
    return "helm.sh/hook" in manifest["metadata"].get("annotations", {})


def _values(manifest: Manifest, fields: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    return {field: _at(manifest, field) for field in fields.get(manifest["kind"], ())}


def _at(manifest: Manifest, field: str) -> Any:
    value: Any = manifest
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
