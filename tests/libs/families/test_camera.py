"""Diorama's camera: which part of the scene is seen when, and what a prompt says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from libs.errors import FailedPrecondition
from libs.families import load_denoise, load_encode
from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.diorama.camera import CAMERAS, Camera, seen_through, windows
from tests.support.tiny_diorama import LATENT_CHANNELS, write_tiny_diorama

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


def test_a_given_first_frame_is_seen_whole() -> None:
    for camera in CAMERAS:
        seen = windows(camera, 61, whole_first=True)
        np.testing.assert_allclose(seen[0], [0, 0, 1], atol=1e-6)
    left, right = (windows(camera, 61, whole_first=True)[-1] for camera in ("pan left", "pan right"))
    assert left[0] == 0
    assert right[0] + right[2] == pytest.approx(1, abs=1e-6)


def test_a_window_is_cut_out_and_as_large_as_the_whole() -> None:
    """What stands at 0.6 of the scene is seen at (0.6 - left) / width, and a still camera sees the very pixels."""
    video = torch.zeros(1, 3, 61, 64, 64)
    video[..., 32:36, 36:41] = 1.0
    torch.testing.assert_close(seen_through(windows("still", 61), video), video)
    for camera in ("pan left", "pan right", "push in"):
        seen = windows(camera, 61)
        cut = seen_through(seen, video)
        assert cut.shape == video.shape
        for frame in (0, 30, 60):
            columns = cut[0, 0, frame].amax(dim=0).clamp(min=0)
            place = float((columns * (torch.arange(64) + 0.5)).sum() / columns.sum() / 64)
            left, _, width = seen[frame]
            assert place == pytest.approx((38.5 / 64 - left) / width, abs=0.01)


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


def denoised(model: Path, steps: int = 8, **given: np.ndarray) -> np.ndarray:
    conditioning = load_encode(model, "diorama")("a fire", "", None, 32, 32, 17)
    made = load_denoise(model, "diorama")(
        {name: tensor for name, tensor in conditioning.items() if name != "camera"} | given,
        width=32,
        height=32,
        num_frames=17,
        fps=12,
        num_inference_steps=steps,
        guidance_scale=1.0,
        seed=1,
        preview_every_steps=0,
        on_step=lambda _: None,
    )
    return np.asarray(made["latents"])


def test_the_move_matters_and_is_still_where_an_older_encoder_said_nothing(tmp_path: Path) -> None:
    model = write_tiny_diorama(tmp_path)
    still = denoised(model, camera=np.array([0]))
    np.testing.assert_array_equal(denoised(model), still)
    moved = denoised(model, camera=np.array([1]))
    assert np.isfinite(moved).all()
    assert not np.allclose(moved, still)
    for unknown in (np.array([len(CAMERAS)]), np.array([0.0], np.float32), np.array([0, 1])):
        with pytest.raises(FailedPrecondition, match="camera"):
            denoised(model, camera=unknown)


def test_at_the_last_step_the_move_is_that_of_the_clean_picture(tmp_path: Path) -> None:
    """With one step sigma goes from 1 to 0: what comes out is what the still scene's picture looks like through it."""
    model = write_tiny_diorama(tmp_path)
    vae = AutoencoderDiorama.from_pretrained(model / "vae", low_cpu_mem_usage=False)
    still, moved = (torch.from_numpy(denoised(model, 1, camera=np.array([number]))) for number in (0, 2))
    expected = vae.encode(seen_through(windows("pan right", 17), vae.decode_linear(still)))
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=1e-4)


def test_a_given_first_frame_is_kept_by_a_moving_camera(tmp_path: Path) -> None:
    model = write_tiny_diorama(tmp_path)
    first = np.random.default_rng(0).standard_normal((1, LATENT_CHANNELS, 1, 2, 2)).astype(np.float32)
    made = denoised(model, camera=np.array([1]), first_frame_latents=first)
    np.testing.assert_array_equal(made[:, :, :1], first)
