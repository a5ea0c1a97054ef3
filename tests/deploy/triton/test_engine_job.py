"""The Job that builds engines and the pods that fetch them, with a real S3 server; a stand-in builds."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer

import pytest
from click.testing import CliRunner, Result
from pydantic import SecretStr

from deploy.models.engines import EngineKey, engines_of, find_engines
from deploy.models.manifest import ModelUri
from deploy.models.publish import publish
from deploy.models.settings import ModelStoreSettings
from deploy.triton import engine_job
from deploy.triton.engine import EngineError, Machine
from deploy.triton.engine_job import Build
from deploy.triton.engines import Workshop, main
from libs.artifacts import Ref, S3Store
from tests.support.engines import H100, L4, standing_in
from tests.support.forwarder import Forwarder, forwarding
from tests.support.s3 import S3Server
from tests.support.tiny_diorama import write_tiny_diorama

NETWORKS = {"diorama_transformer", "diorama_transformer_2", "diorama_vae_decoder"}
VARIANT = Build().variant


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_diorama(tmp_path_factory.mktemp("models"))


@pytest.fixture
def store(s3_server: S3Server) -> S3Store:
    settings = ModelStoreSettings(
        s3_endpoint=s3_server.endpoint,
        s3_secure=False,
        s3_access_key=SecretStr(s3_server.access_key),
        s3_secret_key=SecretStr(s3_server.secret_key),
    )
    return settings.open(f"e-{uuid.uuid4().hex[:16]}")


@pytest.fixture
def model(store: S3Store, folder: Path) -> ModelUri:
    return publish(folder, store.uri_of("x").split("/")[2], store, parallel=4).uri


@pytest.fixture
def forwarder(s3_server: S3Server) -> Iterator[Forwarder]:
    with forwarding(s3_server.endpoint) as forwarder:
        yield forwarder


Job = Callable[..., Result]


@pytest.fixture
def job(s3_server: S3Server, model: ModelUri, tmp_path: Path) -> Job:
    """build on an H100, unless another ``here`` or ``builder`` is given; fetch likewise."""

    def run(
        what: str,
        here: Machine = H100,
        builder: Callable[..., object] | None = None,
        where: str = "one",
        *words: str,
        endpoint: str = s3_server.endpoint,
    ) -> Result:
        variables = {
            "SOUNDSTAGE_MODELS_S3_ENDPOINT": endpoint,
            "SOUNDSTAGE_MODELS_S3_SECURE": "false",
            "SOUNDSTAGE_MODELS_S3_ACCESS_KEY": s3_server.access_key,
            "SOUNDSTAGE_MODELS_S3_SECRET_KEY": s3_server.secret_key,
        }
        at = tmp_path / where
        places = (
            ["--work", str(at)] if what == "build" else ["--cache", str(at / "cache"), "--into", str(at / "triton")]
        )
        workshop = Workshop(lambda: here, builder or standing_in(here))
        return CliRunner().invoke(main, [what, str(model), *places, *words], env=variables, obj=workshop)

    return run


def objects(store: S3Store, below: str = "engines") -> set[str]:
    return {stored.key for stored in store.walk(below)}


def never(*_: object, **__: object) -> None:
    raise AssertionError("nothing should have been built")


def test_engines_are_built_once_for_a_gpu_and_reach_its_pods(
    job: Job, store: S3Store, model: ModelUri, tmp_path: Path
) -> None:
    built = job("build")
    assert built.exit_code == 0, built.output
    assert "built and published: NVIDIA H100 80GB HBM3, TensorRT 10.5.0" in built.output
    root = f"engines/diorama/{model.revision}/NVIDIA-H100-80GB-HBM3/tensorrt-10.5.0/{VARIANT}"
    assert f"{root}/engines.json" in objects(store)
    assert all(key.startswith(root) and "onnx" not in key for key in objects(store))
    again = job("build", H100, never, "another")
    assert (again.exit_code, "were there already" in again.output) == (0, True)

    fetched = job("fetch")
    assert fetched.exit_code == 0, fetched.output
    shown = tmp_path / "one/triton"
    assert {path.name for path in shown.iterdir()} == NETWORKS
    for name in NETWORKS:
        plan = tmp_path / "one/repository/diorama" / name / "1/model.plan"
        assert (shown / name / "1/model.plan").read_bytes() == plan.read_bytes()


def test_each_gpu_tensorrt_and_variant_has_its_own(job: Job, store: S3Store, model: ModelUri) -> None:
    newer = Machine(H100.gpu, H100.compute_capability, "10.6.0")
    for number, here in enumerate((H100, L4, newer)):
        assert "built and published" in job("build", here, None, str(number)).output
    assert "built and published" in job("build", H100, None, "half", "--dtype", "float16").output
    kinds = [(one.gpu, one.tensorrt, one.variant) for one in engines_of(store, model)]
    assert len(kinds) == len(set(kinds)) == 4


def test_of_two_jobs_at_once_one_counts_and_nothing_is_left_of_the_other(
    job: Job, store: S3Store, model: ModelUri, tmp_path: Path
) -> None:
    """The second Job begins and ends while the first builds."""
    inner: list[Result] = []
    slow = standing_in(H100, meanwhile=lambda: inner.append(job("build", H100, None, "quick")))
    outer = job("build", H100, slow, "slow")
    assert (outer.exit_code, inner[0].exit_code) == (0, 0)
    assert "built and published" in inner[0].output
    assert "another Job was first" in outer.output
    record = find_engines(store, EngineKey(model, H100.gpu, H100.tensorrt, VARIANT))
    assert record is not None
    assert objects(store) == objects(store, record.files.prefix) | {f"{record.key.root}/engines.json"}
    assert job("fetch").exit_code == 0
    plan = "diorama_transformer/1/model.plan"
    assert (tmp_path / "one/triton" / plan).read_bytes() == (tmp_path / "quick/repository/diorama" / plan).read_bytes()


def test_a_build_for_another_gpu_is_not_published(job: Job, store: S3Store) -> None:
    result = job("build", H100, standing_in(L4))
    assert result.exit_code == 1
    assert all(part in result.output for part in (str(H100), str(L4)))
    assert objects(store) == set()


def test_what_builds_nothing_and_what_fails_is_not_published(job: Job, store: S3Store) -> None:
    def fails(*_: object, **__: object) -> None:
        raise EngineError("TensorRT does not take model.onnx: as asked")

    assert "does not take model.onnx" in job("build", H100, fails).output
    nothing = job("build", H100, lambda *_, **__: None)
    assert (nothing.exit_code, "no network for Triton" in nothing.output) == (1, True)
    assert objects(store) == set()


def test_engines_of_another_gpu_are_not_fetched_and_what_is_there_is_said(job: Job, tmp_path: Path) -> None:
    job("build", H100)
    result = job("fetch", L4, None, "one", "--deadline-seconds", "0.1")
    assert result.exit_code == 3
    assert "no engines of s3://" in result.output
    assert all(part in result.output for part in ("for NVIDIA L4", "It has: NVIDIA H100", "--build-engines"))
    assert not (tmp_path / "one/triton").exists()


def test_engines_that_lie_under_a_wrong_key_are_refused(job: Job, store: S3Store, model: ModelUri) -> None:
    """Whoever may write to the bucket copies them there: the record says another GPU, and so do the manifests."""
    job("build", H100)
    right = find_engines(store, EngineKey(model, H100.gpu, H100.tensorrt, VARIANT))
    assert right is not None
    wrong = EngineKey(model, L4.gpu, L4.tensorrt, VARIANT)
    store.put(f"{wrong.root}/engines.json", right.model_dump_json().encode(), "application/json")
    result = job("fetch", L4)
    assert (result.exit_code, "delete this object" in result.output) == (1, True)

    claims = right.model_copy(update={"gpu": L4.gpu, "compute_capability": L4.compute_capability})
    for key in objects(store, right.files.prefix):
        data = b"".join(store.stream(Ref(store.uri_of(key), "", 1 << 20, "")))
        store.put(key.replace(right.key.root, wrong.root), data, "application/octet-stream")
    store.put(f"{wrong.root}/engines.json", claims.model_dump_json().encode(), "application/json")
    result = job("fetch", L4)
    assert result.exit_code == 1
    assert all(part in result.output for part in ("was built for NVIDIA H100", "here is NVIDIA L4"))


def test_a_pod_waits_for_engines_that_are_being_built(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks again; what it saw first was an empty store."""
    monkeypatch.setattr(engine_job.time, "sleep", lambda _: job("build", H100, None, "job"))
    result = job("fetch", H100, None, "pod", "--deadline-seconds", "60")
    assert result.exit_code == 0, result.output


def test_a_store_that_is_away_for_a_while_costs_no_build(job: Job, forwarder: Forwarder) -> None:
    """Away from when the build begins; back while it is being published."""
    builds = 0

    def goes_away() -> None:
        nonlocal builds
        builds += 1
        forwarder.broken = b""
        Timer(1.0, lambda: setattr(forwarder, "broken", None)).start()

    endpoint = f"127.0.0.1:{forwarder.port}"
    result = job("build", H100, standing_in(H100, goes_away), "one", endpoint=endpoint)
    assert (result.exit_code, builds) == (0, 1), result.output
    assert "built and published" in result.output


def test_a_store_that_stays_away_is_another_exit_code(job: Job, forwarder: Forwarder) -> None:
    forwarder.broken = b""
    endpoint = f"127.0.0.1:{forwarder.port}"
    for what in ("build", "fetch"):
        result = job(what, H100, never, "one", "--deadline-seconds", "0.1", endpoint=endpoint)
        assert (result.exit_code, "STORE" in result.output or "cannot be used now" in result.output) == (3, True)


def test_a_record_that_is_none_is_said(job: Job, store: S3Store, model: ModelUri) -> None:
    key = EngineKey(model, H100.gpu, H100.tensorrt, VARIANT)
    store.put(f"{key.root}/engines.json", json.dumps({"format": 2}).encode(), "application/json")
    result = job("build", H100, never)
    assert (result.exit_code, "no record of engines" in result.output) == (1, True)


def test_a_wrong_uri_is_said(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["build", "s3://bucket/diorama", "--work", str(tmp_path)])
    assert (result.exit_code, "s3://bucket/models/name/revision" in result.output) == (2, True)


def test_without_a_gpu_it_says_so(job: Job, s3_server: S3Server, model: ModelUri, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["build", str(model), "--work", str(tmp_path)])
    assert (result.exit_code, "here is none" in result.output) == (1, True)
