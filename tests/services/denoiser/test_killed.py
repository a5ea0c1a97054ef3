"""Real processes that end in the middle of a video: the next one goes on from what they kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from soundstage.artifact.v1 import artifact_pb2
from soundstage.denoiser.v1 import denoiser_pb2 as pb
from soundstage.denoiser.v1 import denoiser_pb2_grpc as rpc

from deploy.local.ports import free_ports
from libs.artifacts import FolderStore, put_tensors, ref_to_proto
from libs.serving.probe import main as probe
from tests.support.tiny_diorama import TEXT_CHANNELS

STEPS, ENDED_AFTER = 100, 10
READY_SECONDS = 120.0


@contextmanager
def denoiser(models_dir: Path, store: Path, **settings: object) -> Iterator[tuple[subprocess.Popen[bytes], Any]]:
    (port,) = free_ports(1)
    given = {
        "grpc_port": port,
        "models_dir": models_dir,
        "artifacts_url": store.as_uri(),
        "torch_threads": 1,
        **settings,
    }
    environment = {f"SOUNDSTAGE_DENOISER_{name.upper()}": str(value) for name, value in given.items()}
    process = subprocess.Popen([sys.executable, "-m", "services.denoiser"], env=os.environ | environment)
    try:
        assert probe(["--address", f"127.0.0.1:{port}", "--seconds", str(READY_SECONDS)]) == 0
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield process, rpc.DenoiserServiceStub(channel)
    finally:
        process.kill()
        process.wait(30)


def request(conditioning: artifact_pb2.Artifact, video: str, attempt: str) -> pb.DenoiseRequest:
    return pb.DenoiseRequest(
        attempt=artifact_pb2.Attempt(tenant="acme", video_id=video, attempt=attempt),
        model="diorama",
        conditioning=conditioning,
        width=64,
        height=64,
        num_frames=96,
        fps=12,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        seed=4,
    )


def steps_of(events: list[pb.DenoiseResponse]) -> list[int]:
    return [event.progress.progress.step for event in events if event.HasField("progress")]


def checkpoints_of(events: list[pb.DenoiseResponse]) -> list[int]:
    return [event.checkpoint.step for event in events if event.HasField("checkpoint")]


def ended(
    process: subprocess.Popen[bytes], how: signal.Signals, stream: Any, ends: Callable[[pb.DenoiseResponse], bool]
) -> list[pb.DenoiseResponse]:
    """Signals the process once ``ends``; what its stream said until it broke."""
    seen: list[pb.DenoiseResponse] = []
    try:
        for event in stream:
            seen.append(event)
            if ends(event):
                process.send_signal(how)
    except grpc.RpcError as error:
        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            raise
    return seen


KILLED_AT_CHECKPOINT = {"checkpoint_every_steps": 5, "checkpoint_most_share": 1}
NOTHING_IS_DUE_BUT_AT_THE_SIGNAL = {"checkpoint_every_steps": 0, "checkpoint_every_seconds": 0, "grace_seconds": 0.2}


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("how", "settings", "ends"),
    [
        (signal.SIGKILL, KILLED_AT_CHECKPOINT, lambda event: any(at >= ENDED_AFTER for at in checkpoints_of([event]))),
        (signal.SIGTERM, NOTHING_IS_DUE_BUT_AT_THE_SIGNAL, lambda event: steps_of([event]) == [ENDED_AFTER]),
    ],
    ids=["killed", "told to end"],
)
def test_another_process_goes_on(
    models_dir: Path, tmp_path: Path, how: signal.Signals, settings: dict[str, object], ends: Any
) -> None:
    store = FolderStore(tmp_path)
    rng = np.random.default_rng(0)
    texts = ("prompt", "negative_prompt")
    embeds = {f"{name}_embeds": rng.standard_normal((1, 6, TEXT_CHANNELS)).astype(np.float32) for name in texts}
    masks = {f"{name}_attention_mask": np.ones((1, 6), np.int64) for name in texts}
    conditioning = ref_to_proto(put_tensors(store, "acme/v1/encode/a1/conditioning.safetensors", embeds | masks))

    with denoiser(models_dir, tmp_path, **settings) as (process, stub):
        seen = ended(process, how, stub.Denoise(request(conditioning, "v1", "a1"), timeout=120), ends)
        process.wait(30)
    with denoiser(models_dir, tmp_path, **settings) as (_, stub):
        resumed = list(stub.Denoise(request(conditioning, "v1", "a2"), timeout=120))
        whole = list(stub.Denoise(request(conditioning, "v2", "a1"), timeout=120))

    assert STEPS > steps_of(resumed)[0] >= kept(seen, how)
    assert steps_of(resumed)[-1] == STEPS
    assert resumed[-1].result.latents.sha256 == whole[-1].result.latents.sha256


def kept(seen: list[pb.DenoiseResponse], how: signal.Signals) -> int:
    """Steps that are not to be made again: of the last checkpoint that was told, or those before the signal."""
    return max(checkpoints_of(seen)) if how == signal.SIGKILL else ENDED_AFTER
