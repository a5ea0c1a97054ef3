"""LoRAs through a real server: whose weights a video is made with, what is refused, and how many are kept."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from prometheus_client import CollectorRegistry
from soundstage.artifact.v1 import artifact_pb2
from soundstage.denoiser.v1 import denoiser_pb2 as pb
from torch import nn
from tritonclient.grpc.model_config_pb2 import ModelConfig

from deploy.triton.build_python import build_python
from deploy.triton.server import running_tritonserver
from deploy.triton.wheel import SUPPORTED
from libs.artifacts import MemoryStore, Ref, get_tensors, ref_from_proto, ref_to_proto
from libs.catalog import Catalog
from libs.errors import FailedPrecondition
from libs.families import load_denoise, load_remote_transformers
from libs.families.diorama.components import load_transformer
from libs.families.pipelines import DenoisePipeline
from libs.triton import TritonOptions, triton_in_thread
from services.denoiser.loras import Lora, LoraLimits, Loras
from services.denoiser.metrics import DenoiserMetrics
from tests.libs.families.test_served_loras import Elsewhere
from tests.services.denoiser.conftest import Pacer, Service, serving
from tests.services.denoiser.test_checkpoints import STEPS, attempt, begins_at, broken_off, checkpoints
from tests.services.denoiser.test_denoiser_service import refusal, until
from tests.support.loras import factors, fuse_by_hand, lora_file

LAYERS = ("transformer_blocks.0.attn1.to_q", "transformer_blocks.0.ff.conv_inverted")
KEY = "acme/v0/input/first/lora.safetensors"


def file_of(models_dir: Path, seed: int, layers: tuple[str, ...] = LAYERS) -> bytes:
    made = factors(load_transformer(models_dir / "diorama"), *layers, seed=seed)
    return lora_file({"transformer": made, "transformer_2": made})


def put(store: MemoryStore, data: bytes, key: str = KEY) -> artifact_pb2.Artifact:
    return ref_to_proto(store.put(key, data, "application/vnd.safetensors"))


def lora(service: Service, data: bytes, scale: float = 1.0, key: str = KEY) -> pb.Lora:
    return pb.Lora(artifact=put(service.store, data, key), scale=scale)


async def digest(service: Service, **changes: Any) -> str:
    return str((await service.denoise(**changes))[-1].result.latents.sha256)


async def test_latents_are_those_of_weights_fused_by_hand_and_others_see_nothing_of_it(
    service: Service, models_dir: Path
) -> None:
    plain = await digest(service)
    given = lora(service, file_of(models_dir, 1), 0.5)
    events = await service.denoise(lora=given)

    def by_hand(path: Path, _: Pacer) -> Mapping[str, nn.Module]:
        transformer = load_transformer(path)
        return dict.fromkeys(
            ("transformer", "transformer_2"), fuse_by_hand(transformer, factors(transformer, *LAYERS, seed=1), 0.5)
        )

    async with serving(models_dir, by_hand) as other:
        assert await digest(other) == events[-1].result.latents.sha256 != plain
    assert (await digest(service), await digest(service, lora=given)) == (plain, events[-1].result.latents.sha256)


async def test_two_videos_at_once_each_with_its_own(service: Service, models_dir: Path) -> None:
    given = {
        video: lora(service, file_of(models_dir, seed), scale, f"acme/{video}/input/first/lora.safetensors")
        for video, seed, scale in (("v1", 1, 1.0), ("v2", 1, 0.5))
    }
    alone = [await digest(service, lora=one, attempt=attempt("a1", video)) for video, one in given.items()]
    service.pacer.seconds = 0.02
    together = [digest(service, lora=one, attempt=attempt("a2", video)) for video, one in given.items()]
    assert await asyncio.gather(*together) == alone
    assert alone[0] != alone[1]


async def test_a_checkpoint_is_of_one_lora(service: Service, models_dir: Path) -> None:
    mine, other = (lora(service, file_of(models_dir, seed), key=f"acme/v{seed}/lora") for seed in (1, 2))
    whole = await digest(service, num_inference_steps=STEPS, lora=mine, attempt=attempt("a1", "elsewhere"))
    await broken_off(service, 4, lora=mine)
    for unfit in ({"lora": other}, {}, {"lora": pb.Lora(artifact=mine.artifact, scale=0.5)}):
        before = checkpoints(service, "unfit")
        call = service.call(num_inference_steps=STEPS, attempt=attempt("a2"), **unfit)
        first = await anext(aiter(call))
        while not first.HasField("progress"):
            first = await anext(aiter(call))
        call.cancel()
        assert begins_at([first]) == 0
        await until(lambda before=before: checkpoints(service, "unfit") > before)
    events = await service.denoise(num_inference_steps=STEPS, lora=mine, attempt=attempt("a3"))
    assert begins_at(events) >= 2
    assert events[-1].result.latents.sha256 == whole


async def test_what_is_no_lora_of_the_model_is_refused_and_the_next_one_is_not(
    service: Service, models_dir: Path
) -> None:
    good = lora(service, file_of(models_dir, 1))
    altered = pb.Lora(artifact=good.artifact, scale=1.0)
    altered.artifact.sha256 = "0" * 64
    missing = pb.Lora(artifact=good.artifact, scale=1.0)
    missing.artifact.uri += "x"
    wrong = lora_file({"transformer": factors(nn.Sequential(nn.Linear(2, 3)), "0")})
    for given, reason in (
        (altered, "ARTIFACT_ALTERED"),
        (missing, "ARTIFACT_MISSING"),
        (lora(service, pickle.dumps({"a": 1}), key="acme/v0/b"), "LORA_UNUSABLE"),
        (lora(service, wrong, key="acme/v0/c"), "LORA_UNFITTING"),
        (lora(service, bytes(2 << 20), key="acme/v0/d"), "LORA_TOO_LARGE"),
    ):
        error = await refusal(service, lora=given)
        assert (type(error), error.reason) == (FailedPrecondition, reason)
    assert await digest(service, lora=good)
    assert service.registry.get_sample_value("soundstage_denoiser_active_videos") == 0


def elsewhere(path: Path, _: Pacer) -> Mapping[str, nn.Module]:
    return load_remote_transformers(path, "diorama", Elsewhere(path, "diorama"))


@pytest.mark.usefixtures("in_float32")
async def test_transformers_elsewhere_make_the_same_and_are_told_the_file_when_they_ask(models_dir: Path) -> None:
    """Also when it lies elsewhere than that of an earlier video, which is gone."""
    data, sent = file_of(models_dir, 1), "soundstage_denoiser_loras_sent_total"
    async with serving(models_dir, lambda *_: {}) as here:
        expected, plain = await digest(here, lora=lora(here, data, 0.5)), await digest(here)
    async with serving(models_dir, elsewhere) as other:
        first = lora(other, data, 0.5)
        assert await digest(other, lora=first) == expected
        assert await digest(other) == plain
        other.store.delete_prefix("acme/v0")
        assert await digest(other, lora=first) == expected, "nobody asks for what is gone"
        assert other.registry.get_sample_value(sent, {"model": "diorama"}) == 2
        error = await refusal(other, lora=pb.Lora(artifact=first.artifact, scale=1.0))
        assert (type(error), error.reason) == (FailedPrecondition, "ARTIFACT_MISSING")
        again = lora(other, data, 1.0, "acme/v2/input/first/lora.safetensors")
        assert await digest(other, lora=again) not in (expected, plain)
        wrong = lora_file({"transformer": factors(nn.Sequential(nn.Linear(2, 3)), "0")})
        error = await refusal(other, lora=lora(other, wrong))
        assert (type(error), error.reason) == (FailedPrecondition, "LORA_UNFITTING")
        assert other.registry.get_sample_value("soundstage_denoiser_active_videos") == 0


FIXED = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        given = [pb_utils.get_input_tensor_by_name(request, "hidden_states") for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("sample", one.to_dlpack())]) for one in given]
"""
"""Answers whatever it is asked."""


@pytest.mark.skipif(not SUPPORTED, reason="tritonserver's wheel is for x86-64 Linux")
async def test_on_triton_it_is_refused_where_weights_are_fixed(models_dir: Path, tmp_path: Path) -> None:
    """By a real server, whose model has the inputs of an engine: without those for LoRAs."""
    (folder,) = build_python(models_dir / "diorama", tmp_path / "repository", networks=("transformer",))
    config: Any = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
    kept = [tensor for tensor in config.input if not tensor.optional]
    del config.input[len(kept) :]
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))
    (folder / "1" / "model.py").write_text(FIXED)
    with (
        running_tritonserver(tmp_path / "repository", tmp_path, grace_seconds=0) as server,
        triton_in_thread([server.address], TritonOptions()) as triton,
    ):

        def remote(path: Path, _: Pacer) -> Mapping[str, nn.Module]:
            return load_remote_transformers(path, "diorama", triton.infer)

        async with serving(models_dir, remote) as service:
            error = await refusal(service, lora=lora(service, file_of(models_dir, 1)))
    assert (type(error), error.reason) == (FailedPrecondition, "LORA_ON_TRITON")
    assert "--backend python" in str(error)


def test_a_file_that_no_message_holds_is_refused_for_triton_alone(models_dir: Path, base: DenoisePipeline) -> None:
    card = Catalog.read(models_dir).get("diorama")
    loras = Loras(MemoryStore("loras"), LoraLimits(kept=1, most_mib=4000), DenoiserMetrics(CollectorRegistry()))
    large = Lora(Ref("memory://loras/a/b/c", "x/y", 2001 << 20, "0" * 64), 1.0)
    away = load_denoise(card.path, "diorama", elsewhere(card.path, Pacer(nn.Identity())))
    for pipeline, reason in ((base, "ARTIFACT_MISSING"), (away, "LORA_TOO_LARGE")):
        with pytest.raises(FailedPrecondition) as raised, loras.on(card, pipeline, large, lambda: None):
            pass
        assert raised.value.reason == reason
    assert len(loras) == 0


@pytest.fixture(scope="module")
def base(models_dir: Path) -> DenoisePipeline:
    return load_denoise(models_dir / "diorama", "diorama")


def test_no_more_are_kept_than_may_be_and_the_last_used_one_stays(models_dir: Path, base: DenoisePipeline) -> None:
    store, card = MemoryStore("loras"), Catalog.read(models_dir).get("diorama")
    loras = Loras(store, LoraLimits(kept=2, most_mib=1), DenoiserMetrics(CollectorRegistry()))
    a, b, c = (Lora(store.put(f"a/b/{n}", file_of(models_dir, n), "x/y"), 1.0) for n in range(3))

    def use(one: Lora) -> tuple[DenoisePipeline, bool]:
        with loras.on(card, base, one, lambda: None) as (pipeline, seconds):
            return pipeline, seconds > 0

    first, made = use(a)
    assert made
    assert use(b)[1]
    assert use(a) == (first, False)
    assert use(c)[1]
    assert use(a) == (first, False)
    assert use(b)[1]
    assert len(loras) == 2
    store.delete_prefix("a")
    assert use(Lora(a.ref, 1.0)) == (first, False)
    with pytest.raises(FailedPrecondition, match="not in this store"):
        use(c)
    assert len(loras) <= 2


@pytest.mark.parametrize("on_triton", [False, True])
def test_those_in_use_count_and_who_waits_can_be_cancelled_or_goes_on(
    models_dir: Path, base: DenoisePipeline, on_triton: bool
) -> None:
    store, card = MemoryStore("loras"), Catalog.read(models_dir).get("diorama")
    loras = Loras(store, LoraLimits(kept=1, most_mib=1), DenoiserMetrics(CollectorRegistry()))
    if on_triton:
        base = load_denoise(card.path, "diorama", elsewhere(card.path, Pacer(nn.Identity())))
    a, b = (Lora(store.put(f"a/b/{n}", file_of(models_dir, n), "x/y"), 1.0) for n in range(2))
    looked, got = threading.Event(), threading.Event()

    def wait() -> None:
        with loras.on(card, base, b, looked.set) as (pipeline, _):
            assert pipeline is not base
            got.set()

    def cancelled() -> None:
        raise InterruptedError

    waiting = threading.Thread(target=wait)
    with loras.on(card, base, a, lambda: None):
        with pytest.raises(InterruptedError), loras.on(card, base, b, cancelled):
            pass
        waiting.start()
        assert looked.wait(30)
        assert (len(loras), got.is_set()) == (1, False)
    waiting.join(30)
    assert got.is_set()


async def test_a_scale_beyond_the_contract_is_refused(service: Service, models_dir: Path) -> None:
    error = await refusal(service, lora=lora(service, file_of(models_dir, 1), 2.5))
    assert [violation.field for violation in error.violations] == ["lora.scale"]
    latents = await service.denoise(lora=lora(service, file_of(models_dir, 1), 0.0))
    ref = ref_from_proto(latents[-1].result.latents)
    plain = ref_from_proto((await service.denoise())[-1].result.latents)
    assert ref.sha256 == plain.sha256
    assert np.isfinite(get_tensors(service.store, ref)["latents"]).all()
