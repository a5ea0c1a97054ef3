"""Left and right are taught: mirrored clips, batches that only captions tell apart, a projection that reads them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import SanaVideoTransformer3DModel
from torch import nn

from libs.families.diorama.autoencoder import AutoencoderDiorama
from training import averages, batches, reading, transformer
from training.autoencoder import to_tensor
from training.batches import Batch, Contrasts, draw_batch
from training.clips import Clips, describe
from training.mentions import mentions, said, values_of
from training.mirror import OTHER, LatentMirror, latent_mirror, mirrored
from training.scenes import FAMILIES, render, sample_spec, varied
from training.scenes.base import SceneSpec
from training.text import LOOSENED, MEAN_NOISE, TOKEN_NOISE, loosen

CHANNELS = 3


def specs_of(count: int) -> list[SceneSpec]:
    rng, families = np.random.default_rng(4), list(FAMILIES)
    return [sample_spec(rng, families[k % len(families)]) for k in range(count)]


@pytest.fixture(scope="module")
def clips() -> Clips:
    """Clip k holds k + 1 everywhere, its mirror image -(k + 1); embeddings hold the number of their caption."""
    specs = specs_of(5 * len(FAMILIES))
    number = torch.arange(1, len(specs) + 1)[:, None, None, None, None]
    latents = number.expand(-1, CHANNELS, 16, 2, 2).half()
    described, twins = describe(specs, range(len(specs)))
    texts = sorted({text for one in described + twins for text in one.captions})
    embeds = {text: np.full((2, 384), k, np.float16) for k, text in enumerate(["", *texts])}
    return Clips(latents, latents, described, twins, embeds, LatentMirror(-torch.eye(CHANNELS), torch.zeros(CHANNELS)))


def shown(clips: Clips, batch: Batch) -> list[tuple[SceneSpec, str]]:
    """What each sample shows, and its caption."""
    texts = {int(rows[0, 0]): text for text, rows in clips.embeds.items()}
    found = []
    for window, rows in zip(batch.latents, batch.embeds, strict=True):
        number = int(window[0, 0, 0, 0])
        spec = (clips.described if number > 0 else clips.twins)[abs(number) - 1].spec
        found.append((spec, texts[int(rows[0, 0])]))
    return found


# --- mirror ----------------------------------------------------------------------------------------------------------


def test_mirrored_latents_are_those_of_the_mirrored_clip() -> None:
    vae = AutoencoderDiorama.from_pretrained("models/diorama/vae", low_cpu_mem_usage=False).float()
    mirror = latent_mirror(vae)
    spec = SceneSpec("lava", time_of_day="night", side="left", seed=3)
    video = to_tensor(render(spec, 5, size=128).frames)
    latents, expected = vae.encode(video), vae.encode(video.flip(-1))
    assert (mirror(latents) - expected).var() < 0.002 * expected.var()
    assert (latents.flip(-1) - expected).var() > 0.01 * expected.var(), "turning the columns alone would not do"


def test_mirrored_scenes_have_the_other_side_and_nothing_else() -> None:
    left = SceneSpec("night_sky", time_of_day="night", side="left", seed=5)
    assert mirrored(left) == replace(left, side="right")
    assert mirrored(mirrored(left)) == left
    centre = SceneSpec("fire", time_of_day="sunset", background="sea")
    assert mirrored(centre) == centre


def test_whatever_attribute_names_a_side_is_mirrored() -> None:
    panned = SceneSpec("sea", background="pan left, bright")
    assert mirrored(panned).background == "pan right, bright"


# --- captions --------------------------------------------------------------------------------------------------------


def test_captions_of_twins_differ_in_left_and_right_alone(clips: Clips) -> None:
    sided = 0
    for one, twin in zip(clips.described, clips.twins, strict=True):
        assert twin.spec == mirrored(one.spec)
        for caption, other in zip(one.captions, twin.captions, strict=True):
            swapped = re.sub(r"\b(left|right)\b", lambda word: OTHER[word[0]], other)
            assert swapped == caption
            sided += other != caption
        for k in one.mentioning.get("side", []):
            assert one.spec.side == "centre" or one.spec.side in one.captions[k]
    assert sided > 20


def test_what_a_caption_mentions_is_found() -> None:
    specs = specs_of(10 * len(FAMILIES))
    values, right = values_of(specs), 0
    for k, spec in enumerate(specs):
        text, found = said(spec, (k,)).lower(), mentions(spec, (k,), values)
        assert found <= varied(spec) | {"camera"}
        if spec.side != "centre" and spec.camera == "still":  # a camera's phrase may hold the same word
            assert ("side" in found) == (spec.side in text)
            right += "side" in found
    assert right > 15


# --- batches ---------------------------------------------------------------------------------------------------------


def test_usual_batches_hold_clips_beside_their_twins(clips: Clips) -> None:
    batch = draw_batch(clips, np.random.default_rng(0), 4, 32)
    assert batch.latents.shape == (8, CHANNELS, 4, 2, 2)
    numbers = batch.latents[:, 0, 0, 0, 0]
    torch.testing.assert_close(numbers[0::2], -numbers[1::2])
    assert not batch.contrast
    assert len(draw_batch(clips, np.random.default_rng(0), 16, 16).latents) == 1


def test_clips_beside_the_middle_mostly_say_so(clips: Clips) -> None:
    rng, said_side, sided = np.random.default_rng(3), 0, 0
    for _ in range(300):
        described = clips.described[int(rng.integers(len(clips.described)))]
        if described.spec.side != "centre" and "side" in described.mentioning:
            sided += 1
            said_side += batches.draw_caption(rng, described) in described.mentioning["side"]
    assert said_side / sided > 0.8, "the grammar says it in 0.6 of its sentences"


@pytest.mark.parametrize("attribute", ["side", "distance"])
def test_contrast_batches_hold_pairs_that_captions_tell_apart(clips: Clips, attribute: str) -> None:
    contrasts, values = Contrasts(clips, 0.2, 0.1), values_of(one.spec for one in clips.described)
    rng = np.random.default_rng(1)
    for _ in range(10):
        batch = contrasts.draw(rng, attribute, 32)
        assert batch.contrast
        assert batch.latents.shape[0] * batch.latents.shape[2] == 32
        pairs = shown(clips, batch)
        for (one, first), (other, second) in zip(pairs[0::2], pairs[1::2], strict=True):
            assert one.family == other.family
            assert getattr(one, attribute) != getattr(other, attribute)
            assert attribute != "side" or {one.side, other.side} == {"left", "right"}
            for spec, text in ((one, first), (other, second)):
                said_of = [k for k in range(8) if said(spec, (seed_of(clips, spec), k)) == text]
                assert any(attribute in mentions(spec, (seed_of(clips, spec), k), values) for k in said_of)


def seed_of(clips: Clips, spec: SceneSpec) -> int:
    return next(k for k, one in enumerate(clips.described) if one.spec.seed == spec.seed)


def test_contrast_batches_come_as_often_as_asked(clips: Clips) -> None:
    contrasts, rng = Contrasts(clips, 0.2, 0.1), np.random.default_rng(2)
    chosen = [contrasts.choose(rng) for _ in range(2000)]
    assert chosen.count("side") / 2000 == pytest.approx(0.2, abs=0.03)
    assert chosen.count(None) / 2000 == pytest.approx(0.7, abs=0.04)
    assert chosen.count("colour") > chosen.count("distance")
    assert Contrasts(clips, 0.0, 0.0).choose(rng) is None


class Watched(nn.Module):
    """A transformer that predicts nothing and keeps what it was given."""

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor, **_: object) -> tuple[torch.Tensor]:
        self.given, self.sigma = hidden_states, timestep / 1000
        return (torch.zeros_like(hidden_states[:, : transformer.CHANNELS]),)


@pytest.mark.parametrize("contrast", [False, True])
@pytest.mark.parametrize("name", transformer.EXPERTS)
def test_pairs_get_the_same_noise(name: str, contrast: bool) -> None:
    """Clips of nothing: the transformer is given sigma times the noise. Contrast batches give no first frame."""
    batch, watched = Batch(torch.zeros(8, transformer.CHANNELS, 4, 4, 4), None, None, contrast), Watched()  # type: ignore[arg-type]
    expert = transformer.EXPERTS[name]
    transformer.flow_loss(expert, watched, batch, torch.Generator().manual_seed(0))
    noise = watched.given[:, : transformer.CHANNELS] / watched.sigma[:, None, None, None, None]
    torch.testing.assert_close(noise[0::2], noise[1::2])
    assert not torch.allclose(noise[0], noise[2])
    first_frame = watched.given[:, transformer.CHANNELS]
    assert bool(first_frame.any()) is not contrast
    if contrast:
        torch.testing.assert_close(watched.sigma[0::2], watched.sigma[1::2])
        assert watched.sigma.max() <= expert.most
        assert watched.sigma.min() >= expert.most - transformer.CONTRAST_RANGE


# --- loosened captions -----------------------------------------------------------------------------------------------


def test_loosened_captions_have_noise_or_lack_tokens_but_keep_their_mean() -> None:
    embeds, mask = torch.zeros(400, 9, 8), torch.ones(400, 9, dtype=torch.int64)
    mask[:, 7:] = 0
    loosened, left = loosen(embeds, mask, np.random.default_rng(0))
    noisy = loosened.flatten(1).abs().amax(dim=1) > 0
    assert float(noisy.float().mean()) == pytest.approx(LOOSENED, abs=0.07)
    assert float(loosened[noisy, 0].std()) == pytest.approx(MEAN_NOISE, rel=0.1)
    assert float(loosened[noisy, 1:].std()) == pytest.approx(TOKEN_NOISE, rel=0.1)
    assert bool((left[:, 0] == 1).all())
    assert not left[:, 7:].any(), "padding stays padding"
    shortened = left.sum(dim=1) < 7
    assert 0.25 < float(shortened.float().mean()) < LOOSENED


# --- reading ---------------------------------------------------------------------------------------------------------


def test_the_projection_learns_to_tell_sides_apart() -> None:
    """Words as fixed random rows, "left" and "right" nearly the same; the rest of the model stays as it was."""
    torch.manual_seed(0)
    model = SanaVideoTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=384,
    )
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    lessons = reading.draw_lessons(500, _words)
    told, after = reading.teach(model, lessons, steps=150)
    assert after.keys() >= {"family", "side", "distance", "time_of_day", "strength"}
    assert after["side"] > max(0.6, told["side"] + 0.1)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if name.startswith("caption_projection.")}


def _words(texts: set[str]) -> dict[str, np.ndarray]:
    vocabulary = sorted({word for text in texts for word in text.lower().replace(",", "").rstrip(".").split()})
    rows = dict(zip(vocabulary, np.random.default_rng(0).standard_normal((len(vocabulary), 384)), strict=True))
    rows["right"] = rows["left"] + 0.2 * rows["right"]
    words = {text: [rows[word] for word in text.lower().replace(",", "").rstrip(".").split()] for text in texts}
    return {text: np.stack([np.mean(found, axis=0), *found]) for text, found in words.items()}


# --- average ---------------------------------------------------------------------------------------------------------


def test_the_averages_profile_is_as_wide_as_asked() -> None:
    assert averages.exponent(0.10) == pytest.approx(6.94, abs=0.01), "Karras et al. 2024, section 3.1"
    steps, weights = 2000, np.zeros(2000)
    for step in range(1, steps + 1):
        weights *= averages.decay(step)
        weights[step - 1] = 1 - averages.decay(step)
    times = np.arange(1, steps + 1) / steps
    assert weights.sum() == pytest.approx(1.0)
    mean = weights @ times
    assert np.sqrt(weights @ (times - mean) ** 2) == pytest.approx(0.10, abs=0.002)
