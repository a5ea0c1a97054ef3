"""Transformers with Linear layers in float8: rounding, calibration by the model's own videos, ONNX, and TensorRT."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from deploy.triton.build import main
from deploy.triton.build_tensorrt import MOST_ONNX_ERROR, expect_float8
from deploy.triton.calibration import calibrate
from deploy.triton.engine import EngineError, Manifest, compile_engine
from deploy.triton.float8 import LARGEST, Float8Linear, chosen_layers
from deploy.triton.repository import read_card
from deploy.triton.wheel import SUPPORTED
from libs.families.networks import NETWORKS, cast
from tests.support.engines import H100, L4
from tests.support.exports import exported
from tests.support.tensorrt_rtx import load_tensorrt_rtx
from tests.support.tiny_families import TINY, write_tiny

CASES = [
    ("diorama", "transformer"),
    ("diorama", "transformer_2"),
    ("ltx", "transformer"),
    ("wan22-t2v", "transformer"),
    ("wan22-5b", "transformer"),
    ("ltx2", "transformer"),
    ("hunyuan15-t2v", "transformer"),
]
LEADS_NOWHERE = {"hunyuan15-t2v": ("attn.to_add_out", "ff_context.net.0.proj", "ff_context.net.2")}
"""What the last block makes of the text: no output depends on it, so that a trace leaves it out."""
A100 = replace(H100, gpu="NVIDIA A100-SXM4-80GB", compute_capability="8.0")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repository")


def nodes_before(graph: Any, name: str) -> Any:
    """The node that makes the tensor ``name``, through what only moves it."""
    makers = {output: node for node in graph.node for output in node.output}
    node = makers[name]
    return nodes_before(graph, node.input[0]) if node.op_type in ("Transpose", "Identity") else node


def test_a_layer_rounds_weights_and_inputs_to_what_float8_has() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(32, 8)
    states = torch.randn(5, 32)
    layer = Float8Linear(linear, float(states.abs().max()))
    for scale in (layer.input_scale, layer.weight_scale):
        assert torch.log2(scale) == torch.log2(scale).round(), "exact in every type"
    error = (layer(states) - linear(states)).square().mean().sqrt() / linear(states).std()
    assert 0.005 < error < 0.08
    assert layer.weight.dtype == torch.float8_e4m3fn


def test_what_is_beyond_the_range_is_cut_off_and_not_nan() -> None:
    layer = Float8Linear(nn.Linear(1, 1, bias=False), 1.0)
    most = LARGEST * layer.input_scale
    assert 1.0 <= most < 2.0
    assert torch.equal(layer(torch.tensor([[1e6]])), layer(most.reshape(1, 1)))


def test_float8_weights_stay_when_the_rest_is_cast() -> None:
    layer = cast(Float8Linear(nn.Linear(4, 4), 1.0), torch.bfloat16)
    assert (layer.weight.dtype, layer.bias.dtype, layer.input_scale.dtype) == (
        torch.float8_e4m3fn,
        torch.bfloat16,
        torch.bfloat16,
    )


@pytest.mark.parametrize("model", [model for model, _ in CASES if model != "diorama"])
def test_the_chosen_layers_are_those_of_attention_and_feed_forward(models: Path, model: str) -> None:
    folder = models / model if (models / model).exists() else write_tiny(models, model)
    module = NETWORKS[TINY[model][0]]["transformer"].load(folder)
    chosen = chosen_layers(module)
    assert any("attn" in name for name in chosen)
    assert any("ff" in name for name in chosen)
    left = [name for name, part in module.named_modules() if isinstance(part, nn.Linear) and name not in chosen]
    words = ("embed", "proj", "time", "norm", "scale_shift", "gate")
    assert all(any(word in name for word in words) for name in left), left
    assert not any(word in name for name in chosen for word in ("embed", "norm", "time", "proj_out", "proj_in"))


@pytest.mark.parametrize(("model", "name"), CASES)
def test_what_is_exported_has_its_layers_in_float8(models: Path, repository: Path, model: str, name: str) -> None:
    """Both operands of each chosen layer come out of DequantizeLinear; weights are stored in one byte."""
    version = exported(models, repository, model, name, dtype="float8")
    manifest = Manifest.read(version / "manifest.json")
    assert manifest.dtype == "float8"
    assert manifest.quantisation is not None
    assert 0 <= manifest.quantisation.onnx_error < MOST_ONNX_ERROR
    assert 0 < manifest.quantisation.bfloat16_error < manifest.quantisation.float8_error < 0.5
    graph = onnx.load(version / "onnx" / "model.onnx").graph
    layers = [layer for layer in manifest.quantisation.ranges if not layer.endswith(LEADS_NOWHERE.get(model, ()))]
    rounds = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(rounds) == len(layers)
    stored = {weight.name for weight in graph.initializer if weight.data_type == onnx.TensorProto.FLOAT8E4M3FN}
    products = 0
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        try:
            one, other = (nodes_before(graph, given) for given in node.input[:2])
        except KeyError:  # a weight itself
            continue
        if other.op_type == "DequantizeLinear":
            assert one.op_type == "DequantizeLinear"
            assert nodes_before(graph, one.input[0]).op_type == "QuantizeLinear"
            assert other.input[0] in stored
            products += 1
    assert products == len(layers)


def test_decoders_are_not_in_float8(models: Path, repository: Path) -> None:
    manifest = Manifest.read(exported(models, repository, "ltx", "vae_decoder", dtype="float8") / "manifest.json")
    assert (manifest.dtype, manifest.quantisation) == ("bfloat16", None)


@pytest.fixture(scope="module")
def trt() -> Any:
    if not SUPPORTED:
        pytest.skip("TensorRT-RTX's wheel is for x86-64 Linux")
    return load_tensorrt_rtx()


@pytest.mark.parametrize(("model", "name"), CASES)
def test_what_is_exported_compiles_for_ada_with_its_profiles(
    models: Path, repository: Path, trt: Any, model: str, name: str
) -> None:
    version = exported(models, repository, model, name, dtype="float8")
    profiles = json.loads((version / "manifest.json").read_text())["profiles"]
    assert len(compile_engine(trt, version / "onnx" / "model.onnx", profiles, target="SM89").plan) > 10_000


def test_it_does_not_compile_for_an_older_gpu(models: Path, repository: Path, trt: Any) -> None:
    version = exported(models, repository, "ltx", "transformer", dtype="float8")
    profiles = json.loads((version / "manifest.json").read_text())["profiles"]
    with pytest.raises(EngineError, match="could not build"):
        compile_engine(trt, version / "onnx" / "model.onnx", profiles, target="SM86")


def test_a_gpu_that_has_no_float8_is_refused() -> None:
    for here in (H100, L4, replace(H100, compute_capability="10.0")):
        expect_float8(here)
    for here in (A100, replace(A100, compute_capability="8.6")):
        with pytest.raises(EngineError, match=r"8\.9 .*--dtype bfloat16"):
            expect_float8(here)


def test_a_layer_that_no_video_called_is_an_error(models: Path) -> None:
    folder = models / "ltx" if (models / "ltx").exists() else write_tiny(models, "ltx")
    with pytest.raises(EngineError, match="no video that calibration made called transformer_blocks"):
        calibrate(read_card(folder), prompts=[])


def test_the_python_backend_has_no_float8(models: Path, tmp_path: Path) -> None:
    folder = models / "ltx" if (models / "ltx").exists() else write_tiny(models, "ltx")
    result = CliRunner().invoke(main, ["--model", str(folder), "--repository", str(tmp_path), "--dtype", "float8"])
    assert result.exit_code == 2
    assert "--backend tensorrt" in result.output
