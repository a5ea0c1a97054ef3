"""TensorRT engines: sizes they are tuned for, building them, and the manifest that says where they may run.

``trt`` below is NVIDIA's module: `tensorrt` where engines are built to be served; in tests
`tensorrt_rtx_bindings`, with the same functions, which compiles without a GPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

from deploy.triton.config import MAX_ROWS
from libs.catalog import ModelCard
from libs.families.networks import Network, shape_of

__all__ = [
    "Engine",
    "EngineError",
    "EngineMismatchError",
    "Machine",
    "Manifest",
    "Quantisation",
    "Shape",
    "compile_engine",
    "profiles",
]

Trt: TypeAlias = Any
"""NVIDIA's module; it has no types."""
Shape: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Rows and dimensions of an input: least, usual, most."""
USUAL_ROWS = 2
"""One video with guidance."""


class EngineError(Exception):
    """No engine came about; the message says why."""


class EngineMismatchError(EngineError):
    """An engine that is not for this machine, or a file that is not the one that was built."""


@dataclass(frozen=True)
class Machine:
    """What an engine is bound to."""

    gpu: str
    compute_capability: str
    """As "9.0"."""
    tensorrt: str

    def __str__(self) -> str:
        return f"{self.gpu} (compute capability {self.compute_capability}) with TensorRT {self.tensorrt}"


@dataclass(frozen=True)
class Engine:
    plan: bytes
    timing_cache: bytes


@dataclass(frozen=True)
class Quantisation:
    """Of layers in float8. Errors are in standard deviations of the output."""

    ranges: dict[str, float]
    """Layer -> largest absolute value that came in when the model made the videos of calibration."""
    onnx_error: float
    """Largest difference of the ONNX in float8 and float32 from torch that rounds alike."""
    bfloat16_error: float
    """RMS difference from float32 over the calls for a video that took no part in the ranges, in torch."""
    float8_error: float
    """The same with these layers in float8, the rest in bfloat16."""


@dataclass(frozen=True)
class Manifest:
    """Lies beside a plan. Hashes are SHA-256 of the files named."""

    network: str
    family: str
    dtype: str
    onnx_error: float
    """Largest difference of the ONNX from torch in float32, in standard deviations of the output."""
    profiles: list[dict[str, list[list[int]]]]
    files: dict[str, str]
    machine: Machine | None
    """None: exported only, no engine yet."""
    quantisation: Quantisation | None = None
    """None: no layer is in float8."""

    @classmethod
    def read(cls, path: Path) -> Self:
        fields = json.loads(path.read_text(encoding="utf-8"))
        quantisation = fields.get("quantisation")
        parts = {
            "machine": fields["machine"] and Machine(**fields["machine"]),
            "quantisation": quantisation and Quantisation(**quantisation),
        }
        return cls(**{**fields, **parts})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def check(self, folder: Path, here: Machine) -> None:
        """Raises EngineMismatchError unless ``folder`` holds the files that were built, for a machine like ``here``."""
        again = "build it anew with `python -m deploy.triton.build --backend tensorrt` on the GPU that is to run it"
        if self.machine is None:
            raise EngineMismatchError(f"{folder} holds no engine, only what one is built from: {again}")
        if self.machine != here:
            raise EngineMismatchError(f"{folder} was built for {self.machine}; here is {here}: {again}")
        for name, digest in self.files.items():
            if not (folder / name).is_file() or hash_of(folder / name) != digest:
                raise EngineMismatchError(f"{folder / name} is not the file that the manifest names: {again}")


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def profiles(card: ModelCard, network: Network, config: Mapping[str, Any]) -> list[dict[str, Shape]]:
    """One for each size of picture the model declares, from its shortest video to its longest."""
    return [_profile(card, network, config, width, height) for width, height in card.limits.sizes]


def _profile(card: ModelCard, network: Network, config: Mapping[str, Any], width: int, height: int) -> dict[str, Shape]:
    limits, defaults = card.limits, card.defaults
    frames = (
        round(limits.min_duration_seconds * min(limits.fps)),
        round(defaults.duration_seconds * defaults.fps),
        round(limits.max_duration_seconds * max(limits.fps)),
    )
    rows = (1, USUAL_ROWS, MAX_ROWS)
    points = []
    for index in range(3):
        texts = {name: numbers[index] for name, numbers in network.texts.items()}
        names = {**network.sizes(width, height, frames[index]), **texts}
        points.append({spec.name: (rows[index], *shape_of(spec, names, config)) for spec in network.inputs})
    least, usual, most = points
    return {spec.name: (least[spec.name], usual[spec.name], most[spec.name]) for spec in network.inputs}


def compile_engine(
    trt: Trt,
    onnx: Path,
    tuned: Sequence[Mapping[str, Shape]],
    timing_cache: bytes | None = None,
    target: str | None = None,
) -> Engine:
    """The plan for the GPU of this machine. Types are those of the ONNX: the network is strongly typed.

    ``timing_cache``: an earlier one, b"" for a new one; None keeps none (TensorRT-RTX has none: it tunes when it runs).
    ``target``: "SM89", for TensorRT-RTX alone: another GPU. Raises EngineError with what the parser says.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise EngineError(f"TensorRT does not take {onnx.name}: {errors}")
    config = builder.create_builder_config()
    for shapes in tuned:
        profile = builder.create_optimization_profile()
        for name, points in shapes.items():
            profile.set_shape(name, *points)
        config.add_optimization_profile(profile)
    if target is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    if timing_cache is not None:
        config.set_timing_cache(config.create_timing_cache(timing_cache), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT could not build {onnx.name}; its log above says why")
    return Engine(bytes(plan), bytes(config.get_timing_cache().serialize()) if timing_cache is not None else b"")
