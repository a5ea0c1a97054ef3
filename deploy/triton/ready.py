"""python -m deploy.triton.ready ADDRESS: exit code 0 when every model of a tritonserver answers a real inference.

Triton's own readiness stays true after a model's process has crashed (measured, 2.51.0), so nothing less will do. The
inputs are zeros, of the sizes that the builder wrote into each model's parameter `probe`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, model_config_pb2
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

__all__ = ["answers_inference"]

CALL_SECONDS = 60.0
ASK_SECONDS = 5.0


def answers_inference(address: str, *, timeout_seconds: float = CALL_SECONDS) -> bool:
    """False when it is away, when a model is not loaded, and when one fails or takes longer."""
    with InferenceServerClient(address) as client:
        try:
            if not client.is_server_ready(client_timeout=ASK_SECONDS):
                return False
            models = [model.name for model in client.get_model_repository_index(client_timeout=ASK_SECONDS).models]
            for model in models:
                config = client.get_model_config(model, client_timeout=ASK_SECONDS).config
                client.infer(model, _zeros(config), client_timeout=timeout_seconds)
        except (InferenceServerException, grpc.RpcError):
            return False
    return bool(models)


def _zeros(config: model_config_pb2.ModelConfig) -> list[InferInput]:
    shapes: dict[str, list[int]] = json.loads(config.parameters["probe"].string_value)
    return [_zero(tensor, [1, *shapes[tensor.name]]) for tensor in config.input if not tensor.optional]


def _zero(tensor: Any, shape: list[int]) -> InferInput:  # noqa: ANN401  # a message of stubs that have no types
    kind = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    given = InferInput(tensor.name, shape, kind)
    given.set_data_from_numpy(np.zeros(shape, triton_to_np_dtype(kind)))
    return given


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if not answers_inference(sys.argv[1]):
        sys.exit(f"{sys.argv[1]} does not answer an inference for each of its models")


if __name__ == "__main__":
    main()
