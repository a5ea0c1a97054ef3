"""The classifier that judges generated clips names rendered ones it was never trained on."""

import numpy as np
import pytest

from bench import scene_classes
from training.scenes import FAMILIES, render, sample_spec

UNSEEN = 987_654_321
"""Training clips are drawn from other seeds."""


def rendered(family: str) -> np.ndarray:
    spec = sample_spec(np.random.default_rng([UNSEEN, list(FAMILIES).index(family)]), family)
    clip = render(spec, num_frames=9)
    return (clip.frames * 255).round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def clips() -> dict[str, np.ndarray]:
    return {family: rendered(family) for family in FAMILIES}


def test_names_unseen_rendered_clips_of_every_family(clips: dict[str, np.ndarray]) -> None:
    named = {family: scene_classes.classify(clip)[0] for family, clip in clips.items()}
    right = sum(family == name for family, name in named.items())
    assert right / len(named) >= 0.9, {family: name for family, name in named.items() if family != name}


def test_names_clips_that_are_softer_than_rendered_ones(clips: dict[str, np.ndarray]) -> None:
    """Generated clips lack detail: every eighth pixel's mean must still do."""
    soft = {f: clip.reshape(len(clip), 32, 8, 32, 8, 3).mean((2, 4)).astype(np.uint8) for f, clip in clips.items()}
    right = sum(scene_classes.classify(clip)[0] == family for family, clip in soft.items())
    assert right / len(soft) >= 0.75


def test_probabilities_are_of_all_families_and_sum_to_one(clips: dict[str, np.ndarray]) -> None:
    name, scores = scene_classes.classify(clips["fire"])
    assert set(scores) == set(FAMILIES)
    assert sum(scores.values()) == pytest.approx(1.0, abs=1e-5)
    assert scores[name] == max(scores.values())


def test_a_single_frame_is_refused(clips: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="two frames or more"):
        scene_classes.classify(clips["sea"][:1])


def test_weights_are_small() -> None:
    assert scene_classes.WEIGHTS.stat().st_size < 1_000_000
