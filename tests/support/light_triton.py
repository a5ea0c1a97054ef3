"""A real tritonserver with one light model, `light`, that needs no torch: it starts in a second or two."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.triton.server import Tritonserver, running_tritonserver
from libs.errors import FailedPrecondition
from libs.errors.carried import MORE_WANTED, to_text

__all__ = ["ASK", "CRASH", "GATE", "RAISE", "SLEEP", "SLEEP_SECONDS", "light_tritonserver", "metric", "order"]

CRASH, RAISE, SLEEP = 13, 14, 15
"""Lengths of a row at which the model's process ends; raises; answers after `SLEEP_SECONDS`. Others: at once."""
SLEEP_SECONDS = 2.0
ASK = 16
"""Asks for the input `more`, whose length is in `order`, too."""
GATE, GATE_SECONDS = 17, 120.0
"""Answers once the file `gate` of the server's folder is there. What began is read by `order`."""

_WANTED = to_text(FailedPrecondition("more is wanted", reason=MORE_WANTED))

# As `deploy.triton.config` writes it: without a policy the batcher overlooks that a call that waits was cancelled.
_CONFIG = """
backend: "python"
max_batch_size: 8
input { name: "given" data_type: TYPE_FP32 dims: -1 }
input { name: "more" data_type: TYPE_UINT8 dims: -1 optional: true }
output { name: "same" data_type: TYPE_FP32 dims: -1 }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching {
  preferred_batch_size: [8, 4, 2]
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy {
    default_timeout_microseconds: 60000000
    allow_timeout_override: true
    max_queue_size: 64
  }
}
parameters { key: "probe" value { string_value: '{"given": [2]}' } }
"""
_MODEL = f"""
import os, time
import triton_python_backend_utils as pb_utils

FOLDER = os.path.abspath(f"{{__file__}}/../../../..")

class TritonPythonModel:
    def execute(self, requests):
        return [self._one(request) for request in requests]

    def _one(self, request):
        given = pb_utils.get_input_tensor_by_name(request, "given")
        more = pb_utils.get_input_tensor_by_name(request, "more")
        length = given.shape()[-1]
        with open(f"{{FOLDER}}/order", "a") as order:
            order.write(f"{{length}}\\n" + (f"{{more.shape()[-1]}}\\n" if more else ""))
        if length == {ASK} and more is None:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError({_WANTED!r}, pb_utils.TritonError.INVALID_ARG))
        if length == {CRASH}:
            os._exit(1)
        if length == {RAISE}:
            raise ValueError("as asked")
        if length == {SLEEP}:
            time.sleep({SLEEP_SECONDS})
        until = time.monotonic() + {GATE_SECONDS}
        while length == {GATE} and not os.path.exists(f"{{FOLDER}}/gate") and time.monotonic() < until:
            time.sleep(0.02)
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("same", given.to_dlpack())])
"""


@contextmanager
def light_tritonserver(folder: Path) -> Iterator[Tritonserver]:
    """Not stopped gently: there is nothing to lose, and a gentle stop takes seconds."""
    model = folder / "repository" / "light"
    (model / "1").mkdir(parents=True, exist_ok=True)
    (model / "config.pbtxt").write_text(_CONFIG)
    (model / "1" / "model.py").write_text(_MODEL)
    with running_tritonserver(folder / "repository", folder, grace_seconds=0) as server:
        yield server


def metric(server: Tritonserver, name: str, **labels: str) -> float:
    """The sum over all series of ``name`` whose labels are these. A call is counted a moment after it was answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    series = [line for line in lines if line.startswith(name + "{") and all(part in line for part in wanted)]
    return sum(float(line.rpartition(" ")[2]) for line in series)


def order(server: Tritonserver) -> list[int]:
    """Lengths of all rows that the model began with, in order; those of the readiness probes too."""
    path = Path(server.process.log).parent / "order"
    return [int(length) for length in path.read_text().split()] if path.exists() else []
