"""config.pbtxt of one network. What a client sees of it is the same for every backend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup, ModelQueuePolicy

from libs.catalog import ModelCard
from libs.families.lora_inputs import ROW_BYTES
from libs.families.networks import Dim, FromConfig, Network, TensorSpec, shape_of

__all__ = ["MAX_ROWS", "Instances", "add_lora_inputs", "model_config", "to_text"]

MAX_ROWS = 8
"""Of one batch: with guidance a step of one video has two."""
PREFERRED_ROWS = (8, 4, 2)
PRIORITIES = 3
"""1 INTERACTIVE, 2 STANDARD, 3 BATCH."""
DEFAULT_PRIORITY = 2
MAX_QUEUED = 64
QUEUE_SECONDS = 60
"""The longest a call may wait; the client's own deadline only shortens it."""
WIRE_TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}


@dataclass(frozen=True)
class Instances:
    """How many copies of the network, and on what: "cpu" or "gpu"."""

    count: int = 1
    device: str = "cpu"


def model_config(
    card: ModelCard,
    name: str,
    network: Network,
    config: Mapping[str, Any],
    *,
    instances: Instances,
    probe: tuple[int, int, int],
    parameters: Mapping[str, str],
) -> ModelConfig:
    """``config``: the network's own config.json. ``probe``: width, height and frames of what readiness is asked with.

    The caller sets the backend or platform.
    """
    made = ModelConfig(name=f"{card.name}_{name}", max_batch_size=MAX_ROWS)
    for spec in network.inputs:
        made.input.add(name=spec.name, data_type=_wire_type(spec), dims=_dims(spec, config))
    for spec in network.outputs:
        made.output.add(name=spec.name, data_type=_wire_type(spec), dims=_dims(spec, config))
    _set_queue(made)
    kind = ModelInstanceGroup.KIND_GPU if instances.device == "gpu" else ModelInstanceGroup.KIND_CPU
    made.instance_group.add(count=instances.count, kind=kind)
    for key, value in {**parameters, "probe": json.dumps(_shapes(network, config, *probe))}.items():
        made.parameters[key].string_value = value
    return made


def add_lora_inputs(made: ModelConfig) -> None:
    """For a backend that can change weights. Of another one Triton refuses calls with these inputs."""
    for name, length in ROW_BYTES.items():
        made.input.add(name=name, data_type=DataType.Value("TYPE_UINT8"), dims=[length or -1], optional=True)


def to_text(config: ModelConfig) -> str:
    text: str = text_format.MessageToString(config)
    return text


def _set_queue(made: ModelConfig) -> None:
    """Bounds against a caller who never stops, not an order of work: that is the denoiser's.

    Policy and priority levels cost half a second of waiting now and then (measured, 2.51.0: 1 to 5 of 100 calls of
    5 ms, one after the other as well as four at once; without both none of 600). A queue delay was not seen to help:
    there is none.
    They are kept for priorities, and since without a policy a cancelled call that waits is run.
    """
    batching = made.dynamic_batching
    batching.preferred_batch_size.extend(PREFERRED_ROWS)
    batching.priority_levels = PRIORITIES
    batching.default_priority_level = DEFAULT_PRIORITY
    policy = batching.default_queue_policy
    policy.timeout_action = ModelQueuePolicy.REJECT
    policy.default_timeout_microseconds = QUEUE_SECONDS * 1_000_000
    policy.allow_timeout_override = True
    policy.max_queue_size = MAX_QUEUED


def _wire_type(spec: TensorSpec) -> int:
    number: int = DataType.Value(WIRE_TYPES[spec.dtype])
    return number


def _dims(spec: TensorSpec, config: Mapping[str, Any]) -> list[int]:
    """-1 for what differs from call to call."""
    return [_fixed(dim, config) for dim in spec.dims]


def _fixed(dim: Dim, config: Mapping[str, Any]) -> int:
    match dim:
        case FromConfig(name):
            return int(config[name])
        case int():
            return dim
        case _:
            return -1


def _shapes(
    network: Network, config: Mapping[str, Any], width: int, height: int, num_frames: int
) -> dict[str, list[int]]:
    """Of the inputs, without rows, with the shortest text."""
    least = {name: numbers[0] for name, numbers in network.texts.items()}
    names = {**network.sizes(width, height, num_frames), **least}
    return {spec.name: list(shape_of(spec, names, config)) for spec in network.inputs}
