"""The whole of Soundstage with its networks on a real tritonserver: one short video."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tritonclient.grpc import InferenceServerClient

from client import SoundstageClient
from deploy.local.plan import TRITON
from deploy.local.stack import start_stack, stop_stack
from deploy.local.state import State
from deploy.triton.wheel import SUPPORTED
from tests.e2e.film import read_film
from tests.e2e.studio import Studio

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not SUPPORTED, reason="tritonserver's wheel is for x86-64 Linux"),
    pytest.mark.timeout(600),
]

STEPS = 2


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


def calls(triton: InferenceServerClient) -> dict[str, int]:
    """Network -> inferences that the server has answered."""
    networks = ("transformer", "transformer_2", "vae_decoder")
    answers = {name: triton.get_inference_statistics(f"diorama_{name}", client_timeout=60) for name in networks}
    return {name: answer.model_stats[0].inference_stats.success.count for name, answer in answers.items()}
