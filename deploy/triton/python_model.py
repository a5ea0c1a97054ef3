"""Triton's `python` backend runs this file, as `<model>/1/model.py`: tensors go to `libs.families.served` and back.

Tensors cross as DLPack only: the backend's stub is built against numpy 1, and its numpy functions break with numpy 2
without a word.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from libs.families.served import Answer

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
            loras_kept=int(parameters["loras_kept"]),
        )

    def execute(self, requests: list[Request]) -> list[Response]:
        """One response a request, in order. A request that was cancelled while it waited is not run."""
        waiting = [request for request in requests if not request.is_cancelled()]
        answers = iter(self._network.answers([_inputs(request) for request in waiting], merge=self._merge))
        cancelled = pb_utils.TritonError("cancelled while it waited", pb_utils.TritonError.CANCELLED)
        return [
            _response(next(answers)) if request in waiting else pb_utils.InferenceResponse(error=cancelled)
            for request in requests
        ]


def _inputs(request: Request) -> dict[str, Any]:
    from torch.utils.dlpack import from_dlpack

    return {tensor.name(): from_dlpack(tensor.to_dlpack()) for tensor in request.inputs()}


def _response(answer: Answer) -> Response:
    from libs.errors import FailedPrecondition
    from libs.errors.carried import to_text

    if isinstance(answer, FailedPrecondition):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(to_text(answer), pb_utils.TritonError.INVALID_ARG))
    tensors = [pb_utils.Tensor.from_dlpack(name, tensor.contiguous()) for name, tensor in answer.items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)
