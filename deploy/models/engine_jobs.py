"""One engine-building Job for each kind of GPU, after those that the chart made: started, followed, its end told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import urllib3

from deploy.doctor.kubeconfig import Api
from deploy.models.manifest import ModelUri
from libs.errors import FailedPrecondition, SoundstageError, Unavailable

__all__ = ["EngineJobs", "Outcome"]

KEPT_SPEC = ("activeDeadlineSeconds", "backoffLimit", "podFailurePolicy")
KEPT_LABELS = ("app.kubernetes.io/", "helm.sh/")
"""The others are Kubernetes' own, and of the Job that it is copied from."""
MADE_BY = "app.kubernetes.io/managed-by"
KEEP_SECONDS = 86_400
"""A Job that has ended is there for so long, for its log."""
Object = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    job: str
    state: str
    """"complete", "failed", or "unfinished" when the deadline came first."""
    said: str


class EngineJobs:
    def __init__(self, api: Api, release: str, *, poll_seconds: float = 5.0) -> None:
        self._api, self._release, self._poll_seconds = api, release, poll_seconds
        self._jobs = f"/apis/batch/v1/namespaces/{api.namespace}/jobs"

    def start(self, uri: ModelUri) -> list[str]:
        """Names. Pools that differ in nothing that a build sees share one. Raises SoundstageError."""
        wanted = {_sameness(job): job for one in self._templates(uri) if (job := _copied(one, uri))}
        if not wanted:
            raise FailedPrecondition(
                f"release {self._release} in {self._api.namespace} has no engine-building Job for {uri.name}: install "
                "it with triton.engines.enabled, a pool with this model, and an earlier URI of it in models.fetch",
                reason="NO_ENGINE_JOB",
            )
        return [self._created(job) for job in wanted.values()]

    def follow(self, names: Sequence[str], seconds: float, tell: Callable[[str], None]) -> list[Outcome]:
        """Until all have ended, or for ``seconds``. An API server that is away meanwhile is asked again."""
        deadline = time.monotonic() + seconds
        outcomes: dict[str, Outcome] = {}
        told: dict[str, str] = {}
        while len(outcomes) < len(names) and time.monotonic() < deadline:
            for name in (name for name in names if name not in outcomes):
                state, said = self._look(name)
                if told.get(name) != (text := f"{name}: {state}{said and ', '}{said}"):
                    tell(text)
                    told[name] = text
                if state in ("complete", "failed"):
                    outcomes[name] = Outcome(name, state, said)
            if len(outcomes) < len(names):
                time.sleep(max(0.0, min(self._poll_seconds, deadline - time.monotonic())))
        log = f"kubectl -n {self._api.namespace} logs -f job/"
        return [outcomes.get(name) or Outcome(name, "unfinished", f"goes on: {log}{name}") for name in names]

    def _templates(self, uri: ModelUri) -> list[Object]:
        selector = f"app.kubernetes.io/name=soundstage,app.kubernetes.io/instance={self._release},{MADE_BY}=Helm"
        found = self._asked("GET", f"{self._jobs}?labelSelector={quote(selector)}").get("items") or []
        return [
            job
            for job in found
            if job["metadata"]["labels"].get("app.kubernetes.io/component", "").startswith("engines-")
            and any(_is_of(argument, uri) for argument in _arguments(job))
        ]

    def _created(self, job: Object) -> str:
        return str(self._asked("POST", self._jobs, job)["metadata"]["name"])

    def _look(self, name: str) -> tuple[str, str]:
        """State, and what there is to say of it."""
        try:
            job = self._asked("GET", f"{self._jobs}/{name}")
        except Unavailable as error:
            return "unknown", str(error)
        except FailedPrecondition as error:
            return "failed", str(error)
        status = job.get("status") or {}
        for condition in status.get("conditions") or []:
            if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
                failed = condition["type"] == "Failed"
                return ("failed", self._last_words(name) or _why(condition)) if failed else ("complete", "")
        return ("at work", "") if status.get("ready") else ("waiting for a pod on a GPU", "")

    def _last_words(self, name: str) -> str:
        """The end of the log of its last pod, which Kubernetes keeps with the pod."""
        selector = quote(f"batch.kubernetes.io/job-name={name}")
        try:
            said = self._asked("GET", f"/api/v1/namespaces/{self._api.namespace}/pods?labelSelector={selector}")
        except SoundstageError:
            return ""
        pods = sorted(said.get("items") or [], key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
        states = [one.get("state", {}) for pod in pods for one in pod.get("status", {}).get("containerStatuses") or []]
        messages = [str((state.get("terminated") or {}).get("message") or "").strip() for state in states]
        return next((message for message in reversed(messages) if message), "")

    def _asked(self, method: str, path: str, body: Object | None = None) -> Object:
        try:
            status, said = self._api.ask(method, path, body)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _away(f"{self._api.server} does not answer ({type(error).__name__})") from error
        if status in (200, 201):
            return said
        what = f"{self._api.server} answers {status} to {method} {path.partition('?')[0]}: {said.get('message', '')}"
        if status == 429 or status >= 500:
            raise _away(what)
        raise FailedPrecondition(what.rstrip(": "), reason="CLUSTER_REFUSED")


def _copied(template: Object, uri: ModelUri) -> Object:
    """A Job of the same pod that builds ``uri`` and nothing else."""
    metadata, spec = template["metadata"], template["spec"]
    labels = {key: value for key, value in metadata["labels"].items() if key.startswith(KEPT_LABELS)}
    pod = json.loads(json.dumps(spec["template"]))
    pod["metadata"] = {"labels": {k: v for k, v in pod["metadata"]["labels"].items() if k.startswith(KEPT_LABELS)}}
    (container,) = pod["spec"]["containers"]
    options = [argument for argument in container["args"] if not argument.startswith("s3://")]
    container["args"] = [str(uri), *options]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            # The chart's name ends in a hash of what that Job builds.
            "generateName": metadata["name"].rpartition("-")[0] + "-",
            "namespace": metadata["namespace"],
            "labels": {**labels, MADE_BY: "soundstage-models"},
        },
        "spec": {
            **{key: spec[key] for key in KEPT_SPEC if key in spec},
            "ttlSecondsAfterFinished": KEEP_SECONDS,
            "template": pod,
        },
    }


def _sameness(job: Object) -> str:
    """Equal for Jobs that differ in nothing but the name of their pool."""
    return json.dumps(job["spec"]["template"]["spec"], sort_keys=True)


def _arguments(job: Object) -> list[str]:
    return [argument for one in job["spec"]["template"]["spec"]["containers"] for argument in one.get("args") or []]


def _is_of(argument: str, uri: ModelUri) -> bool:
    try:
        return ModelUri.parse(argument).name == uri.name
    except ValueError:
        return False


def _why(condition: Object) -> str:
    return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")


def _away(what: str) -> Unavailable:
    return Unavailable(what, reason="CLUSTER_UNAVAILABLE")
