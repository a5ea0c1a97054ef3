"""Whether clips show what was asked for, and how far their features are from those of rendered clips."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from bench.evaluation.clips import rendered, small
from training.scenes import FAMILIES, VEILS, sample_spec
from training.scenes.base import SceneSpec

ATTRIBUTES = ("time_of_day", "side", "distance", "colour")
DIMENSIONS = 32
"""Of the features' principal components that are compared: fewer than there are clips."""
PROBE_SEED = 4_711
PROBE_FRAMES = 9
COLOUR_FRAMES = 25
"""Of fireworks, fewer may show none."""
HUES = 18


def frechet(made: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Fréchet distance (Heusel et al. 2017) of two sets of features (N, D), in the reference's leading components."""
    centre = reference.mean(axis=0)
    axes = np.linalg.svd(reference - centre, full_matrices=False)[2][:DIMENSIONS].T
    a, b = (made - centre) @ axes, (reference - centre) @ axes
    spread_a, spread_b = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(spread_a @ spread_b).real
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(gap @ gap + np.trace(spread_a + spread_b - 2 * root))


@dataclass(frozen=True)
class _Classes:
    """Linear discriminant analysis: class means in a space where the classes' common spread is round."""

    names: list[str]
    whiten: NDArray[np.float32]
    means: NDArray[np.float32]

    def name(self, seen: NDArray[np.float32]) -> str:
        distances = np.linalg.norm(self.means - seen @ self.whiten, axis=1)
        return self.names[int(distances.argmin())]


class Probes:
    """Tells a clip's attributes from where it is bright, coloured and moving; fitted to rendered clips.

    One probe a family and attribute, because the left of a fire is not the left of a moon.
    """

    def __init__(self, clips_a_family: int = 120, families: Collection[str] = tuple(FAMILIES)) -> None:
        self._probes: dict[tuple[str, str], _Classes] = {}
        right: dict[str, list[bool]] = {attribute: [] for attribute in ATTRIBUTES}
        for number, family in enumerate(FAMILIES):
            if family in families:
                self._fit_family(family, _specs(family, number, clips_a_family), right)
        self.rendered_right = {attribute: float(np.mean(hits)) for attribute, hits in right.items() if hits}
        """Share of rendered clips, not fitted to, of which each attribute is told rightly: the most to be had."""

    def _fit_family(self, family: str, specs: Sequence[SceneSpec], right: dict[str, list[bool]]) -> None:
        count = COLOUR_FRAMES if "colour" in FAMILIES[family].VARIES else PROBE_FRAMES
        clips = [rendered(spec, count).frames for spec in specs]
        cut = 3 * len(specs) // 4
        for attribute in ATTRIBUTES:
            labels = [getattr(spec, attribute) for spec in specs]
            if len(set(labels)) < 2:
                continue
            seen = np.stack([_seen(frames, attribute) for frames in clips])
            probe = _fit(seen[:cut], labels[:cut])
            right[attribute] += [probe.name(one) == label for one, label in zip(seen[cut:], labels[cut:], strict=True)]
            self._probes[family, attribute] = _fit(seen, labels)

    def tells(self, family: str, attribute: str) -> bool:
        return (family, attribute) in self._probes

    def of(self, frames: NDArray[np.uint8], family: str, attribute: str) -> str:
        return self._probes[family, attribute].name(_seen(frames, attribute))


def _specs(family: str, number: int, count: int) -> list[SceneSpec]:
    """Descriptions of the family's own scenes, not of what it rains on."""
    rng = np.random.default_rng([PROBE_SEED, number])
    drawn = (sample_spec(rng, family) for _ in repeat(None))
    return list(islice((spec for spec in drawn if family not in VEILS or spec.background is None), count))


def _seen(frames: NDArray[np.uint8], attribute: str) -> NDArray[np.float32]:
    return hues(frames) if attribute == "colour" else look(frames)


def look(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of the first frames, (352,): mean colour and mean motion in 8 x 8 fields, and what stands before the rest, there
    and as shares of 16 columns and of 16 rows."""
    seen = small(frames[:PROBE_FRAMES]) / 255
    tiny = _fields(seen, 8, 8)
    motion = np.abs(np.diff(tiny, axis=0)).mean(axis=(0, 3))
    away = _away(seen)
    before = _fields(np.sqrt(away)[..., None], 8, 8).mean(axis=0)
    shares = [_fields(away[..., None], *sides).mean(axis=0).ravel() for sides in ((1, 16), (16, 1))]
    shares = [share / max(share.sum(), 1e-6) for share in shares]
    return np.concatenate([tiny.mean(axis=0).ravel(), 4 * motion.ravel(), before.ravel(), *shares]).astype(np.float32)


def _fields(seen: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Means of fields: (T, H, W, C) -> (T, rows, columns, C)."""
    count, height, width, channels = seen.shape
    return seen.reshape(count, rows, height // rows, columns, width // columns, channels).mean(axis=(2, 4))


def _away(seen: NDArray[Any]) -> NDArray[Any]:
    """(T, H, W): squared distance of a pixel's colour from the median of its row. Skies and seas lie in rows."""
    return np.asarray(((seen - np.median(seen, axis=2, keepdims=True)) ** 2).sum(axis=-1))


def hues(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How much of a clip's colour has which hue, from red by green and blue to red, shares of all colour: (HUES,).

    A pixel counts by the square of its chroma, for what is vivid, and by how far it is from the median of its row:
    skies are coloured, too, and a flag or balloon is small before them.
    """
    pixels = small(frames[:COLOUR_FRAMES]) / 255
    chroma = pixels.max(axis=-1) - pixels.min(axis=-1)
    red, green, blue = np.moveaxis(pixels, -1, 0)
    angle = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)
    where = (angle / (2 * np.pi) * HUES + 0.5) % HUES
    counted = np.bincount(where.astype(int).ravel(), (chroma**2 * _away(pixels)).ravel(), HUES)
    return (counted / max(counted.sum(), 1e-6)).astype(np.float32)


def _fit(seen: NDArray[np.float32], labels: Sequence[str]) -> _Classes:
    names = sorted(set(labels))
    owner = np.array([names.index(label) for label in labels])
    means = np.stack([seen[owner == index].mean(axis=0) for index in range(len(names))])
    values, vectors = np.linalg.eigh(np.cov((seen - means[owner]).T))
    shrunk = 0.9 * np.maximum(values, 0) + 0.1 * values.mean()
    whiten = (vectors / np.sqrt(shrunk)).astype(np.float32)
    return _Classes(names, whiten, means @ whiten)
