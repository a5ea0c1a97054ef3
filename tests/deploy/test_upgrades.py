"""A release that is installed can be upgraded to the chart of today: nothing changes that Kubernetes keeps as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from tests.deploy.immutable import refused
from tests.deploy.releases import load, recorded
from tests.deploy.rendering import VALUE_FILES, Manifest, of_kind, render


def component(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (one for one in of_kind(manifests, kind) if one["metadata"]["name"] == f"soundstage-{name}")
    return found


@pytest.mark.parametrize("of", VALUE_FILES)
@pytest.mark.parametrize("release", recorded())
def test_every_release_can_be_upgraded(release: str, of: str) -> None:
    before, after = load(release)[of], render(*VALUE_FILES[of])
    assert refused(before, after) == []
    assert {"soundstage-denoiser", "soundstage-gateway-api"} <= {one["metadata"]["name"] for one in before}


def test_there_are_releases() -> None:
    """The one with the first chart, and others since."""
    assert "d1e3e47" in recorded()
    assert len(recorded()) >= 2


def selector(manifests: list[Manifest]) -> None:
    component(manifests, "Deployment", "muxer")["spec"]["selector"]["matchLabels"]["app.kubernetes.io/version"] = "2"


def kind(manifests: list[Manifest]) -> None:
    component(manifests, "Deployment", "audio")["kind"] = "StatefulSet"


def storage(manifests: list[Manifest]) -> None:
    claim = component(manifests, "StatefulSet", "postgresql")["spec"]["volumeClaimTemplates"][0]
    claim["spec"]["resources"]["requests"]["storage"] = "9Gi"


def governing_service(manifests: list[Manifest]) -> None:
    component(manifests, "StatefulSet", "seaweedfs")["spec"]["serviceName"] = "files"


def address(manifests: list[Manifest]) -> None:
    del component(manifests, "Service", "encoder")["spec"]["clusterIP"]


def public_address(manifests: list[Manifest]) -> None:
    component(manifests, "Service", "gateway-api")["spec"]["type"] = "NodePort"


def api(manifests: list[Manifest]) -> None:
    component(manifests, "Deployment", "denoiser")["apiVersion"] = "extensions/v1"


CHANGES: dict[Callable[[list[Manifest]], None], str] = {
    selector: "Deployment soundstage-muxer: spec.selector cannot change",
    kind: "StatefulSet soundstage-audio: was a Deployment",
    storage: "StatefulSet soundstage-postgresql: spec.volumeClaimTemplates cannot change",
    governing_service: "StatefulSet soundstage-seaweedfs: spec.serviceName cannot change",
    address: "Service soundstage-encoder: spec.clusterIP cannot change",
    public_address: "Service soundstage-gateway-api: spec.type must not change",
    api: "Deployment soundstage-denoiser: was apps/v1, is extensions/v1",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_check_sees_a_change(change: Callable[[list[Manifest]], None]) -> None:
    before = render(*VALUE_FILES["dev"])
    after = copy.deepcopy(before)
    change(after)
    assert refused(before, after) == [CHANGES[change]]


def test_a_job_of_the_same_name_must_be_the_same() -> None:
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "engines"}, "spec": {"template": {"spec": {}}}}
    other = {**job, "spec": {"template": {"spec": {"restartPolicy": "Never"}}}}
    assert refused([job], [other]) == ["Job engines: spec.template cannot change"]
    assert refused([job], [{**other, "metadata": {"name": "engines-2"}}]) == []
    hook = {"name": "engines", "annotations": {"helm.sh/hook": "test"}}
    assert refused([{**job, "metadata": hook}], [{**other, "metadata": hook}]) == []
