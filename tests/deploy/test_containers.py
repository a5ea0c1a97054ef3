"""What podman is to play of the chart. `make test-images` builds the images and plays it: minutes and gigabytes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from tests.deploy.rendering import Manifest, render
from tools.containers import images
from tools.containers.engine import EngineMissingError, engine
from tools.containers.pods import pods_of
from tools.containers.stores import STORES


@pytest.fixture(scope="module")
def rendering() -> list[Manifest]:
    return render("values-dev.yaml")


def containers(manifest: Manifest) -> list[Manifest]:
    spec = manifest["spec"].get("template", manifest)["spec"]
    return list(spec["containers"])


def test_every_service_and_store_becomes_a_pod_with_an_address_and_everybodys_names(rendering: list[Manifest]) -> None:
    pods = pods_of(rendering, "10.1.2")
    assert {pod.component for pod in pods} == {
        "audio", "denoiser", "encoder", "gateway-api", "gateway-worker", "muxer", "test", *STORES
    }  # fmt: skip
    assert len({pod.address for pod in pods}) == len(pods)
    at = {pod.component: pod.address for pod in pods}
    for pod in pods:
        spec = pod.manifest["spec"].get("template", pod.manifest)["spec"]
        named = {name: host["ip"] for host in spec["hostAliases"] for name in host["hostnames"]}
        assert named["soundstage-seaweedfs"] == at["seaweedfs"]
        assert named["soundstage-encoder.video.svc"] == at["encoder"]


def test_what_is_played_is_what_was_rendered_but_for_probes_and_ports(rendering: list[Manifest]) -> None:
    before = copy.deepcopy(rendering)
    played = {pod.component: pod.manifest for pod in pods_of(rendering, "10.1.2")}
    assert rendering == before
    for manifest in rendering:
        if manifest["kind"] != "Deployment":
            continue
        component = manifest["metadata"]["labels"]["app.kubernetes.io/component"]
        (rendered,), (shown,) = containers(manifest), containers(played[component])
        left_out = {"startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "ports"}
        assert shown == {key: value for key, value in rendered.items() if key not in left_out}


def test_a_port_that_only_a_service_has_is_its_pods(rendering: list[Manifest]) -> None:
    (test,) = (pod.manifest for pod in pods_of(rendering, "10.1.2") if pod.component == "test")
    said = [word for container in containers(test) for word in container.get("args", ())]
    assert "--address=soundstage-gateway-api:50051" in said
    assert not [word for word in said if word.endswith(":443")]


def test_every_folder_becomes_a_volume_of_its_own(rendering: list[Manifest]) -> None:
    for pod in pods_of(rendering, "10.1.2"):
        if pod.component in STORES:
            volumes = {volume["name"] for volume in pod.manifest["spec"]["template"]["spec"]["volumes"]}
            assert {mount["name"] for mount in containers(pod.manifest)[0]["volumeMounts"]} <= volumes
            assert pod.manifest["kind"] == "Deployment"
    names = [name for pod in pods_of(rendering, "10.1.2") for name in pod.volumes]
    assert "soundstage-seaweedfs-data" in names
    assert "soundstage-denoiser-tmp" in names
    assert len(set(names)) == len(names)


def test_containers_are_named_as_podman_names_them(rendering: list[Manifest]) -> None:
    named = {pod.component: pod.containers for pod in pods_of(rendering, "10.1.2")}
    assert named["gateway-api"] == ["soundstage-gateway-api-pod-0-gateway-api"]
    assert "soundstage-test-encoder" in named["test"]


def test_without_an_engine_it_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineMissingError, match="apt-get install podman"), engine("no-such-engine"):
        pass
    assert images.main(["nobody"]) == 2
    assert "there is no service nobody: gateway, encoder" in capsys.readouterr().out


def test_stores_are_made_of_what_the_lock_pins() -> None:
    lock = Path("requirements.lock").read_text().splitlines()
    for store, package in STORES.items():
        assert [line for line in lock if line.startswith(f"{package}==")]
        assert (Path("tools/containers") / f"{store}.Containerfile").is_file()
