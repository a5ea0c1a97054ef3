"""`soundstage models publish --build-engines`: the chart's own Jobs on a played API; each does its real work in S3.

Only the GPU is missing: what stands in for its builder is in tests.support.engines.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pydantic import SecretStr

from client.cli import main
from deploy.models.cache import Deadline
from deploy.models.settings import ModelStoreSettings
from deploy.triton import engines
from deploy.triton.engine import Machine
from deploy.triton.engine_job import Build, EngineJob
from tests.deploy.kinds import VERSIONS, problems
from tests.deploy.rendering import ENGINES, OUTSIDE, POOLS, Manifest, merged, of_kind, render
from tests.support.engines import H100, L4, standing_in
from tests.support.kubernetes import FakeCluster, serving_cluster
from tests.support.s3 import S3Server
from tests.support.tiny_diorama import write_tiny_diorama

OLD = f"s3://models/models/diorama/{'0' * 64}"
OTHER = f"s3://models/models/other/{'0' * 64}"
GPUS = {"h100": H100, "l4": L4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_diorama(tmp_path_factory.mktemp("models"))


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with serving_cluster() as cluster:
        yield cluster


def chart_jobs(*gpus: str, models: tuple[str, ...] = ("diorama", "other")) -> list[Manifest]:
    """One pool of each GPU."""
    pools = [{**POOLS[0], "name": f"p{n}", "models": models, "nodeSelector": {"gpu": g}} for n, g in enumerate(gpus)]
    engine_values = merged(ENGINES, {"triton": {"enabled": True, "pools": pools}, "models": {"fetch": [OLD, OTHER]}})
    return of_kind(render(values=merged(OUTSIDE, engine_values)), "Job")


Publish = Callable[..., Result]


@pytest.fixture
def publish(cluster: FakeCluster, s3_server: S3Server, folder: Path, tmp_path: Path) -> Publish:
    bucket = f"j-{uuid.uuid4().hex[:16]}"
    variables = {
        "SOUNDSTAGE_MODELS_S3_ENDPOINT": s3_server.endpoint,
        "SOUNDSTAGE_MODELS_S3_SECURE": "false",
        "SOUNDSTAGE_MODELS_S3_ACCESS_KEY": s3_server.access_key,
        "SOUNDSTAGE_MODELS_S3_SECRET_KEY": s3_server.secret_key,
        "KUBECONFIG": str(cluster.kubeconfig(tmp_path)),
    }

    def run(*words: str, release: str = "soundstage") -> Result:
        if words[:1] != ("list",):
            words = ("publish", str(folder), "--build-engines", f"--release={release}", "--poll-seconds=0.05", *words)
        return CliRunner().invoke(main, ["models", *words, f"--bucket={bucket}"], env=variables)

    return run


@pytest.fixture
def on_its_gpu(s3_server: S3Server, tmp_path: Path) -> Callable[[dict[str, Any]], tuple[str, str]]:
    """Runs a Job: its own words, the keys of its own variables, on the machine that its node selector means."""
    settings = ModelStoreSettings(
        s3_endpoint=s3_server.endpoint,
        s3_secure=False,
        s3_access_key=SecretStr(s3_server.access_key),
        s3_secret_key=SecretStr(s3_server.secret_key),
    )

    def run(job: dict[str, Any]) -> tuple[str, str]:
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        told = engines.main.commands["build"].make_context("build", list(container["args"])).params
        here: Machine = GPUS[pod["nodeSelector"]["gpu"]]
        (uri,) = told["models"]
        build = Build(told["dtype"], told["instances"])
        job_here = EngineJob(settings.open(uri.bucket), here, build, Deadline(60))
        job_here.run(uri, standing_in(here), tmp_path / job["metadata"]["name"])
        return "Complete", ""

    return run


def test_each_gpu_of_the_release_builds_what_was_published(
    cluster: FakeCluster, publish: Publish, on_its_gpu: Callable[..., tuple[str, str]]
) -> None:
    for job in chart_jobs("h100", "l4", "h100"):
        cluster.add_job(job)
    cluster.run_job, cluster.failures = on_its_gpu, 2
    result = publish()
    assert result.exit_code == 0, result.output
    uri = result.stdout.strip()
    assert uri.startswith("s3://")
    # Two pools of one kind of GPU share a Job.
    assert [one["spec"]["template"]["spec"]["nodeSelector"]["gpu"] for one in cluster.created] == ["h100", "l4"]
    for created in cluster.created:
        arguments = created["spec"]["template"]["spec"]["containers"][0]["args"]
        assert [one for one in arguments if one.startswith("s3://")] == [uri]
        named = {**created, "metadata": {**created["metadata"], "name": "named-by-the-server"}}
        assert [problem for version in VERSIONS for problem in problems(named, version)] == []
        assert "uid" not in str(created)
    for gpu in (H100, L4):
        assert f"in the store: {gpu.gpu}, TensorRT {gpu.tensorrt}" in result.stderr
    listed = publish("list").stdout.splitlines()
    assert (listed[0].startswith(uri), len([line for line in listed if "  engines: NVIDIA" in line])) == (True, 2)
    again = publish()
    assert (again.exit_code, again.stdout.strip()) == (0, uri)
    assert publish("list").stdout.splitlines()[1:] == listed[1:]


def test_a_job_that_fails_tells_its_last_words(
    cluster: FakeCluster, publish: Publish, on_its_gpu: Callable[..., tuple[str, str]]
) -> None:
    for job in chart_jobs("h100", "l4"):
        cluster.add_job(job)

    def one_fails(job: dict[str, Any]) -> tuple[str, str]:
        on_l4 = job["spec"]["template"]["spec"]["nodeSelector"]["gpu"] == "l4"
        return ("Failed", "TensorRT does not take model.onnx") if on_l4 else on_its_gpu(job)

    cluster.run_job = one_fails
    result = publish()
    assert result.exit_code == 1
    assert "is failed: TensorRT does not take model.onnx" in result.stderr
    assert "in the store: NVIDIA H100" in result.stderr
    cluster.run_job = lambda _: ("Failed", "")
    assert "is failed: AsPlayed" in publish().stderr


def test_a_job_that_does_not_end_is_left_at_the_deadline(cluster: FakeCluster, publish: Publish) -> None:
    cluster.add_job(chart_jobs("h100")[0])
    cluster.run_job = lambda _: None
    result = publish("--engines-deadline-seconds=0.2")
    assert result.exit_code == 3
    assert "waiting for a pod on a GPU" in result.stderr
    assert "kubectl -n video logs -f job/soundstage-engines-p0-00001" in result.stderr


def test_what_is_not_there_is_said(cluster: FakeCluster, publish: Publish) -> None:
    (job,) = chart_jobs("h100", models=("other",))
    cluster.add_job(job)
    nothing = publish()
    assert (nothing.exit_code, "no engine-building Job for diorama" in nothing.stderr) == (1, True)
    cluster.add_job(chart_jobs("h100")[0])
    assert publish(release="another").exit_code == 1
    assert cluster.created == []
    cluster.hidden = {"/apis/batch/v1/namespaces/video/jobs"}
    refused = publish()
    assert (refused.exit_code, "answers 403 to GET" in refused.stderr) == (1, True)
    unnamed = publish(release="")
    assert (unnamed.exit_code, unnamed.stdout, "--release NAME" in unnamed.stderr) == (2, "", True)
    # What was asked for first was done: the model is there.
    assert refused.stdout.startswith("s3://")


def test_a_cluster_that_is_away_is_another_exit_code(cluster: FakeCluster, publish: Publish, tmp_path: Path) -> None:
    cluster.url = "http://127.0.0.1:9"
    cluster.kubeconfig(tmp_path)
    result = publish()
    assert (result.exit_code, "does not answer" in result.stderr) == (3, True)
