"""What the denoise loop costs with its transformer on a real tritonserver here, over the same in one process.

Contenders take turns within each round, so that a change of the machine's load hits all of them; the ratios are medians
over the rounds. Before anything is timed the contenders' latents are compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from bench.denoise import (
    FAMILY,
    FPS,
    GUIDANCE,
    NUM_FRAMES,
    PROMPT,
    SIZE,
    STEPS,
    Contender,
    Tensors,
    _differences,
    _rounds,
)
from bench.options import Options
from bench.results import Figure, Results
from deploy.triton.build_python import PythonOptions, build_python
from deploy.triton.server import running_tritonserver
from libs.families import load_denoise, load_encode, load_remote_transformers, use_threads
from libs.families.modular import Module
from libs.families.table import family_named
from libs.triton import TritonOptions, triton_in_thread

CALL_SECONDS = 600.0


def run(options: Options) -> Results:
    use_threads(options.threads)
    model_dir, steps = options.models / FAMILY, options.steps or STEPS
    conditioning = load_encode(model_dir, FAMILY)(PROMPT, "", None, SIZE, SIZE, NUM_FRAMES)
    with _transformers(model_dir) as transformers:
        contenders = {
            name: _contender(model_dir, experts, conditioning, steps, options.seed)
            for name, experts in transformers.items()
        }
        differences = _differences({"bare": contenders["in_process"], **contenders})
        seconds = _rounds(contenders, options.rounds)
    return Results(_figures(seconds, steps), {"steps": steps, "seconds": seconds, "differences": differences})


class TwoCalls(nn.Module):
    """Guidance as diffusers' stock loops have it: the prompt's row, then the negative prompt's."""

    def __init__(self, inner: Module) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, **inputs: object) -> tuple[torch.Tensor]:
        hidden_states = inputs["hidden_states"]
        assert isinstance(hidden_states, torch.Tensor)
        rows = range(len(hidden_states))
        outputs = [self.inner(**{name: _row(value, row) for name, value in inputs.items()})[0] for row in rows]
        return (torch.cat(outputs),)


def _row(value: object, row: int) -> object:
    return value[row : row + 1] if isinstance(value, torch.Tensor) else value


@contextmanager
def _transformers(model_dir: Path) -> Iterator[dict[str, Mapping[str, nn.Module]]]:
    """By contender. The server has as many threads as this process."""
    with tempfile.TemporaryDirectory(prefix="soundstage-bench-") as folder:
        repository = Path(folder) / "repository"
        build_python(
            model_dir,
            repository,
            PythonOptions(threads=torch.get_num_threads()),
            tuple(family_named(FAMILY).transformers),
        )
        memory, grpc = (TritonOptions(CALL_SECONDS, shared_memory=shared) for shared in (True, False))
        with (
            running_tritonserver(repository, Path(folder)) as server,
            triton_in_thread([server.address], memory) as through_memory,
            triton_in_thread([server.address], grpc) as through_grpc,
        ):
            shared = load_remote_transformers(model_dir, FAMILY, through_memory.infer)
            yield {
                "in_process": {},
                "triton": shared,
                "triton_grpc": load_remote_transformers(model_dir, FAMILY, through_grpc.infer),
                "triton_two_calls": {name: TwoCalls(transformer) for name, transformer in shared.items()},
            }


def _contender(
    model_dir: Path, transformers: Mapping[str, nn.Module], conditioning: Tensors, steps: int, seed: int
) -> Contender:
    denoise = load_denoise(model_dir, FAMILY, transformers)
    return lambda: denoise(
        conditioning,
        width=SIZE,
        height=SIZE,
        num_frames=NUM_FRAMES,
        fps=FPS,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        seed=seed,
        preview_every_steps=0,
        on_step=lambda _: None,
    )["latents"]


def _figures(seconds: Mapping[str, list[float]], steps: int) -> list[Figure]:
    def ratio(name: str, other: str) -> float:
        return median(np.divide(seconds[name], seconds[other]))

    return [
        Figure("triton_over_in_process", ratio("triton", "in_process"), "ratio", "≤ 1.03"),
        Figure("shared_memory_over_grpc", ratio("triton", "triton_grpc"), "ratio"),
        Figure("batched_guidance_over_two_calls", ratio("triton", "triton_two_calls"), "ratio"),
        *(Figure(f"{name}.step", median(values) / steps, "s") for name, values in seconds.items()),
    ]
