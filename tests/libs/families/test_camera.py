"""Diorama's camera: which part of the scene is seen when, and what a prompt says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from libs.errors import FailedPrecondition
from libs.families import load_denoise, load_encode
from libs.families.diorama.camera import CAMERAS, Camera, latent_windows, windows
from libs.families.diorama.positions import position_channels
from tests.support.tiny_diorama import write_tiny_diorama

MODEL = Path("models/diorama")


@pytest.mark.parametrize("place", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("num_frames", [25, 61, 97])
@pytest.mark.parametrize("camera", CAMERAS)
def test_a_window_stays_in_the_scene(camera: Camera, num_frames: int, place: float) -> None:
    left, top, width = windows(camera, num_frames, place).T
    assert left.shape == (num_frames,)
    assert min(left.min(), top.min()) >= 0
    assert (np.maximum(left, top) + width).max() <= 1 + 1e-6


def test_a_whole_move_takes_five_seconds_or_the_whole_video() -> None:
    whole, long, short = (windows("pan right", count)[:, 0] for count in (61, 97, 25))
    assert whole[-1] - whole[0] == pytest.approx(long[-1] - long[0], abs=0.003)
    assert short[-1] - short[0] == pytest.approx(0.4 * (whole[-1] - whole[0]), rel=0.05)
    np.testing.assert_allclose(windows("pan left", 61)[::-1, 0], whole, atol=0.004)
    assert windows("push in", 61)[-1, 2] < 0.75


def test_latent_frames_see_what_their_frames_see() -> None:
    seen = windows("pan left", 9)
    np.testing.assert_allclose(latent_windows(seen), [seen[0], seen[1:5].mean(axis=0), seen[5:9].mean(axis=0)])


def test_a_place_in_the_scene_is_named_alike_wherever_it_is_seen() -> None:
    """A window half as wide, that begins four of sixteen latents from the left: its latents 0, 2, … lie between those
    of the whole at 4, 5, …"""
    whole = position_channels(1, 16, 16)
    part = position_channels(1, 16, 16, torch.tensor([[0.25, 0.25, 0.5]]))
    middle = position_channels(1, 8, 8, torch.tensor([[0.25, 0.25, 0.5]]))
    torch.testing.assert_close(whole[0], part[0])
    cosine = whole[4, 0, 0]
    assert cosine[3] > part[4, 0, 0, 0] > cosine[4]
    assert cosine[11] > part[4, 0, 0, -1] > cosine[12]
    assert middle.shape == (13, 1, 8, 8)


@pytest.mark.parametrize(
    ("prompt", "camera"),
    [
        ("a campfire at night", "still"),
        ("a campfire on the left, at night", "still"),
        ("waves on a beach, the camera pans left", "pan left"),
        ("a lighthouse on the left, the camera moves to the right", "pan right"),
        ("slowly zooming in on a waterfall on the right", "push in"),
    ],
)
def test_the_committed_model_reads_the_move_from_the_prompt(prompt: str, camera: str) -> None:
    conditioning = load_encode(MODEL, "diorama")(prompt, "", None, 256, 256, 61)
    assert conditioning["camera"].dtype == np.int64
    assert CAMERAS[int(conditioning["camera"][0])] == camera


def test_the_move_matters_and_is_still_where_an_older_encoder_said_nothing(tmp_path: Path) -> None:
    model = write_tiny_diorama(tmp_path)
    conditioning = load_encode(model, "diorama")("a fire", "", None, 32, 32, 9)
    denoise = load_denoise(model, "diorama")

    def latents(**camera: np.ndarray) -> np.ndarray:
        given = {name: tensor for name, tensor in conditioning.items() if name != "camera"} | camera
        made = denoise(
            given,
            width=32,
            height=32,
            num_frames=9,
            fps=12,
            num_inference_steps=2,
            guidance_scale=1.0,
            seed=1,
            preview_every_steps=0,
            on_step=lambda _: None,
        )
        return np.asarray(made["latents"])

    still = latents(camera=np.array([0]))
    np.testing.assert_array_equal(latents(), still)
    assert not np.allclose(latents(camera=np.array([1])), still)
    for unknown in (np.array([len(CAMERAS)]), np.array([0.0], np.float32), np.array([0, 1])):
        with pytest.raises(FailedPrecondition, match="camera"):
            latents(camera=unknown)
