"""A Kubernetes API for tests: a real HTTP server that plays the paths which the doctor and `soundstage models` ask.

There is no cluster here; what a real API server would refuse beyond status codes is not played.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import yaml

from tests.support.http import QuietHandler, serving_http

__all__ = ["TOKEN", "FakeCluster", "serving_cluster"]

TOKEN = "a-bearer-token-of-the-test"
OPERATORS = {
    "keda.sh/v1alpha1": ["scaledobjects", "triggerauthentications"],
    "monitoring.coreos.com/v1": ["servicemonitors", "prometheusrules"],
    "cert-manager.io/v1": ["certificates"],
    "metrics.k8s.io/v1beta1": ["pods", "nodes"],
}


@dataclass
class FakeCluster:
    """All is well until a test takes something away."""

    url: str = ""
    version: tuple[str, str] = ("1", "34+")
    namespaces: set[str] = field(default_factory=lambda: {"video"})
    operators: dict[str, list[str]] = field(default_factory=lambda: dict(OPERATORS))
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    priority_classes: set[str] = field(default_factory=set)
    claims: set[str] = field(default_factory=set)
    refused: set[tuple[str, str]] = field(default_factory=set)
    """Verb and resource."""
    hidden: set[str] = field(default_factory=set)
    """Paths answered 403."""
    reviews: list[dict[str, str]] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    """Jobs as they were posted."""
    pods: list[dict[str, Any]] = field(default_factory=list)
    run_job: Callable[[dict[str, Any]], tuple[str, str] | None] = lambda _: ("Complete", "")
    """What a posted Job comes to, and its pod's last words; it runs in a thread. None: it never ends."""
    failures: int = 0
    """So many of the next looks at a Job are answered 500."""

    def add_node(self, gpus: int, driver: str = "") -> None:
        labels = {"nvidia.com/cuda.driver-version.full": driver} if driver else {}
        node = {"metadata": {"labels": labels}, "status": {"allocatable": {"cpu": "8", "nvidia.com/gpu": str(gpus)}}}
        self.nodes.append(node)

    def kubeconfig(self, folder: Path) -> Path:
        config = {
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "video"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
        }
        (folder / "kubeconfig").write_text(yaml.safe_dump(config))
        return folder / "kubeconfig"

    def add_job(self, job: dict[str, Any]) -> None:
        """As Kubernetes keeps it: with labels of its own."""
        own = {"batch.kubernetes.io/controller-uid": f"uid-of-{job['metadata']['name']}"}
        pod = job["spec"]["template"]
        template = {**pod, "metadata": {"labels": {**pod["metadata"]["labels"], **own}}}
        spec = {**job["spec"], "template": template, "selector": {"matchLabels": own}, "suspend": False}
        self.jobs[job["metadata"]["name"]] = {**job, "spec": spec, "status": {}}

    def _post_job(self, job: dict[str, Any]) -> dict[str, Any]:
        self.created.append(job)
        name = f"{job['metadata']['generateName']}{len(self.created):05d}"
        self.add_job({**job, "metadata": {**job["metadata"], "name": name}})
        threading.Thread(target=self._run, args=(name,), daemon=True).start()
        return self.jobs[name]

    def _run(self, name: str) -> None:
        if (end := self.run_job(self.jobs[name])) is None:
            return
        condition, said = end
        state = {"terminated": {"message": said}}
        labels = {"batch.kubernetes.io/job-name": name}
        self.pods.append({"metadata": {"labels": labels}, "status": {"containerStatuses": [{"state": state}]}})
        self.jobs[name]["status"] = {"conditions": [{"type": condition, "status": "True", "reason": "AsPlayed"}]}

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        path, _, query = path.partition("?")
        parts = path.strip("/").split("/")
        if path in self.hidden:
            return 403, {"kind": "Status"}
        match parts:
            case ["apis", "batch", "v1", "namespaces", _, "jobs"] if method == "POST":
                return 201, self._post_job(body)
            case ["apis", "batch", "v1", "namespaces", _, "jobs"]:
                return 200, {"items": _selected(self.jobs.values(), query)}
            case ["apis", "batch", "v1", "namespaces", _, "jobs", name]:
                self.failures -= 1
                return (500, {}) if self.failures >= 0 else (200, self.jobs[name])
            case ["api", "v1", "namespaces", _, "pods"]:
                return 200, {"items": _selected(self.pods, query)}
            case ["version"]:
                major, minor = self.version
                return 200, {"major": major, "minor": minor, "gitVersion": f"v{major}.{minor.rstrip('+')}.1"}
            case ["api", "v1", "namespaces", name]:
                return (200 if name in self.namespaces else 404), {}
            case ["api", "v1", "namespaces", _, "secrets", name] if name in self.secrets:
                coded = {key: base64.b64encode(value.encode()).decode() for key, value in self.secrets[name].items()}
                return 200, {"data": coded}
            case ["api", "v1", "namespaces", _, "persistentvolumeclaims", name]:
                return (200, {}) if name in self.claims else (404, {})
            case ["apis", "scheduling.k8s.io", "v1", "priorityclasses", name]:
                return (200, {}) if name in self.priority_classes else (404, {})
            case ["api", "v1", "nodes"]:
                first = int(query.rpartition("continue=")[2]) if "continue=" in query else 0
                more = {"continue": str(first + 1)} if first + 1 < len(self.nodes) else {}
                return 200, {"items": self.nodes[first : first + 1], "metadata": more}
            case ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"]:
                asked = body["spec"]["resourceAttributes"]
                self.reviews.append(asked)
                return 201, {"status": {"allowed": (asked["verb"], asked["resource"]) not in self.refused}}
            case ["apis", group, version] if f"{group}/{version}" in self.operators:
                return 200, {"resources": [{"name": name} for name in self.operators[f"{group}/{version}"]]}
        return 404, {"kind": "Status"}


def _selected(objects: Iterable[dict[str, Any]], query: str) -> list[dict[str, Any]]:
    selector = parse_qs(query)["labelSelector"][0]
    wanted = dict(term.split("=") for term in selector.split(","))
    return [one for one in objects if wanted.items() <= one["metadata"]["labels"].items()]


@contextmanager
def serving_cluster() -> Iterator[FakeCluster]:
    cluster = FakeCluster()

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802  http.server's own name
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            status, said = cluster.answer(self.command, self.path, body) if known else (401, {})
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815  http.server's own name

    with serving_http(Handler) as cluster.url:
        yield cluster
