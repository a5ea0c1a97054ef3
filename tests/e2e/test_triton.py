"""The whole of Soundstage with its networks on a real tritonserver: one short video."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from client import SoundstageClient
from deploy.local.plan import MODELS, TRITON
from deploy.local.stack import start_stack, stop_stack
from deploy.local.state import State
from deploy.triton.wheel import SUPPORTED
from libs.families.diorama.components import load_transformer
from tests.e2e.film import read_film
from tests.e2e.studio import Studio
from tests.support.loras import factors, lora_file

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not SUPPORTED, reason="tritonserver's wheel is for x86-64 Linux"),
    pytest.mark.timeout(600),
]

STEPS = 2
NETWORKS = ("transformer", "transformer_2")
LAYER = "transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    state = State(tmp_path_factory.mktemp("stack"))
    address = start_stack(state, end_with_parent=True, say=lambda _: None, triton=True)
    try:
        with SoundstageClient(address) as client:
            yield Studio(state, client, client.models()[0], tmp_path_factory.mktemp("films"))
    finally:
        stop_stack(state)


def test_a_video_is_made_on_triton(studio: Studio) -> None:
    (server,) = (process for process in studio.state.processes() if process.name == TRITON)
    with InferenceServerClient(f"127.0.0.1:{server.port}") as triton:
        before = calls(triton)
        made = studio.make(num_inference_steps=STEPS, priority="interactive")
        counted = {network: count - before[network] for network, count in calls(triton).items()}
    assert counted["transformer"] + counted["transformer_2"] == STEPS
    assert counted["vae_decoder"] == 1
    film = read_film(made.path)
    assert (len(film.frames), film.sound.shape[0]) == (12, 2)
    assert film.frames.std() > 1, "a picture that is all of one colour shows nothing"
    assert made.video.gpu_seconds > 0


def test_a_video_with_a_lora_is_made_on_triton(studio: Studio) -> None:
    layers = {name: factors(load_transformer(MODELS / "diorama", name), LAYER) for name in NETWORKS}
    made = [studio.make(num_inference_steps=STEPS, lora=lora) for lora in (None, lora_file(layers))]
    plain, changed = (read_film(one.path) for one in made)
    assert np.abs(changed.frames.astype(int) - plain.frames).mean() > 1


def calls(triton: InferenceServerClient) -> dict[str, int]:
    """Network -> inferences that the server has answered."""
    answers = {
        name: triton.get_inference_statistics(f"diorama_{name}", client_timeout=60)
        for name in (*NETWORKS, "vae_decoder")
    }
    return {name: answer.model_stats[0].inference_stats.success.count for name, answer in answers.items()}
