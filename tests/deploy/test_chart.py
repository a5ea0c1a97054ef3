"""The chart is well-formed for Kubernetes, whatever is switched on."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from deploy.models.__main__ import READY, parse
from deploy.models.settings import ModelStoreSettings
from deploy.triton import engines
from libs.artifacts import s3_address
from services.denoiser.settings import DenoiserSettings
from services.gateway.admin import parse as admin_arguments
from tests.deploy.immutable import immutable
from tests.deploy.kinds import VERSIONS, problems
from tests.deploy.rendering import (
    CHART,
    COMPONENTS,
    ENGINES,
    EXTRA_APIS,
    MODELS,
    OUTSIDE,
    POOLS,
    TOGGLES,
    VALUE_FILES,
    Manifest,
    all_renderings,
    merged,
    of_kind,
    pairs,
    pod_of,
    pods,
    render,
    run_helm,
)
from tools.chart_schema import SCHEMA, settings_class, text, with_settings

SECRET_VALUES = {"DATABASE_URL": "postgresql://user:password@host/database"}
CERTIFICATES = "/etc/soundstage/"


@pytest.mark.parametrize("files", VALUE_FILES.values(), ids=list(VALUE_FILES))
def test_helm_lints_every_value_file(files: tuple[str, ...]) -> None:
    options = [option for file in files for option in ("--values", str(CHART / file))]
    assert "0 chart(s) failed" in run_helm("lint", "--strict", "--skip-schema-validation=false", str(CHART), *options)


def test_every_two_choices_meet_in_the_matrix() -> None:
    assert len(pairs()) >= 12
    for toggle, choices in TOGGLES.items():
        assert {choice[toggle] for choice in pairs()} == set(choices)


def test_kubernetes_takes_everything() -> None:
    found = {
        (name, version, problem)
        for name, manifests in all_renderings().items()
        for version in VERSIONS
        for manifest in manifests
        for problem in problems(manifest, version)
    }
    assert found == set()


def test_the_validation_sees_mistakes() -> None:
    deployment = copy.deepcopy(of_kind(render(*VALUE_FILES["gpu"]), "Deployment")[0])
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    assert [problems(deployment, version) != [] for version in VERSIONS] == [True] * 3
    scaled = copy.deepcopy(of_kind(render(*VALUE_FILES["gpu"]), "ScaledObject")[0])
    scaled["spec"]["coolDownPeriod"] = 3
    assert problems(scaled, "1.37") != []
    assert problems({**deployment, "apiVersion": "apps/v1beta1"}, "1.37") != []
    assert problems({**deployment, "kind": "Deploymint"}, "1.37") != []


def test_no_name_is_taken_twice() -> None:
    for name, manifests in all_renderings().items():
        names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
        assert len(names) == len(set(names)), name


def test_secrets_are_only_referred_to() -> None:
    for name, manifests in all_renderings().items():
        assert of_kind(manifests, "Secret") == [], name
        for container in containers(manifests):
            plain = [variable["name"] for variable in container.get("env", []) if "value" in variable]
            assert [one for one in plain if "PASSWORD" in one or "SECRET" in one or one.endswith("_URL_KEY")] == []
            assert not any(one.endswith(("DATABASE_URL", "ACCESS_KEY")) for one in plain), name


def test_upgrades_change_nothing_that_cannot_change() -> None:
    """From any of the renderings to any other one: what is immutable depends on no switch, only on names."""
    seen: dict[tuple[str, str], Any] = {}
    for name, manifests in all_renderings().items():
        for manifest in of_kind(manifests, "Deployment", "StatefulSet", "Service"):
            fixed = immutable(manifest)
            key = (manifest["kind"], manifest["metadata"]["name"])
            assert seen.setdefault(key, fixed) == fixed, (name, key)
    labels = {"app.kubernetes.io/name": "soundstage", "app.kubernetes.io/instance": "soundstage"}
    for (kind, name), fixed in seen.items():
        if kind == "Deployment":
            component = name.removeprefix("soundstage-")
            assert fixed["spec.selector"] == {"matchLabels": {**labels, "app.kubernetes.io/component": component}}


def test_a_new_version_of_the_chart_leaves_selectors_alone() -> None:
    """Versions stand in labels, never in what selects."""
    for manifest in of_kind(render(*VALUE_FILES["dev"]), "Deployment", "StatefulSet", "Service", "NetworkPolicy"):
        assert "0.1.0" not in str(manifest["spec"].get("selector")) + str(manifest["spec"].get("podSelector"))


def test_pods_are_restricted() -> None:
    """What the restricted Pod Security Standard asks for, and a read-only root, no token, bounded memory."""
    for name, manifests in all_renderings().items():
        for manifest in manifests:
            pod = pod_of(manifest)
            if pod is None:
                continue
            spec, where = pod["spec"], (name, manifest["metadata"]["name"])
            security = spec["securityContext"]
            assert security["runAsNonRoot"] is True, where
            assert security["runAsUser"] >= 999, where
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
            assert spec["automountServiceAccountToken"] is False, where
            assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(spec), where
            kinds = {*(kind for volume in spec["volumes"] for kind in volume)}
            assert kinds <= {"name", "emptyDir", "secret", "configMap", "persistentVolumeClaim", "projected"}, where
            assert ("projected" in kinds) <= manifest["metadata"]["name"].endswith("-denoiser"), where
            for container in containers([manifest]):
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "runAsNonRoot": True,
                    "capabilities": {"drop": ["ALL"]},
                }, where
                assert "memory" in container["resources"]["limits"], where
                assert not any("hostPort" in port for port in container.get("ports", [])), where
                assert ":latest" not in container["image"], where
                assert ":" in container["image"], where


def test_pods_end_after_the_grace_and_what_comes_around_it() -> None:
    for manifests in all_renderings().values():
        for component, pod in pods(manifests).items():
            if component not in COMPONENTS:
                continue
            (container,) = pod["spec"]["containers"]
            wait = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            grace = next(int(one["value"]) for one in container["env"] if one["name"].endswith("GRACE_SECONDS"))
            assert pod["spec"]["terminationGracePeriodSeconds"] >= wait + grace + 15


def test_every_environment_is_what_the_services_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each container's variables are fields of its service's real settings, and these take them."""
    seen = set()
    for name, manifests in all_renderings().items():
        for component, pod in pods(manifests).items():
            if component in COMPONENTS:
                seen.add(component)
                check_environment(component, pod, monkeypatch, name)
    assert seen == set(COMPONENTS)


def check_environment(component: str, pod: Manifest, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    (container,) = pod["spec"]["containers"]
    service = container["image"].partition(":")[0].rpartition("/")[2]
    settings, prefix = settings_class(service), f"SOUNDSTAGE_{service.upper()}_"
    with monkeypatch.context() as patch:
        for variable in container["env"]:
            field = variable["name"].removeprefix(prefix)
            assert field.lower() in settings.model_fields, (where, component, variable["name"])
            patch.setenv(variable["name"], variable.get("value", SECRET_VALUES.get(field, "a-secret")))
        loaded = settings()
    assert (loaded.host, loaded.grpc_port, loaded.metrics_port) == ("0.0.0.0", 50051, 9090), where
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    files = [variable["value"] for variable in container["env"] if variable.get("value", "").startswith(CERTIFICATES)]
    assert all(file.rpartition("/")[0] in mounted for file in files), where
    probe = container["readinessProbe"]
    assert ("exec" in probe) == (loaded.tls is not None), where
    assert probe.get("grpc", {"port": 50051}) == {"port": 50051}, where


def test_a_setting_with_a_wrong_value_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above can fail."""
    monkeypatch.setenv("SOUNDSTAGE_DENOISER_GRPC_PORT", "many")
    with pytest.raises(ValidationError):
        settings_class("denoiser")()


def test_free_settings_reach_the_service() -> None:
    values = merged(OUTSIDE, {"gatewayApi": {"settings": {"url_seconds": 600, "safety": "none"}}})
    values = merged(values, {"encoder": {"settings": {"warm_models": ["diorama"]}}})
    found = pods(render(values=values))
    (api,), (encoder,) = found["gateway-api"]["spec"]["containers"], found["encoder"]["spec"]["containers"]
    assert {"name": "SOUNDSTAGE_GATEWAY_URL_SECONDS", "value": "600"} in api["env"]
    assert {"name": "SOUNDSTAGE_GATEWAY_SAFETY", "value": "none"} in api["env"]
    assert {"name": "SOUNDSTAGE_ENCODER_WARM_MODELS", "value": '["diorama"]'} in encoder["env"]


def test_services_are_told_which_pool_holds_which_model() -> None:
    """By the names of Services that are there, on the port that Triton has there."""
    small, large = (dict(pool, models=models) for pool, models in zip(POOLS, (["a"], ["a", "b"]), strict=True))
    manifests = render(values=merged(OUTSIDE, {"triton": {"enabled": True, "pools": [small, large]}}))
    ports = {
        f"{service['metadata']['name']}.video.svc:{port['port']}"
        for service in of_kind(manifests, "Service")
        for port in service["spec"]["ports"]
        if port["name"] == "grpc"
    }
    for component in COMPONENTS:
        (container,) = pods(manifests)[component]["spec"]["containers"]
        told = [json.loads(one["value"]) for one in container["env"] if one["name"].endswith("TRITON_ADDRESSES")]
        assert len(told) == int(component in ("denoiser", "muxer"))
        for addresses in told:
            assert {model: len(pods) for model, pods in addresses.items()} == {"a": 2, "b": 1}
            assert {address for pods in addresses.values() for address in pods} <= ports


@pytest.mark.parametrize("choice", ["fetched", "cached"])
def test_models_are_fetched_before_the_service_starts(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By words that the command takes, into the folder where the service looks, from the server of the values."""
    found = pods(render(values=merged(OUTSIDE, TOGGLES["models"][choice])))
    for component in COMPONENTS:
        spec = found[component]["spec"]
        (fetching,), (service,) = spec["initContainers"], spec["containers"]
        assert fetching["command"] == ["python", "-m", "deploy.models", "fetch"]
        told = parse(["fetch", *fetching["args"]])
        assert [str(uri) for uri in told.uris] == MODELS
        assert told.only == (["soundstage.json"] if component.startswith("gateway-") else [])
        assert f"{told.into}" in [one.get("value") for one in service["env"] if one["name"].endswith("MODELS_DIR")]
        mounts = {one["mountPath"]: one for one in service["volumeMounts"]}
        assert [mounts[f"{folder}"]["readOnly"] for folder in (told.into, told.cache)] == [True, True]
        assert {f"{told.into}", f"{told.cache}"} < {one["mountPath"] for one in fetching["volumeMounts"]}
        with monkeypatch.context() as patch:
            for variable in fetching["env"]:
                patch.setenv(variable["name"], variable.get("value", "a-secret"))
            settings = ModelStoreSettings()
        assert {"endpoint": settings.s3_endpoint, "secure": settings.s3_secure} == OUTSIDE["s3"]
        assert settings.s3_secret_key.get_secret_value() == "a-secret"
        # Only a living process can say that something of a shared cache is in use.
        assert told.hold == (fetching.get("restartPolicy") == "Always") == (choice == "cached")
        if told.hold:
            assert fetching["startupProbe"]["exec"]["command"][-1] == f"{told.into}/{READY}"


def test_the_authority_of_the_store_is_where_whoever_speaks_to_it_looks() -> None:
    """The services, what fetches models, what builds engines and what fetches them."""
    values = merged(WITH_ENGINES, {"s3": {"secure": True, "caSecret": {"name": "our-authority", "key": "root.pem"}}})
    speaking = 0
    for component, pod in pods(render(values=values)).items():
        volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
        for container in containers([{"kind": "Pod", **pod}]):
            told = [one["value"] for one in container.get("env", []) if one["name"].endswith("_S3_CA")]
            asked = any(one["name"].endswith("S3_SECRET_KEY") for one in container.get("env", []))
            assert len(told) == asked, component
            speaking += asked
            for file in told:
                folder, _, name = file.rpartition("/")
                (mount,) = (one for one in container["volumeMounts"] if one["mountPath"] == folder)
                secret = volumes[mount["name"]]["secret"]
                assert secret["secretName"] == "our-authority"
                assert secret["items"] == [{"key": "root.pem", "path": name}]
    # Six services with what fetches their models, two Jobs, two pools.
    assert speaking == 2 * len(COMPONENTS) + 2 + 2
    assert "s3-ca" not in str(render(values=WITH_ENGINES))


WITH_ENGINES = merged(
    merged(OUTSIDE, TOGGLES["models"]["fetched, with engines"]),
    {
        "triton": {
            "enabled": True,
            "pools": [{**POOLS[0], "nodeSelector": {"gpu": "l4"}, "tolerations": [{"operator": "Exists"}]}, POOLS[1]],
            "engines": {"dtype": "float16", "instances": 2, "existingSecret": "writer"},
        },
        "models": {"fetching": {"existingSecret": "reader"}},
    },
)


def engine_jobs(manifests: list[Manifest]) -> dict[str, str]:
    """Pool -> name."""
    jobs = [one["metadata"] for one in of_kind(manifests, "Job")]
    return {one["labels"]["app.kubernetes.io/component"].removeprefix("engines-"): one["name"] for one in jobs}


def test_what_a_pools_job_builds_its_pods_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """By words that the command takes, on the pool's nodes, with a GPU, into the folder that Triton reads."""
    found = pods(render(values=WITH_ENGINES))
    for pool in ("small", "large"):
        job, triton = found[f"engines-{pool}"]["spec"], found[f"triton-{pool}"]["spec"]
        (building,), (fetching,), (serving,) = job["containers"], triton["initContainers"], triton["containers"]
        told = {}
        for what, container in (("build", building), ("fetch", fetching)):
            assert container["command"] == ["python", "-m", "deploy.triton.engines", what]
            told[what] = engines.main.commands[what].make_context(what, list(container["args"])).params
            assert container["image"] == serving["image"]
            assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
            with monkeypatch.context() as patch:
                for variable in container["env"]:
                    patch.setenv(variable["name"], variable.get("value", "a-secret"))
                assert ModelStoreSettings().s3_endpoint == OUTSIDE["s3"]["endpoint"]
        common = ("models", "dtype", "instances")
        assert [told["build"][name] for name in common] == [told["fetch"][name] for name in common]
        assert ([str(uri) for uri in told["build"]["models"]], told["build"]["dtype"]) == (MODELS[:1], "float16")
        assert f"--model-repository={told['fetch']['into']}" in serving["args"]
        mounts = {one["mountPath"]: one.get("readOnly", False) for one in serving["volumeMounts"]}
        assert mounts[str(told["fetch"]["into"])] is mounts[str(told["fetch"]["cache"])] is True
        assert job.get("nodeSelector") == triton.get("nodeSelector")
        assert job.get("tolerations") == triton.get("tolerations")
        assert ("writer" in str(building["env"]), "reader" in str(fetching["env"])) == (True, True)
    assert found["engines-small"]["spec"]["nodeSelector"] == {"gpu": "l4"}


def test_another_build_is_another_job_and_the_same_is_the_same() -> None:
    first = engine_jobs(render(values=WITH_ENGINES))
    assert engine_jobs(render(values=merged(WITH_ENGINES, {"denoiser": {"replicas": 3}}))) == first
    other = engine_jobs(render(values=merged(WITH_ENGINES, {"triton": {"engines": {"dtype": "bfloat16"}}})))
    assert set(first) == set(other) == {"small", "large"}
    assert not set(first.values()) & set(other.values())
    long = engine_jobs(render(values=merged(WITH_ENGINES, {"fullnameOverride": "a" * 40})))
    assert max(map(len, long.values())) <= 63


def test_triton_is_probed_by_inferences() -> None:
    manifests = render(values=merged(OUTSIDE, TOGGLES["triton"]["pools"]))
    (script,) = [one["data"]["ready.py"] for one in of_kind(manifests, "ConfigMap")]
    assert script == (CHART / "files/triton/ready.py").read_text().rstrip("\n")
    (container,) = pods(manifests)["triton-small"]["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        command = container[probe]["exec"]["command"]
        assert command[:2] == ["python3", "/probe/ready.py"]
        (seconds,) = [float(word.partition("=")[2]) for word in command if word.startswith("--seconds=")]
        assert container[probe]["timeoutSeconds"] > seconds
        # A pod that is busy is neither left out nor killed for it soon.
        assert ("--busy=ok" in command) == (probe == "readinessProbe")
    assert container["livenessProbe"]["timeoutSeconds"] >= 300


def test_without_models_to_fetch_there_is_no_such_container() -> None:
    assert all("initContainers" not in pod["spec"] for pod in pods(render(values=OUTSIDE)).values())


def test_further_volumes_are_mounted() -> None:
    volume = {"name": "licence", "secret": {"secretName": "licence"}}
    mount = {"name": "licence", "mountPath": "/licence", "readOnly": True}
    values = merged(OUTSIDE, {"audio": {"extraVolumes": [volume], "extraVolumeMounts": [mount]}})
    manifests = render(values=values)
    spec = pods(manifests)["audio"]["spec"]
    assert volume in spec["volumes"]
    assert mount in spec["containers"][0]["volumeMounts"]
    assert [problem for one in manifests for problem in problems(one, VERSIONS[-1])] == []


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"denoizer": {}}, "denoizer"),
    "an unknown key below": ({"denoiser": {"replica": 1}}, "replica"),
    "an unknown setting": ({"denoiser": {"settings": {"max_videos": 1}}}, "max_videos"),
    "a setting out of range": ({"gatewayApi": {"settings": {"url_seconds": 5}}}, "url_seconds"),
    "a setting that the chart says": ({"denoiser": {"settings": {"grpc_port": 1}}}, "grpc_port"),
    "a service's setting elsewhere": ({"muxer": {"settings": {"max_active_videos": 1}}}, "max_active_videos"),
    "a wrong type": ({"denoiser": {"replicas": "two"}}, "replicas"),
    "an unknown mode": ({"autoscaling": {"mode": "magic"}}, "autoscaling/mode"),
    "a password": ({"postgresql": {"password": "secret"}}, "password"),
    "no name of a secret": ({"s3": {"existingSecret": {"name": ""}}}, "existingSecret/name"),
    "a model with a quote": ({"triton": {"pools": [{**POOLS[0], "models": ["a'b"]}]}}, "models"),
    "an open gateway": ({"auth": {"apiKeys": False}}, "oidc/issuer"),
    "tokens for anybody": ({"auth": {"oidc": {"issuer": "https://id.example"}}}, "audience"),
    "TLS without names": ({"tls": {"public": {"enabled": True}}}, "dnsNames"),
    "our variables by the back door": ({"denoiser": {"extraEnv": [{"name": "SOUNDSTAGE_DENOISER_X"}]}}, "extraEnv"),
    "a folder of the node": ({"audio": {"extraVolumes": [{"name": "a", "hostPath": {"path": "/"}}]}}, "hostPath"),
    "Triton by the back door": ({"muxer": {"settings": {"triton_addresses": {}}}}, "triton_addresses"),
    "no issuer": ({"tls": {"internal": {"enabled": True}}}, "issuerRef.name"),
    "no secret": ({"tls": {"internal": {"enabled": True, "certManager": {"enabled": False}}}}, "existingSecrets"),
    "a model by no URI": ({"models": {"fetch": ["diorama"]}}, "models/fetch"),
    "two models folders": ({"models": {"fetch": MODELS, "existingClaim": "models"}}, "not both"),
    "no store": ({"s3": {"endpoint": ""}}, "s3.endpoint"),
    "engines without a URI": ({"triton": {**TOGGLES["triton"]["pools"]["triton"], **ENGINES["triton"]}}, "no URI"),
    "engines in NVIDIA's image": (
        merged(WITH_ENGINES, {"triton": {"image": "nvcr.io/nvidia/tritonserver:24.10-py3"}}),
        "deploy/triton/Dockerfile",
    ),
    "a budget of nothing": ({"muxer": {"podDisruptionBudget": {"maxUnavailable": "0%"}}}, "maxUnavailable"),
    "a name with dots": ({"fullnameOverride": "video.prod"}, "set fullnameOverride"),
    "a name that begins with a number": ({"fullnameOverride": "2nd"}, "set fullnameOverride"),
    "a name that is too long": (
        {"fullnameOverride": "a" * 40, "triton": {"enabled": True, "pools": [{**POOLS[0], "name": "p" * 16}]}},
        "63 characters",
    ),
    "no Temporal": ({"temporal": {"address": ""}}, "temporal.address"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_wrong_values_are_refused(what: str) -> None:
    values, word = REFUSED[what]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render(values=merged(OUTSIDE, values))
    assert word in caught.value.stderr


@pytest.mark.parametrize(
    ("values", "api"),
    [
        (TOGGLES["scaling"]["keda"], "keda.sh/v1alpha1"),
        (TOGGLES["tls inside"]["cert-manager"], "cert-manager.io/v1"),
        (TOGGLES["tls outside"]["cert-manager"], "cert-manager.io/v1"),
        (TOGGLES["monitoring"]["all"], "monitoring.coreos.com/v1"),
    ],
)
def test_what_the_cluster_lacks_is_said(values: dict[str, Any], api: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render(values=merged(OUTSIDE, values), apis=())
    assert api in caught.value.stderr
    assert "instead" in caught.value.stderr or "or " in caught.value.stderr


def test_the_schema_knows_the_settings_of_today() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert text(with_settings(schema)) == SCHEMA.read_text(encoding="utf-8"), "run: python -m tools.chart_schema"


def test_scaled_deployments_name_no_replicas() -> None:
    """A release would set them back to the number in the chart with each upgrade."""
    for manifests in all_renderings().values():
        scalers = of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject")
        scaled = {scaler["spec"]["scaleTargetRef"]["name"] for scaler in scalers}
        for deployment in of_kind(manifests, "Deployment"):
            assert ("replicas" in deployment["spec"]) == (deployment["metadata"]["name"] not in scaled)


@pytest.mark.parametrize("choice", ["gpu", "large"])
def test_denoisers_have_a_step_for_every_video_of_the_pools(choice: str) -> None:
    """Else GPUs wait for steps: at the most replicas of both, and at those that are always there."""
    manifests = render(*VALUE_FILES[choice])
    (container,) = pods(manifests)["denoiser"]["spec"]["containers"]
    (steps,) = (int(one["value"]) for one in container["env"] if one["name"].endswith("STEPS_AT_ONCE"))
    scaled = {one["metadata"]["name"]: one["spec"] for one in of_kind(manifests, "ScaledObject")}
    pools = [spec for name, spec in scaled.items() if "-triton-" in name]
    (denoiser,) = (spec for name, spec in scaled.items() if name.endswith("-denoiser"))
    for count in ("minReplicaCount", "maxReplicaCount"):
        assert steps * denoiser[count] >= sum(spec[count] for spec in pools) > 0
    videos, pool_videos = (float(spec["triggers"][0]["metadata"]["targetQueryValue"]) for spec in (denoiser, pools[0]))
    assert videos == pytest.approx(steps * pool_videos, abs=0.01 * steps), "one video a pod"


@pytest.mark.parametrize(("triton", "steps"), [(False, "1"), (True, "4")])
def test_steps_at_once_without_a_number(triton: bool, steps: str) -> None:
    manifests = render(values=merged(OUTSIDE, {"triton": {"enabled": triton}}))
    (container,) = pods(manifests)["denoiser"]["spec"]["containers"]
    assert {"name": "SOUNDSTAGE_DENOISER_STEPS_AT_ONCE", "value": steps} in container["env"]


def test_one_disruption_budget_a_component() -> None:
    manifests = render(*VALUE_FILES["large"])
    selected = [budget["spec"]["selector"] for budget in of_kind(manifests, "PodDisruptionBudget")]
    assert sorted(map(str, selected)) == sorted(
        str(one["spec"]["selector"]) for one in of_kind(manifests, "Deployment")
    )


@pytest.mark.parametrize("files", ["gpu", "large"])
def test_a_fleet_is_spread_and_drained_with_care(files: str) -> None:
    """Models and engines have time to load, steps to end: a step is a Triton call of two minutes at most."""
    manifests = render(*VALUE_FILES[files])
    for component, pod in pods(manifests).items():
        if component == "test":
            continue
        spec, (container,) = pod["spec"], pod["spec"]["containers"]
        spread = {one["topologyKey"] for one in spec["topologySpreadConstraints"]}
        assert spread == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        assert ("priorityClassName" in spec) == (files == "large"), component
        probe = container["startupProbe"]
        loading = 1800 if component.startswith("triton-") else 120 if component.startswith("gateway-") else 600
        assert probe["periodSeconds"] * probe["failureThreshold"] >= loading, component
        if component == "denoiser":
            assert spec["terminationGracePeriodSeconds"] > DenoiserSettings().triton_call_seconds
        if component.startswith("triton-"):
            (least,) = (int(one.partition("=")[2]) for one in container["args"] if "exit-timeout" in one)
            assert spec["terminationGracePeriodSeconds"] > least + container["lifecycle"]["preStop"]["sleep"]["seconds"]
    budgets = {one["spec"]["maxUnavailable"] for one in of_kind(manifests, "PodDisruptionBudget")}
    assert budgets == ({1} if files == "gpu" else {"5%"})


@pytest.mark.parametrize("choice", [*VALUE_FILES, "fetched", "engines"])
def test_a_rollout_is_given_up_only_after_all_that_a_pod_may_take(choice: str) -> None:
    """Its own patience of ten minutes would call a release failed whose engines or weights still load."""
    given = {"fetched": merged(OUTSIDE, TOGGLES["models"]["fetched"]), "engines": WITH_ENGINES}
    manifests = render(values=given[choice]) if choice in given else render(*VALUE_FILES[choice])
    for deployment in of_kind(manifests, "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        probe = spec["containers"][0]["startupProbe"]
        needed = 600 + probe["periodSeconds"] * probe["failureThreshold"]
        for container in spec.get("initContainers", []):
            told = dict(one.removeprefix("--").split("=", 1) for one in container["args"] if one.startswith("--"))
            needed += int(told["deadline-seconds"]) * sum(one.startswith("s3://") for one in container["args"])
        assert deployment["spec"]["progressDeadlineSeconds"] >= needed, deployment["metadata"]["name"]


@pytest.mark.parametrize(("files", "at_once"), [("gpu", 1), ("large", "5%")])
def test_a_release_replaces_as_many_at_once_as_a_drain_takes(files: str, at_once: int | str) -> None:
    """GPU pods before new ones come, the others after."""
    for deployment in of_kind(render(*VALUE_FILES[files]), "Deployment"):
        rolling = deployment["spec"]["strategy"]["rollingUpdate"]
        on_gpu = "-triton-" in deployment["metadata"]["name"]
        first, then = ("maxUnavailable", "maxSurge") if on_gpu else ("maxSurge", "maxUnavailable")
        assert (rolling[first], rolling[then]) == (at_once, 0)


@pytest.mark.parametrize("release", ["soundstage", "prod", "a" * 53, f"{'b' * 39}-{'c' * 13}"])
def test_names_and_labels_of_any_release_are_taken(release: str) -> None:
    """Services have names of 63 letters, digits and hyphens, labels values of 63; one label tells the release."""
    files = [option for file in VALUE_FILES["large"] for option in ("--values", str(CHART / file))]
    apis = [option for api in EXTRA_APIS for option in ("--api-versions", api)]
    text = run_helm("template", release, str(CHART), "--namespace", "other", *files, *apis)
    manifests = [one for one in yaml.safe_load_all(text) if one]
    assert [problem for one in manifests for problem in problems(one, VERSIONS[-1])] == []
    for one in manifests:
        assert one["metadata"]["namespace"] == "other"
        labels = {**one["metadata"]["labels"], **(pod["metadata"]["labels"] if (pod := pod_of(one)) else {})}
        assert labels["app.kubernetes.io/instance"] == release
        assert all(len(value) <= 63 for value in labels.values())
        longest = 63 if one["kind"] in ("Service", "Deployment", "ScaledObject") else 253
        assert re.fullmatch(f"[a-z][-a-z0-9]{{0,{longest - 2}}}[a-z0-9]", one["metadata"]["name"])


def test_a_port_is_called_plaintext_only_where_it_is() -> None:
    """Meshes and gateways speak HTTP/2 without TLS to a port of `kubernetes.io/h2c`."""
    for name, manifests in all_renderings().items():
        found = pods(manifests)
        for service in of_kind(manifests, "Service"):
            component = service["metadata"]["labels"]["app.kubernetes.io/component"]
            (container,) = found[component]["spec"]["containers"]
            has_tls = any(one["name"].endswith("_TLS_CERT") for one in container.get("env", []))
            for port in service["spec"]["ports"]:
                wanted = "kubernetes.io/h2c" if port["name"] == "grpc" and not has_tls else None
                assert port.get("appProtocol") == wanted, (name, service["metadata"]["name"])


def test_pods_go_to_the_nodes_that_the_values_name() -> None:
    """That of `helm test` too, which else waits where the gateway's nodes are the only ones for it."""
    tolerations = [{"key": "dedicated", "operator": "Exists"}]
    placed = {"nodeSelector": {"kubernetes.io/arch": "amd64"}, "tolerations": tolerations}
    keys = ("gatewayApi", "gatewayWorker", "encoder", "denoiser", "audio", "muxer")
    values = {**dict.fromkeys(keys, placed), "image": {"pullSecrets": [{"name": "p"}]}}
    found = pods(render(values=merged(OUTSIDE, values)))
    for component in (*COMPONENTS, "test"):
        spec = found[component]["spec"]
        assert (spec["nodeSelector"], spec["tolerations"]) == (placed["nodeSelector"], tolerations)
        assert spec["imagePullSecrets"] == [{"name": "p"}]
    assert "topologySpreadConstraints" not in found["test"]["spec"]


def test_helm_test_asks_every_service() -> None:
    """The workers too: without any, nobody runs videos, and all the others are well."""
    manifests = render(values=OUTSIDE)
    asked = {
        argument.removeprefix("--address=")
        for container in pods(manifests)["test"]["spec"]["containers"]
        for argument in container["args"]
        if argument.startswith("--address=")
    }
    assert asked == {
        f"soundstage-{component}" + (":443" if component == "gateway-api" else ".video.svc:50051")
        for component in COMPONENTS
    }


def test_every_service_has_its_templates() -> None:
    for component in COMPONENTS:
        folder = CHART / "templates" / component
        files = {path.name for path in folder.glob("*.yaml")}
        assert {"deployment.yaml", "service.yaml", "networkpolicy.yaml", "poddisruptionbudget.yaml"} <= files
        assert "autoscaler.yaml" in files


def containers(manifests: list[Manifest]) -> Iterator[Manifest]:
    for manifest in manifests:
        if pod := pod_of(manifest):
            yield from [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def notes(values: Mapping[str, Any]) -> str:
    """What helm says after an install of the dev values with these. It asks no cluster."""
    files = ("--values", str(CHART / "values-dev.yaml"), "--values", "-")
    said = run_helm(
        "install",
        "soundstage",
        str(CHART),
        "--namespace",
        "video",
        "--dry-run=client",
        *files,
        stdin=json.dumps(values),
    )
    return said.partition("NOTES:")[2]


def test_the_notes_tell_what_comes_next() -> None:
    """By commands that exist, with variables that the client reads."""
    said = notes({})
    assert "helm test soundstage -n video" in said
    (words,) = re.findall(r"-m services.gateway.admin (.*)\)", said)
    assert admin_arguments(words.split()).tenant == "acme"
    assert "port-forward service/soundstage-gateway-api 50051:443" in said
    variables = set(re.findall(r"SOUNDSTAGE_\w+", said))
    assert {"SOUNDSTAGE_TOKEN", "SOUNDSTAGE_ADDRESS"} == variables & known_to_the_client() == variables
    assert "plaintext" in said


@pytest.mark.parametrize(
    ("endpoint", "said_so"),
    [
        (None, "port-forward service/soundstage-seaweedfs 8333:8333"),
        ("http://localhost:8333", "port-forward service/soundstage-seaweedfs 8333:8333"),
        ("https://files.example", "https://files.example, which must lead to service/soundstage-seaweedfs"),
        ("", "set s3.publicEndpoint"),
    ],
)
def test_the_notes_tell_where_videos_are_fetched(endpoint: str | None, said_so: str) -> None:
    """The URLs of the dev values are those that its port-forward serves."""
    values = {} if endpoint is None else {"s3": {"publicEndpoint": endpoint}}
    assert said_so in notes(values)
    (api,) = pods(render("values-dev.yaml", values=values))["gateway-api"]["spec"]["containers"]
    told = {one["name"]: one.get("value", "") for one in api["env"]}
    address = s3_address(
        told["SOUNDSTAGE_GATEWAY_ARTIFACTS_URL"], told.get("SOUNDSTAGE_GATEWAY_S3_PUBLIC_ENDPOINT", "")
    )
    if "8333:8333" in said_so:
        assert address.outer_host in [("127.0.0.1:8333", False), ("localhost:8333", False)]


@pytest.mark.parametrize(("kind", "port"), [("NodePort", "NODEPORT"), ("LoadBalancer", "443")])
def test_the_notes_name_the_port_that_callers_reach(kind: str, port: str) -> None:
    assert f"SOUNDSTAGE_ADDRESS=ADDRESS:{port}\n" in notes({"gatewayService": {"type": kind}})


def test_the_notes_know_the_public_name_and_who_gives_tokens() -> None:
    tls = {"public": {"enabled": True, "dnsNames": ["video.example.com"], "existingSecret": "cert"}}
    oidc = {"apiKeys": False, "oidc": {"issuer": "https://id.example", "audience": "videos"}}
    for kind in ("LoadBalancer", "ClusterIP"):
        said = notes({"tls": tls, "auth": oidc, "gatewayService": {"type": kind}, "tests": {"enabled": False}})
        assert "SOUNDSTAGE_ADDRESS=video.example.com:443 SOUNDSTAGE_TLS=1" in said
        assert "port-forward service/soundstage-gateway-api" not in said
        assert "plaintext" not in said
        assert "https://id.example for videos" in said
        assert "services.gateway.admin" not in said
        assert "tests.enabled is false" in said
        assert set(re.findall(r"SOUNDSTAGE_\w+", said)) <= known_to_the_client()


def known_to_the_client() -> set[str]:
    return set(
        re.findall(r'envvar="(SOUNDSTAGE_\w+)"', (CHART.parents[2] / "client/cli.py").read_text(encoding="utf-8"))
    )
