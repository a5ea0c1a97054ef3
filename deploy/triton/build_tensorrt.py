"""Model repositories for Triton's `tensorrt` backend: ONNX, then an engine for the GPU of this machine."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tritonclient.grpc.model_config_pb2 import ModelConfig

from deploy.triton.config import Instances, model_config, to_text
from deploy.triton.engine import (
    EngineError,
    EngineMismatchError,
    Machine,
    Manifest,
    Trt,
    compile_engine,
    hash_of,
    profiles,
)
from deploy.triton.float8 import quantised
from deploy.triton.onnx_export import compare, example_inputs, export
from deploy.triton.repository import emptied, read_card, read_config
from libs.catalog import ModelCard
from libs.families.networks import NETWORKS, Network, network_named

if TYPE_CHECKING:
    from deploy.triton.calibration import Calibration

__all__ = ["FLOAT8", "MOST_ONNX_ERROR", "build_tensorrt", "check_repository", "remove_exports", "this_machine"]

MOST_ONNX_ERROR = 1e-3
"""In standard deviations of the output, in float32. More is another network, not rounding."""
FLOAT8 = "float8"
"""As `dtype`: the Linear layers of transformers in E4M3, all else in bfloat16."""
LEAST_FLOAT8 = (8, 9)
"""Compute capability of the first GPUs that multiply in it: Ada, then Hopper."""
PLAN, CACHE, MANIFEST = "model.plan", "timing.cache", "manifest.json"
ONNX, GRAPH = "onnx", "model.onnx"
EXAMPLE = {"latent_frames": 3, "latent_height": 4, "latent_width": 6, "video_tokens": 72}
OTHER = {"latent_frames": 5, "latent_height": 6, "latent_width": 2, "video_tokens": 60}
OTHER_ROWS, OTHER_TEXT = 3, 5
"""The export is checked at sizes it was not traced with: a dimension that a trace has fixed shows at these only."""


def build_tensorrt(
    model_dir: Path,
    repository: Path,
    *,
    dtype: str = "bfloat16",
    instances: int = 1,
    networks: Sequence[str] = (),
    export_only: bool = False,
) -> list[Path]:
    """One folder a network. ``export_only`` needs no GPU: everything but plan and timing cache.

    An engine that is there, built from the same ONNX and profiles for this machine, is kept; a timing cache is used
    again.
    ``dtype``: a float of torch, or "float8", for which a few videos are made first. Raises EngineError.
    """
    card = read_card(model_dir)
    trt, here = (None, None) if export_only else (load_tensorrt(), this_machine())
    if dtype == FLOAT8 and here is not None:
        expect_float8(here)
    names = networks or tuple(NETWORKS[card.family])
    seen = _calibrated(card) if dtype == FLOAT8 else None
    return [
        _build(card, name, network_named(card.family, name), repository, dtype, instances, trt, here, seen)
        for name in names
    ]


def expect_float8(here: Machine) -> None:
    """Raises EngineError on a GPU that cannot multiply in float8."""
    if tuple(map(int, here.compute_capability.split("."))) < LEAST_FLOAT8:
        raise EngineError(
            f"float8 needs compute capability 8.9 (Ada, Hopper or newer), and here is {here}: use --dtype bfloat16"
        )


def check_repository(repository: Path, here: Machine) -> None:
    """Raises EngineMismatchError for the first engine that is not for this machine. Run it before tritonserver."""
    for manifest in sorted(repository.glob(f"*/1/{MANIFEST}")):
        Manifest.read(manifest).check(manifest.parent, here)


def remove_exports(repository: Path) -> None:
    """Leaves what Triton reads: the ONNX is as large as the engine again. A later build here begins with its export."""
    for path in sorted(repository.glob(f"*/1/{MANIFEST}")):
        shutil.rmtree(path.parent / ONNX, ignore_errors=True)
        manifest = Manifest.read(path)
        files = {name: digest for name, digest in manifest.files.items() if not name.startswith(f"{ONNX}/")}
        replace(manifest, files=files).write(path)


def load_tensorrt() -> Trt:
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        raise EngineError(
            f"TensorRT is not here ({error}): run this in nvcr.io/nvidia/tritonserver, whose version must be the one "
            "that serves, or only export with --export-only"
        ) from error


def this_machine() -> Machine:
    if not torch.cuda.is_available():
        raise EngineError(
            "an engine is built on the GPU that is to run it, and here is none: go there, or use --export-only"
        )
    major, minor = torch.cuda.get_device_capability()
    return Machine(torch.cuda.get_device_name(), f"{major}.{minor}", str(load_tensorrt().__version__))


def _calibrated(card: ModelCard) -> Calibration:
    """Imports what runs a model's stages only here: where engines are fetched, or built in other types, it may lack."""
    try:
        from deploy.triton.calibration import calibrate

        return calibrate(card)
    except ImportError as error:
        raise EngineError(
            f"float8 makes a few videos first, and for that {error.name} is missing: pip install "
            "'.[triton,encoder,denoiser]'"
        ) from error


def _build(
    card: ModelCard,
    name: str,
    network: Network,
    repository: Path,
    dtype: str,
    instances: int,
    trt: Trt | None,
    here: Machine | None,
    seen: Calibration | None,
) -> Path:
    config = read_config(card, network)
    ranges = seen.ranges.get(name) if seen else None
    dtype = _works_in(network, dtype, is_quantised=ranges is not None)
    tuned = profiles(card, network, config)
    written = model_config(
        card, name, network, config, instances=Instances(instances, "gpu"), probe=_least(card), parameters={}
    )
    written.platform = "tensorrt_plan"
    written.default_model_filename = PLAN
    written.instance_group[0].profile.extend(str(index) for index in range(len(tuned)))
    folder: Path = repository / written.name
    with tempfile.TemporaryDirectory() as temporary:
        # A folder, because weights beyond 2 GB lie in files beside the graph.
        exported = Path(temporary) / ONNX
        exported.mkdir()
        error, float8_error = _export(card, network, config, exported / GRAPH, dtype, ranges)
        if here is not None and _is_built(folder / "1", _hashes(exported), _as_lists(tuned), here):
            _write_config(written, folder)  # the number of instances may be another
            return folder
        old_cache = folder / "1" / CACHE
        cache = old_cache.read_bytes() if old_cache.is_file() else b""
        version = emptied(folder) / "1"
        shutil.copytree(exported, version / ONNX)
    quantisation = seen.quantisation(card, name, float8_error) if seen and ranges else None
    hashes = _hashes(version / ONNX)
    manifest = Manifest(name, card.family, dtype, error, _as_lists(tuned), hashes, None, quantisation)
    if here is not None:
        engine = compile_engine(trt, version / ONNX / GRAPH, tuned, cache)
        (version / PLAN).write_bytes(engine.plan)
        (version / CACHE).write_bytes(engine.timing_cache)
        built = {file: hash_of(version / file) for file in (PLAN, CACHE)}
        manifest = replace(manifest, files=manifest.files | built, machine=here)
    manifest.write(version / MANIFEST)
    _write_config(written, folder)
    return folder


def _write_config(written: ModelConfig, folder: Path) -> None:
    (folder / "config.pbtxt").write_text(to_text(written), encoding="utf-8")


def _least(card: ModelCard) -> tuple[int, int, int]:
    """Width, height and frames: an engine takes nothing that no profile has."""
    limits = card.limits
    width, height = min(limits.sizes, key=lambda size: size[0] * size[1])
    return width, height, round(limits.min_duration_seconds * min(limits.fps))


def _hashes(onnx: Path) -> dict[str, str]:
    return {f"{ONNX}/{file.name}": hash_of(file) for file in sorted(onnx.iterdir())}


def _works_in(network: Network, dtype: str, *, is_quantised: bool) -> str:
    if network.keeps_float32:
        return "float32"
    return "bfloat16" if dtype == FLOAT8 and not is_quantised else dtype


def _export(
    card: ModelCard,
    network: Network,
    config: dict[str, Any],
    onnx: Path,
    dtype: str,
    ranges: Mapping[str, float] | None,
) -> tuple[float, float]:
    """Writes ``onnx``; returns how far the same export in float32 is from torch, without and with float8 layers."""
    module = network.load(card.path)
    inputs = example_inputs(network, config, {**EXAMPLE, **dict.fromkeys(network.texts, 9)})

    def checked() -> float:
        export(network, module, onnx, inputs, torch.float32)
        others = example_inputs(network, config, {**OTHER, **dict.fromkeys(network.texts, OTHER_TEXT)}, OTHER_ROWS)
        error = compare(network, module, onnx, others, torch.float32)
        if error > MOST_ONNX_ERROR:
            raise EngineError(
                f"the ONNX of {card.name} {network.subfolder} differs from torch by {error:.2g} deviations"
            )
        return error

    error = float8_error = checked()
    if ranges is not None:
        quantised(module, ranges)
        float8_error = checked()
    if dtype != "float32":
        export(network, module, onnx, inputs, torch.bfloat16 if dtype == FLOAT8 else getattr(torch, dtype))
    return error, float8_error


def _is_built(version: Path, onnx: dict[str, str], tuned: list[dict[str, list[list[int]]]], here: Machine) -> bool:
    """From this very ONNX, for the sizes and lengths that the model declares now, for this machine."""
    if not (version / MANIFEST).is_file():
        return False
    manifest = Manifest.read(version / MANIFEST)
    try:
        manifest.check(version, here)
    except EngineMismatchError:
        return False
    return onnx.items() <= manifest.files.items() and manifest.profiles == tuned


def _as_lists(tuned: Sequence[Any]) -> list[dict[str, list[list[int]]]]:
    return [{name: [list(point) for point in points] for name, points in shapes.items()} for shapes in tuned]
