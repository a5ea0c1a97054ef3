"""Model repositories: the same for both backends in all that a client sees; ONNX, profiles, manifests and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from deploy.triton import build_tensorrt as builder
from deploy.triton.build import main
from deploy.triton.build_python import build_python
from deploy.triton.build_tensorrt import MOST_ONNX_ERROR, build_tensorrt, check_repository
from deploy.triton.engine import Engine, EngineError, EngineMismatchError, Machine, Manifest, compile_engine, hash_of
from deploy.triton.wheel import SUPPORTED
from libs.families.networks import NETWORKS
from tests.support.tensorrt_rtx import load_tensorrt_rtx
from tests.support.tiny_diorama import write_tiny_diorama

H100 = Machine("NVIDIA H100 80GB HBM3", "9.0", "11.4.0")
SEEN_BY_CLIENTS = ("name", "max_batch_size", "input", "output", "dynamic_batching")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_diorama(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("tensorrt")
    build_tensorrt(model, repository, dtype="bfloat16", export_only=True)
    return repository


def config_of(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())


def test_a_client_sees_no_difference_between_the_backends(model: Path, exported: Path, tmp_path: Path) -> None:
    """Names, types, shapes, batching, priority levels, limits of the queue and timeouts."""
    folders = build_python(model, tmp_path)
    assert [folder.name for folder in folders] == [f"diorama_{name}" for name in NETWORKS["diorama"]]
    for folder in folders:
        python, tensorrt = config_of(folder), config_of(exported / folder.name)
        assert [(tensor.name, tuple(tensor.dims)) for tensor in python.input if tensor.optional] == (
            [] if folder.name.endswith("decoder") else [("lora", (48,)), ("lora_file", (-1,))]
        ), "no engine can change its weights"
        del python.input[len(tensorrt.input) :]
        for part in SEEN_BY_CLIENTS:
            assert getattr(python, part) == getattr(tensorrt, part), (folder.name, part)
        for config in (python, tensorrt):
            shapes = json.loads(config.parameters["probe"].string_value)
            assert set(shapes) == {tensor.name for tensor in config.input}
        assert (python.backend, tensorrt.platform) == ("python", "tensorrt_plan")
        batching = tensorrt.dynamic_batching
        assert (batching.priority_levels, batching.default_priority_level) == (3, 2)
        assert batching.max_queue_delay_microseconds == 0, "a call waits for no company that may not come"
        assert batching.default_queue_policy.max_queue_size > 0
        assert batching.default_queue_policy.default_timeout_microseconds > 0


@pytest.mark.parametrize("name", NETWORKS["diorama"])
def test_what_is_exported_equals_torch_and_keeps_free_dimensions(exported: Path, name: str) -> None:
    version = exported / f"diorama_{name}" / "1"
    manifest = Manifest.read(version / "manifest.json")
    assert 0 <= manifest.onnx_error < MOST_ONNX_ERROR
    graph = onnx.load(version / "onnx" / "model.onnx").graph
    for given in graph.input:
        dims = given.type.tensor_type.shape.dim
        assert dims[0].dim_param == "rows"
    (output,) = graph.output
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    free = [dim.dim_param for dim in graph.input[0].type.tensor_type.shape.dim if dim.dim_param]
    assert free == ["rows", "latent_frames", "latent_height", "latent_width"]
    kinds = {weight.data_type for weight in graph.initializer}
    works_in = onnx.TensorProto.FLOAT if name == "vae_decoder" else onnx.TensorProto.BFLOAT16
    assert works_in in kinds
    assert manifest.dtype == ("float32" if name == "vae_decoder" else "bfloat16")


def test_profiles_are_those_of_the_sizes_that_the_model_declares(exported: Path) -> None:
    """32x32, 64x64 and 64x32; 0.25 to 8 s at 12 frames a second, one second by default."""
    manifest = Manifest.read(exported / "diorama_transformer" / "1" / "manifest.json")
    shapes = [profile["hidden_states"] for profile in manifest.profiles]
    assert [[point[3:] for point in points] for points in shapes] == [[[2, 2]] * 3, [[4, 4]] * 3, [[2, 4]] * 3]
    assert [point[:1] + point[2:3] for point in shapes[0]] == [[1, 2], [2, 4], [8, 25]]
    assert manifest.profiles[0]["encoder_attention_mask"] == [[1, 1], [2, 16], [8, 128]]
    config = config_of(exported / "diorama_transformer")
    assert list(config.instance_group[0].profile) == ["0", "1", "2"]


@pytest.fixture(scope="module")
def trt() -> Any:
    if not SUPPORTED:
        pytest.skip("TensorRT-RTX's wheel is for x86-64 Linux")
    return load_tensorrt_rtx()


@pytest.mark.parametrize("name", NETWORKS["diorama"])
def test_what_is_exported_compiles_ahead_of_time_with_its_profiles(exported: Path, trt: Any, name: str) -> None:
    version = exported / f"diorama_{name}" / "1"
    manifest = json.loads((version / "manifest.json").read_text())
    engine = compile_engine(trt, version / "onnx" / "model.onnx", manifest["profiles"])
    assert len(engine.plan) > 10_000


def test_what_tensorrt_cannot_read_is_refused(trt: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"does not take bad\.onnx"):
        compile_engine(trt, tmp_path / "bad.onnx", [])


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A repository as one looks after a build on an H100."""
    version = tmp_path / "diorama_transformer" / "1"
    version.mkdir(parents=True)
    (version / "model.plan").write_bytes(b"plan")
    files = {"model.plan": hash_of(version / "model.plan")}
    Manifest("transformer", "diorama", "bfloat16", 1e-6, [], files, H100).write(version / "manifest.json")
    return tmp_path


def test_an_engine_for_this_machine_is_accepted(built: Path) -> None:
    check_repository(built, H100)


@pytest.mark.parametrize(
    "here",
    [
        replace(H100, gpu="NVIDIA L4", compute_capability="8.9"),
        replace(H100, gpu="NVIDIA H200"),
        replace(H100, tensorrt="11.5.0"),
    ],
)
def test_an_engine_for_another_machine_is_refused(built: Path, here: Machine) -> None:
    with pytest.raises(EngineMismatchError) as raised:
        check_repository(built, here)
    assert all(part in str(raised.value) for part in (str(H100), str(here), "--backend tensorrt"))


def test_an_altered_plan_is_refused(built: Path) -> None:
    (built / "diorama_transformer" / "1" / "model.plan").write_bytes(b"another")
    with pytest.raises(EngineMismatchError, match=r"model\.plan is not the file"):
        check_repository(built, H100)


def test_what_was_only_exported_is_no_engine(exported: Path) -> None:
    with pytest.raises(EngineMismatchError, match="holds no engine"):
        check_repository(exported, H100)


def test_an_engine_is_kept_only_for_what_it_was_tuned_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ONNX knows no sizes: a model that declares more of them needs another engine. Instances need none."""
    compiled: list[int] = []

    def compiles(_trt: Any, _onnx: Path, tuned: list[Any], _cache: bytes) -> Engine:
        compiled.append(len(tuned))
        return Engine(b"plan", b"cache")

    monkeypatch.setattr(builder, "load_tensorrt", lambda: None)
    monkeypatch.setattr(builder, "this_machine", lambda: H100)
    monkeypatch.setattr(builder, "compile_engine", compiles)
    model, repository = write_tiny_diorama(tmp_path / "models"), tmp_path / "repository"

    def build(instances: int) -> ModelConfig:
        (folder,) = build_tensorrt(model, repository, networks=["vae_decoder"], instances=instances)
        check_repository(repository, H100)
        return config_of(folder)

    assert build(1).instance_group[0].count == 1
    assert build(2).instance_group[0].count == 2
    assert compiled == [3]
    card = json.loads((model / "soundstage.json").read_text())
    card["limits"]["sizes"].append([32, 64])
    (model / "soundstage.json").write_text(json.dumps(card))
    assert list(build(2).instance_group[0].profile) == ["0", "1", "2", "3"]
    assert compiled == [3, 4]


def test_building_an_engine_here_says_what_is_missing(model: Path, tmp_path: Path) -> None:
    arguments = ["--model", str(model), "--repository", str(tmp_path), "--backend", "tensorrt"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "--export-only" in result.output
