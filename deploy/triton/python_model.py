"""Triton's `python` backend runs this file, as `<model>/1/model.py`: tensors go to `libs.families.served` and back.

Tensors cross as DLPack only: the backend's stub is built against numpy 1, and its numpy functions break with numpy 2
without a word.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TypeAlias

import triton_python_backend_utils as pb_utils

Request: TypeAlias = Any
"""`pb_utils.InferenceRequest`; the module has no types."""
Response: TypeAlias = Any


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        given = json.loads(args["model_config"])["parameters"]
        parameters = {key: value["string_value"] for key, value in given.items()}
        # The stub ignores PYTHONPATH.
        sys.path.insert(0, parameters["source"])
        from libs.families import use_threads
        from libs.families.served import ServedNetwork

        use_threads(int(parameters["threads"]))
        self._merge = parameters["merge"] == "true"
        device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
        self._network = ServedNetwork(
            Path(parameters["model_dir"]),
            parameters["family"],
            parameters["network"],
            device=device,
            dtype=parameters["dtype"],
            compiled=parameters["compile"] == "true",
        )

    def execute(self, requests: list[Request]) -> list[Response]:
        """One response a request, in order. A request that was cancelled while it waited is not run."""
        waiting = [request for request in requests if not request.is_cancelled()]
        answers = iter(self._together(waiting) if self._merge else [self._one(request) for request in waiting])
        cancelled = pb_utils.TritonError("cancelled while it waited", pb_utils.TritonError.CANCELLED)
        return [
            next(answers) if request in waiting else pb_utils.InferenceResponse(error=cancelled) for request in requests
        ]

    def _one(self, request: Request) -> Response:
        return _response(self._network(_inputs(request)))

    def _together(self, requests: list[Request]) -> list[Response]:
        """In one batch: Triton gives only requests of equal shapes together."""
        import torch

        given = [_inputs(request) for request in requests]
        if not given:
            return []
        rows = [len(next(iter(inputs.values()))) for inputs in given]
        outputs = self._network({name: torch.cat([inputs[name] for inputs in given]) for name in given[0]})
        parts = {name: torch.split(output, rows) for name, output in outputs.items()}
        return [_response({name: part[index] for name, part in parts.items()}) for index in range(len(requests))]


def _inputs(request: Request) -> dict[str, Any]:
    from torch.utils.dlpack import from_dlpack

    return {tensor.name(): from_dlpack(tensor.to_dlpack()) for tensor in request.inputs()}


def _response(outputs: dict[str, Any]) -> Response:
    tensors = [pb_utils.Tensor.from_dlpack(name, tensor.contiguous()) for name, tensor in outputs.items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)
