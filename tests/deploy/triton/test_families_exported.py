"""Every family's networks with tiny random weights, as ONNX at sizes they were not traced with, and for TensorRT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from diffusers.models.transformers.transformer_ltx2 import LTX2AudioVideoRotaryPosEmbed, apply_split_rotary_emb

from deploy.triton.build_tensorrt import MOST_ONNX_ERROR
from deploy.triton.engine import Manifest, compile_engine
from deploy.triton.wheel import SUPPORTED
from libs.families.ltx2_networks import traced_power, traced_split_rotary
from libs.families.networks import NETWORKS, FromConfig, TensorSpec, cast
from tests.support.exports import exported
from tests.support.tensorrt_rtx import load_tensorrt_rtx
from tests.support.tiny_families import TINY, write_tiny

TWINS = {("hunyuan15-i2v", "vae_decoder"), ("wan22-i2v", "vae_decoder")} | {
    (model, "transformer_2") for model in ("wan22-t2v", "wan22-i2v")
}
"""The same network, of the same configuration, as one that is here: an export takes half a minute."""
CASES = [
    (model, name) for model, (family, *_) in TINY.items() for name in NETWORKS[family] if (model, name) not in TWINS
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repository")


def free_dimensions(spec: TensorSpec) -> int:
    return 1 + sum(not isinstance(dim, int | FromConfig) for dim in spec.dims)


def test_every_family_is_here() -> None:
    assert {family for family, *_ in TINY.values()} | {"diorama"} == set(NETWORKS)


@pytest.mark.parametrize(("model", "name"), CASES)
def test_what_is_exported_equals_torch_and_keeps_free_dimensions(
    models: Path, repository: Path, model: str, name: str
) -> None:
    version = exported(models, repository, model, name)
    manifest = Manifest.read(version / "manifest.json")
    assert 0 <= manifest.onnx_error < MOST_ONNX_ERROR / 10
    network = NETWORKS[TINY[model][0]][name]
    graph = onnx.load(version / "onnx" / "model.onnx").graph
    assert [given.name for given in graph.input] == [spec.name for spec in network.inputs]
    for given, spec in zip(graph.input, network.inputs, strict=True):
        free = [dim.dim_param for dim in given.type.tensor_type.shape.dim if dim.dim_param]
        assert len(free) == free_dimensions(spec), spec.name


@pytest.mark.parametrize("tokens", [1, 7])
def test_rotary_positions_of_ltx2_are_traced_as_diffusers_has_them(tokens: int) -> None:
    rotary = LTX2AudioVideoRotaryPosEmbed(dim=16, rope_type="split", num_attention_heads=2)
    coords, states = torch.rand(3, 3, tokens, 2) * 1000, torch.randn(3, tokens, 16)
    tables = rotary(coords)
    assert tables[0].shape == (3, 2, tokens, 4)
    expected = apply_split_rotary_emb(states, tables)
    torch.testing.assert_close(traced_split_rotary(states, tables), expected, rtol=0, atol=1e-6)
    exponents = torch.linspace(0, 1, 5, dtype=torch.float64)
    assert torch.equal(traced_power(10000.0, exponents), torch.pow(10000.0, exponents))


@pytest.fixture(scope="module")
def trt() -> Any:
    if not SUPPORTED:
        pytest.skip("TensorRT-RTX's wheel is for x86-64 Linux")
    return load_tensorrt_rtx()


@pytest.mark.parametrize(("model", "name"), CASES)
def test_what_is_exported_compiles_ahead_of_time_with_its_profiles(
    models: Path, repository: Path, trt: Any, model: str, name: str
) -> None:
    version = exported(models, repository, model, name)
    profiles = json.loads((version / "manifest.json").read_text())["profiles"]
    assert len(compile_engine(trt, version / "onnx" / "model.onnx", profiles).plan) > 10_000


def test_timestep_embeddings_of_wan_stay_in_float32(models: Path) -> None:
    folder = models / "wan22-5b" if (models / "wan22-5b").exists() else write_tiny(models, "wan22-5b")
    network = cast(NETWORKS["wan22-5b"]["transformer"].load(folder), torch.bfloat16)
    embedder = network.condition_embedder
    assert embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert embedder.time_proj.weight.dtype == torch.bfloat16
