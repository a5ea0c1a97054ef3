"""What steps that stop, yield and resume cost: checkpoints, previews, company, and a kill.

Contenders take turns within each round; ratios are medians over the rounds.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import torch
from prometheus_client import CollectorRegistry
from soundstage.denoiser.v1 import denoiser_pb2_grpc as rpc

from bench.denoise import CALL_SECONDS, FAMILY, FPS, GUIDANCE, NUM_FRAMES, PROMPT, SIZE, BareLoop, request_of, served
from bench.options import Options
from bench.results import Figure, Results
from libs.artifacts import AttemptPrefix, FolderStore, Ref, put_tensors, to_safetensors
from libs.catalog import Catalog
from libs.families import PipelineCache, Step, load_denoise, load_encode, use_threads
from libs.families.diorama.positions import position_channels
from libs.serving import RecordingStage
from services.denoiser.checkpoints import Checkpoints
from services.denoiser.denoise import DenoiseJob, Denoiser, StepDone
from services.denoiser.loras import Loras
from services.denoiser.metrics import DenoiserMetrics
from services.denoiser.settings import DenoiserSettings

STEPS = 4
"""Of the videos that compete."""
BATCH_VIDEOS = 8
SHORT_FRAMES = 13
INTERACTIVE, BATCH = 1, 3
KILLED_STEPS, KILLED_AFTER = 25, 13
"""The default number of steps, and in the middle of them."""


def run(options: Options) -> Results:
    use_threads(options.threads)
    model_dir = options.models / FAMILY
    conditioning = load_encode(model_dir, FAMILY)(PROMPT, "", None, SIZE, SIZE, NUM_FRAMES)
    with tempfile.TemporaryDirectory(prefix="soundstage-bench-") as name:
        folder = Path(name)
        company = merged(model_dir, conditioning, options)
        extras = beside_steps(model_dir, conditioning, folder, options)
        waits = {
            how: [Contest(model_dir, conditioning, folder, priority).run() for _ in range(options.rounds)]
            for how, priority in (("preemption", INTERACTIVE), ("in_order", BATCH))
        }
        repeated = killed(conditioning, folder, options)
    figures = [
        *(Figure(f"merged_over_in_turn.{expert}", ratio, "ratio") for expert, ratio in company.items()),
        *(Figure(name, share, "share", "≤ 0.05" if "checkpoint" in name else "") for name, share in extras.items()),
    ]
    for part, index in (("first_step", 0), ("end", 1)):
        seconds = {how: median(wait[index] for wait in rounds) for how, rounds in waits.items()}
        figures += [Figure(f"interactive.{part}.{how}", value, "s") for how, value in seconds.items()]
        figures.append(Figure(f"interactive.{part}.ratio", seconds["preemption"] / seconds["in_order"], "ratio"))
    figures.append(Figure("steps_repeated_after_kill", repeated, "count", "≤ 5"))
    return Results(figures, {"waits": waits, "batch_videos": BATCH_VIDEOS, "killed_after": KILLED_AFTER})


def merged(model_dir: Path, conditioning: Mapping[str, Any], options: Options) -> dict[str, float]:
    """A step of two videos in one transformer call over two calls, guidance batched in both."""
    bare = BareLoop(model_dir, conditioning, 1, options.seed)
    ratios = {}
    for name, rows in (("transformer", 2), ("transformer_2", 1)):
        expert = bare.transformers[name]
        one = _inputs(conditioning, int(expert.config.out_channels), rows)  # type: ignore[union-attr, arg-type]
        both = {key: torch.cat([value, value]) for key, value in one.items()}
        seconds = _in_turn(
            {"merged": lambda e=expert, b=both: e(**b), "alone": lambda e=expert, o=one: (e(**o), e(**o))},  # type: ignore[misc]
            options.rounds,
        )
        ratios[name] = median(seconds["merged"]) / median(seconds["alone"])
    return ratios


@torch.inference_mode()
def _in_turn(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            began = time.perf_counter()
            contender()
            if number:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _inputs(conditioning: Mapping[str, Any], channels: int, rows: int) -> dict[str, torch.Tensor]:
    frames, side = 1 + (NUM_FRAMES + 3) // 4, SIZE // 16
    noise = torch.randn(1, channels, frames, side, side)
    place = position_channels(frames, side, side)[None]
    states = torch.cat([noise, torch.zeros(1, 1 + channels, frames, side, side), place], dim=1)
    texts = [torch.from_numpy(conditioning[f"{name}prompt_embeds"]) for name in ("", "negative_")][:rows]
    masks = [torch.from_numpy(conditioning[f"{name}prompt_attention_mask"]) for name in ("", "negative_")][:rows]
    return {
        "hidden_states": states.expand(rows, -1, -1, -1, -1).contiguous(),
        "encoder_hidden_states": torch.cat(texts),
        "encoder_attention_mask": torch.cat(masks),
        "timestep": torch.full((rows,), 700.0),
    }


def beside_steps(model_dir: Path, conditioning: Mapping[str, Any], folder: Path, options: Options) -> dict[str, float]:
    """Seconds of a checkpoint and of a preview over those of a step."""
    store, spent = FolderStore(folder / "checkpoints"), {"step": [0.0], "copy": [0.0], "write": [0.0], "loop": [0.0]}
    denoise = load_denoise(model_dir, FAMILY)

    def on_step(step: Step) -> None:
        began = time.perf_counter()
        state = step.state()
        copied = time.perf_counter()
        store.put(f"a/b/denoise/c/checkpoint-{step.index}", to_safetensors(state), "application/octet-stream")
        for name, seconds in (
            ("step", step.seconds),
            ("copy", copied - began),
            ("write", time.perf_counter() - copied),
        ):
            spent[name].append(seconds)

    def loop(previews: int) -> float:
        began = time.perf_counter()
        denoise(
            conditioning,
            width=SIZE,
            height=SIZE,
            num_frames=NUM_FRAMES,
            fps=FPS,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            seed=options.seed,
            preview_every_steps=previews,
            on_step=on_step if not previews else lambda step: shown.append(step.seconds),
        )
        return time.perf_counter() - began

    shown: list[float] = []
    loop(0)
    with_previews = loop(1)
    steps = median(spent["step"][1:])
    return {
        "checkpoint_copy_over_step": median(spent["copy"][1:]) / steps,
        "checkpoint_write_over_step": median(spent["write"][1:]) / steps,
        "preview_over_step": max(with_previews - sum(shown), 0.0) / STEPS / median(shown),
    }


class Contest:
    """One video that arrives when eight others are at work; ``priority``: its own, theirs is BATCH."""

    def __init__(self, model_dir: Path, conditioning: Mapping[str, Any], folder: Path, priority: int) -> None:
        store = FolderStore(folder / "contest")
        self._conditioning = put_tensors(store, "a/b/encode/c/conditioning.safetensors", conditioning)
        settings, metrics = DenoiserSettings(), DenoiserMetrics(CollectorRegistry())
        checkpoints = Checkpoints(store, metrics, settings.checkpoint_policy)
        catalog, loras = Catalog.read(model_dir.parent), Loras(store, settings.lora_limits, metrics)
        self._denoiser = Denoiser(
            store, catalog, PipelineCache(load_denoise), metrics, checkpoints, loras, settings.capacity
        )
        self._denoiser.warm([FAMILY])
        self._priority = priority

    def run(self) -> tuple[float, float]:
        """Seconds from its arrival to its first step's end, and to its own."""
        with ThreadPoolExecutor(BATCH_VIDEOS + 1) as threads:
            first = _Watched()
            stages = [first, *(_Watched() for _ in range(BATCH_VIDEOS - 1))]
            others = [threads.submit(self._denoise, f"batch{n}", BATCH, stage) for n, stage in enumerate(stages)]
            first.stepped.wait(CALL_SECONDS)
            mine, began = _Watched(), time.perf_counter()
            self._denoise("mine", self._priority, mine)
            end = time.perf_counter() - began
            for other in others:
                other.result(CALL_SECONDS)
        return mine.at - began, end

    def _denoise(self, video: str, priority: int, stage: RecordingStage) -> None:
        job = DenoiseJob(
            prefix=AttemptPrefix("bench", video, "denoise", f"a{time.monotonic_ns()}"),
            model=FAMILY,
            conditioning=self._conditioning,
            width=SIZE,
            height=SIZE,
            num_frames=SHORT_FRAMES,
            fps=FPS,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            seed=1,
            preview_every_steps=0,
            priority=priority,
            deadline=inf,
        )
        self._denoiser.denoise(job, stage)


class _Watched(RecordingStage):
    def __init__(self) -> None:
        super().__init__()
        self.stepped, self.at = threading.Event(), 0.0

    def emit(self, event: object) -> None:
        super().emit(event)
        if isinstance(event, StepDone) and event.step and not self.stepped.is_set():
            self.at = time.perf_counter()
            self.stepped.set()


def killed(conditioning: Mapping[str, Any], folder: Path, options: Options) -> int:
    """Steps that were made twice when the service was killed (SIGKILL) in the middle of a video, by the defaults."""
    store = FolderStore(folder / "artifacts")
    ref = put_tensors(store, "bench/killed/encode/a1/conditioning.safetensors", conditioning)
    with served(folder, options) as (process, address), grpc.insecure_channel(address) as channel:
        done = 0
        try:
            for event in _stream(channel, ref, "a1", options.seed):
                done = max(done, event.progress.progress.step)
                if done == KILLED_AFTER:
                    os.killpg(process.pid, signal.SIGKILL)
        except grpc.RpcError:
            pass
    with served(folder, options) as (_, address), grpc.insecure_channel(address) as channel:
        for event in _stream(channel, ref, "a2", options.seed):
            if event.HasField("progress"):
                return done - int(event.progress.progress.step)
    raise RuntimeError("the second attempt told no step")


def _stream(channel: grpc.Channel, ref: Ref, attempt: str, seed: int) -> Any:  # noqa: ANN401  # gRPC's
    request = request_of(ref, "killed", attempt, KILLED_STEPS, seed)
    return rpc.DenoiserServiceStub(channel).Denoise(request, timeout=CALL_SECONDS)
