"""A real denoiser on a free port, with a tiny model, the memory store and a transformer that can be slow."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from soundstage.artifact.v1 import artifact_pb2
from soundstage.denoiser.v1 import denoiser_pb2 as pb
from soundstage.denoiser.v1 import denoiser_pb2_grpc as rpc
from torch import nn

from libs.artifacts import MemoryStore, put_tensors, ref_to_proto
from libs.catalog import Catalog
from libs.families import PipelineCache, load_denoise
from libs.families.diorama.components import load_transformer
from libs.serving import Endpoint, open_channel, running
from libs.triton.calling import current_call
from services.denoiser.metrics import DenoiserMetrics
from services.denoiser.servicer import SERVICE_NAME, DenoiserServicer
from services.denoiser.settings import DenoiserSettings
from tests.support.denoising import wired_denoiser
from tests.support.tiny_diorama import LATENT_CHANNELS, TEXT_CHANNELS, write_tiny_diorama


class Pacer:
    """A real transformer, in the place of both, each call of which waits ``seconds`` first and is counted.

    Also the calls of its twins, which have its hooks.
    """

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer
        self.seconds = 0.0
        self.calls = 0
        self.at_work = 0
        self.most_at_work = 0
        self.priorities: set[int] = set()
        self._lock = threading.Lock()
        # Functions and not methods: a twin's would be those of a copy of this.
        transformer.register_forward_pre_hook(lambda *_: self._begins())
        transformer.register_forward_hook(lambda *_: self._ends(), always_call=True)

    def _begins(self) -> None:
        with self._lock:
            self.calls += 1
            self.at_work += 1
            self.priorities.add(current_call().priority)
            self.most_at_work = max(self.most_at_work, self.at_work)
        threading.Event().wait(self.seconds)

    def _ends(self) -> None:
        with self._lock:
            self.at_work -= 1


@dataclass
class Service:
    """What a test talks to."""

    store: MemoryStore
    registry: CollectorRegistry
    pacer: Pacer
    hurry: Callable[[], None] = field(default=lambda: None)
    """What SIGTERM does first."""
    stub: Any = field(default=None)

    def conditioning(self, *, seed: int = 0, first_frame: bool = False) -> artifact_pb2.Artifact:
        rng = np.random.default_rng(seed)
        tensors = {
            f"{name}_embeds": rng.standard_normal((1, 6, TEXT_CHANNELS)).astype(np.float32)
            for name in ("prompt", "negative_prompt")
        }
        masks = {f"{name}_attention_mask": np.ones((1, 6), np.int64) for name in ("prompt", "negative_prompt")}
        if first_frame:
            tensors["first_frame_latents"] = rng.standard_normal((1, LATENT_CHANNELS, 1, 2, 2)).astype(np.float32)
        key = f"acme/v1/encode/a{seed}{first_frame}/conditioning.safetensors"
        return ref_to_proto(put_tensors(self.store, key, tensors | masks))

    def request(self, **changes: Any) -> pb.DenoiseRequest:
        fields: dict[str, Any] = {
            "attempt": artifact_pb2.Attempt(tenant="acme", video_id="v1", attempt="a1"),
            "model": "diorama",
            "width": 32,
            "height": 32,
            "num_frames": 12,
            "fps": 12.0,
            "num_inference_steps": 6,
            "guidance_scale": 3.0,
            "seed": 1,
        }
        if "conditioning" not in changes:
            changes["conditioning"] = self.conditioning()
        return pb.DenoiseRequest(**fields | changes)

    def call(self, *, metadata: Any = (), **changes: Any) -> Any:
        return self.stub.Denoise(self.request(**changes), timeout=120, metadata=metadata)

    def written(self, video: str = "v1") -> list[str]:
        """Names of what attempts at the video have written, with the attempt before."""
        prefix = f"acme/{video}/denoise"
        return sorted(stored.key.removeprefix(f"{prefix}/") for stored in self.store.walk(prefix))

    async def denoise(self, **changes: Any) -> list[pb.DenoiseResponse]:
        return [event async for event in self.call(**changes)]


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    write_tiny_diorama(models)
    return models


@asynccontextmanager
async def serving(
    models_dir: Path, transformers_of: Callable[[Path, Pacer], Mapping[str, nn.Module]], **changes: Any
) -> AsyncIterator[Service]:
    """``transformers_of``: what takes the place of the model folder's transformers. ``changes``: of the settings."""
    registry = CollectorRegistry()
    pacer = Pacer(load_transformer(models_dir / "diorama"))
    given: dict[str, Any] = {
        "grace_seconds": 1.0,
        "heartbeat_seconds": 0.1,
        "max_active_videos": 2,
        "max_waiting_videos": 1,
        "checkpoint_every_steps": 2,
        "checkpoint_most_share": 1.0,
        "lora_most_mib": 1,
    }
    settings = DenoiserSettings(**given | changes)
    service = Service(MemoryStore("denoiser"), registry, pacer)
    pipelines = PipelineCache(lambda path, family: load_denoise(path, family, transformers_of(path, pacer)))
    metrics = DenoiserMetrics(registry)
    denoiser = wired_denoiser(service.store, Catalog.read(models_dir), pipelines, metrics, settings)
    service.hurry = denoiser._checkpoints.hurry
    servicer = DenoiserServicer(denoiser, settings.heartbeat_seconds)
    endpoint = Endpoint(SERVICE_NAME, servicer, rpc.add_DenoiserServiceServicer_to_server)
    async with (
        running(settings, [endpoint], registry=registry) as server,
        open_channel(server.address) as channel,
    ):
        service.stub = rpc.DenoiserServiceStub(channel)
        yield service


def both(_: Path, pacer: Pacer) -> Mapping[str, nn.Module]:
    return dict.fromkeys(("transformer", "transformer_2"), pacer.transformer)


@pytest.fixture
async def service(models_dir: Path) -> AsyncIterator[Service]:
    async with serving(models_dir, both) as service:
        yield service
