"""What our denoise stage costs over the same loop in a bare script on the same model, and what batched guidance saves.

Contenders take turns within each round, so that a change of the machine's load hits all of them; the ratios are medians
over the rounds. Before anything is timed, the contenders' latents are compared: they must be the same loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray
from soundstage.artifact.v1 import artifact_pb2
from soundstage.denoiser.v1 import denoiser_pb2 as pb
from soundstage.denoiser.v1 import denoiser_pb2_grpc as rpc

from bench.options import Options
from bench.results import Figure, Results
from deploy.local.health import wait_until_serving
from deploy.local.plan import REPOSITORY
from deploy.local.ports import free_ports
from deploy.local.processes import Process, start, stop, tail
from libs.artifacts import FolderStore, Ref, get_tensors, put_tensors, ref_from_proto, ref_to_proto
from libs.families import load_denoise, load_encode, use_threads
from libs.families.diorama.denoising import BOUNDARY, GUIDED_FROM, sigmas_of
from libs.families.diorama.positions import position_channels
from libs.families.precision import mixed_precision
from libs.families.table import family_named
from libs.serving import open_channel

FAMILY = "diorama"
PROMPT = "waves breaking on a beach at sunset"
STEPS = 25
"""As a video has by default: what it costs once counts as much as it does there."""
NUM_FRAMES, SIZE, FPS = 60, 256, 12.0
GUIDANCE = 3.0
READY_SECONDS = 240.0
CALL_SECONDS = 1800.0

Tensors = Mapping[str, NDArray[Any]]
Contender = Callable[[], NDArray[np.float32]]


def run(options: Options) -> Results:
    use_threads(options.threads)
    model_dir, steps = options.models / FAMILY, options.steps or STEPS
    conditioning = load_encode(model_dir, FAMILY)(PROMPT, "", None, SIZE, SIZE, NUM_FRAMES)
    bare = BareLoop(model_dir, conditioning, steps, options.seed)
    with (
        tempfile.TemporaryDirectory(prefix="soundstage-bench-") as folder,
        served(Path(folder), options) as (_, address),
    ):
        contenders: dict[str, Contender] = {
            "bare": bare.batched,
            "bare_two_calls": bare.two_calls,
            "pipeline": _pipeline(model_dir, bare, conditioning, steps, options.seed),
            "service": Service(Path(folder), address, conditioning, steps, options.seed),
        }
        differences = _differences(contenders)
        seconds = _rounds(contenders, options.rounds)
    return Results(_figures(seconds, steps), {"steps": steps, "seconds": seconds, "differences": differences})


class BareLoop:
    """The loop as one would write it in a script: torch and the scheduler, nothing else."""

    def __init__(self, model_dir: Path, conditioning: Tensors, steps: int, seed: int) -> None:
        self.transformers = {name: load(model_dir) for name, load in family_named(FAMILY).transformers.items()}
        self._scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(model_dir, subfolder="scheduler")
        self._channels: int = self.transformers["transformer"].config.out_channels  # type: ignore[union-attr, assignment]
        tensors = {name: torch.from_numpy(tensor) for name, tensor in conditioning.items()}
        self._embeds = torch.cat([tensors["prompt_embeds"], tensors["negative_prompt_embeds"]])
        self._mask = torch.cat([tensors["prompt_attention_mask"], tensors["negative_prompt_attention_mask"]])
        self._steps, self._seed = steps, seed

    def batched(self) -> NDArray[np.float32]:
        """Guidance in one call with two rows."""
        return self._loop(lambda x, t: self._predict(x.expand(2, -1, -1, -1, -1), t, slice(0, 2)))

    def two_calls(self) -> NDArray[np.float32]:
        """Guidance in two calls, one after the other."""
        return self._loop(lambda x, t: torch.cat([self._predict(x, t, slice(row, row + 1)) for row in (0, 1)]))

    @torch.inference_mode()
    def _loop(self, predictions: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> NDArray[np.float32]:
        frames = family_named(FAMILY).frames_made(NUM_FRAMES)
        shape = (1, self._channels, 1 + (frames - 1) // 4, SIZE // 16, SIZE // 16)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(self._seed))
        text_only = torch.zeros(1, 1 + self._channels, *shape[2:])
        condition = torch.cat([text_only, position_channels(*shape[2:])[None]], dim=1)
        self._scheduler.set_timesteps(sigmas=sigmas_of(self._steps))
        for t in self._scheduler.timesteps:
            x, sigma = torch.cat([latents, condition], dim=1), t / 1000
            if sigma >= GUIDED_FROM:
                positive, negative = predictions(x, t).split(1)
                predicted = negative + GUIDANCE * (positive - negative)
            else:
                predicted = self._predict(x, t, slice(0, 1))
            velocity = (latents - predicted) / sigma if sigma >= BOUNDARY else predicted
            latents = self._scheduler.step(velocity, t, latents, return_dict=False)[0]
        return latents.numpy()

    def _predict(self, x: torch.Tensor, t: torch.Tensor, rows: slice) -> torch.Tensor:
        expert = self.transformers["transformer" if t / 1000 >= BOUNDARY else "transformer_2"]
        with mixed_precision():
            predicted: torch.Tensor = expert(
                hidden_states=x,
                encoder_hidden_states=self._embeds[rows],
                encoder_attention_mask=self._mask[rows],
                timestep=t.expand(len(x)),
                return_dict=False,
            )[0]
        return predicted.float()


def _pipeline(model_dir: Path, bare: BareLoop, conditioning: Tensors, steps: int, seed: int) -> Contender:
    """Our stage in this process, around the very weights that the bare loop uses."""
    denoise = load_denoise(model_dir, FAMILY, bare.transformers)
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


class Service:
    """The denoiser service: a call from request to result, with the tensors read and written as artifacts."""

    def __init__(self, folder: Path, address: str, conditioning: Tensors, steps: int, seed: int) -> None:
        self._store = FolderStore(_artifacts(folder))
        self._address = address
        self._conditioning = put_tensors(self._store, "bench/bench/encode/a1/conditioning.safetensors", conditioning)
        self._steps, self._seed, self._calls = steps, seed, 0

    def __call__(self) -> NDArray[np.float32]:
        self._calls += 1
        video = f"bench{self._calls}"
        latents = asyncio.run(self._call(request_of(self._conditioning, video, "a1", self._steps, self._seed)))
        return get_tensors(self._store, ref_from_proto(latents))["latents"]

    async def _call(self, request: pb.DenoiseRequest) -> artifact_pb2.Artifact:
        async with open_channel(self._address) as channel:
            async for response in rpc.DenoiserServiceStub(channel).Denoise(request, timeout=CALL_SECONDS):
                if response.HasField("result"):
                    return response.result.latents
        raise RuntimeError("the denoiser ended its stream without a result")


def request_of(conditioning: Ref, video: str, attempt: str, steps: int, seed: int) -> pb.DenoiseRequest:
    return pb.DenoiseRequest(
        attempt=artifact_pb2.Attempt(tenant="bench", video_id=video, attempt=attempt),
        model=FAMILY,
        conditioning=ref_to_proto(conditioning),
        width=SIZE,
        height=SIZE,
        num_frames=NUM_FRAMES,
        fps=FPS,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        seed=seed,
    )


@contextmanager
def served(folder: Path, options: Options) -> Iterator[tuple[Process, str]]:
    """The denoiser in a process of its own, with the threads that this process has, and its address."""
    port = free_ports(1)[0]
    environment = {
        **os.environ,
        "SOUNDSTAGE_DENOISER_GRPC_PORT": str(port),
        "SOUNDSTAGE_DENOISER_TORCH_THREADS": str(torch.get_num_threads()),
        "SOUNDSTAGE_DENOISER_ARTIFACTS_URL": _artifacts(folder).as_uri(),
        "SOUNDSTAGE_DENOISER_MODELS_DIR": str(options.models.resolve()),
    }
    command = (sys.executable, "-m", "services.denoiser")
    log = folder / "denoiser.log"
    process = start("denoiser", command, environment, folder=REPOSITORY, port=port, log=log, end_with_parent=True)
    try:
        _wait(process)
        yield process, f"127.0.0.1:{port}"
    finally:
        stop([process], grace_seconds=30.0)


def _wait(process: Process) -> None:
    def check_alive() -> None:
        if not process.is_alive():
            raise RuntimeError(f"the denoiser ended while it started:\n{tail(Path(process.log))}")

    if not wait_until_serving(process.port, "", deadline=time.monotonic() + READY_SECONDS, check_alive=check_alive):
        raise RuntimeError(f"the denoiser was not ready after {READY_SECONDS:g} s:\n{tail(Path(process.log))}")


def _artifacts(folder: Path) -> Path:
    path = folder / "artifacts"
    path.mkdir(exist_ok=True)
    return path


def _differences(contenders: Mapping[str, Contender]) -> dict[str, float]:
    """Warms each up, and compares its latents with the bare loop's: largest difference, in standard deviations of them.

    Raises ``RuntimeError`` where they differ by more than rounding: then the times would compare different work.
    """
    latents = {name: contender() for name, contender in contenders.items()}
    scale = float(latents["bare"].std())
    found = {name: float(np.abs(values - latents["bare"]).max()) / scale for name, values in latents.items()}
    if max(found.values()) > 0.05:
        raise RuntimeError(f"the contenders make different latents, their times cannot be compared: {found}")
    return found


def _rounds(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds by contender, one a round; every other round runs them backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            began = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - began)
        print(f"  round {number + 1}: " + ", ".join(f"{n} {s[-1]:.2f} s" for n, s in seconds.items()), flush=True)
    return seconds


def _figures(seconds: Mapping[str, list[float]], steps: int) -> list[Figure]:
    def ratio(name: str, other: str) -> float:
        return median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))

    return [
        Figure("pipeline_over_bare", ratio("pipeline", "bare"), "ratio"),
        Figure("service_over_bare", ratio("service", "bare"), "ratio"),
        Figure("batched_guidance_over_two_calls", ratio("bare", "bare_two_calls"), "ratio"),
        *(Figure(f"{name}.step", median(values) / steps, "s") for name, values in seconds.items()),
    ]
