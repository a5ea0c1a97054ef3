"""Which attributes of its scene a caption mentions, found without knowing the grammar's tables.

Two captions drawn with the same random numbers for scenes that differ in one attribute are the same text, unless they
mention it. So whatever attribute the grammar learns to name is found, too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

import numpy as np

from training.captions import caption
from training.scenes.base import SceneSpec

__all__ = ["ATTRIBUTES", "Values", "mentions", "said", "values_of"]

ATTRIBUTES = tuple(field.name for field in fields(SceneSpec) if field.name not in ("family", "background", "seed"))
"""What a scene of a family can be like. A background is no value of these: the grammar then draws more numbers."""

Values = dict[tuple[str, str], list[str]]
"""By family and attribute."""


def values_of(specs: Iterable[SceneSpec]) -> Values:
    """The values that the given scenes have; a single one where the family does not vary it."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for spec in specs:
        for attribute in ATTRIBUTES:
            found[spec.family, attribute].add(getattr(spec, attribute))
    return {key: sorted(values, key=str) for key, values in found.items()}


def said(spec: SceneSpec, seed: Sequence[int]) -> str:
    """The caption that these random numbers give."""
    return caption(spec, np.random.default_rng(seed))


def mentions(spec: SceneSpec, seed: Sequence[int], values: Values) -> set[str]:
    """The attributes that ``said(spec, seed)`` has words for which another value of ``values`` would not have."""
    words, found = _words(said(spec, seed)), set()
    for attribute in ATTRIBUTES:
        others = [value for value in values[spec.family, attribute] if value != getattr(spec, attribute)]
        if others and words - _words(said(replace(spec, **{attribute: others[0]}), seed)):  # type: ignore[arg-type]
            found.add(attribute)
    return found


def _words(text: str) -> set[str]:
    return set(re.findall(r"[\w'-]+", text.lower()))
