"""Rendered scenes with physically matched sound: the training data of Diorama. One module a family.

``FAMILIES`` names the modules, ``sample_spec`` draws a valid description, ``render`` makes its clip, and
``render_takes`` what each camera makes of one scene.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Protocol

import numpy as np

from libs.families.diorama.camera import Camera
from training.scenes import (
    aurora,
    balloon,
    camera,
    clouds,
    fire,
    fireflies,
    fireworks,
    flag,
    fountain,
    lava,
    lighthouse,
    meadow,
    night_sky,
    pendulum,
    pond,
    rain,
    sea,
    smoke,
    snow,
    tornado,
    underwater,
    waterfall,
)
from training.scenes.base import Canvas, Clip, Scene, SceneSpec

FAMILIES: dict[str, Scene] = {
    "fire": fire,
    "sea": sea,
    "rain": rain,
    "snow": snow,
    "waterfall": waterfall,
    "clouds": clouds,
    "smoke": smoke,
    "night_sky": night_sky,
    "aurora": aurora,
    "fireworks": fireworks,
    "lava": lava,
    "meadow": meadow,
    "underwater": underwater,
    "pond": pond,
    "lighthouse": lighthouse,
    "flag": flag,
    "balloon": balloon,
    "pendulum": pendulum,
    "fountain": fountain,
    "tornado": tornado,
    "fireflies": fireflies,
}


class _Foreground(Protocol):
    def render(self, spec: SceneSpec, canvas: Canvas, background: Clip | None = None) -> Clip: ...


FOREGROUNDS: dict[str, _Foreground] = {"balloon": balloon, "fire": fire, "fireworks": fireworks, "rain": rain}
"""Families that can stand before another one."""

PAIRS = [
    ("balloon", "meadow"),
    ("balloon", "sea"),
    ("fire", "sea"),
    ("fire", "snow"),
    ("fireworks", "sea"),
    ("rain", "fire"),
    ("rain", "meadow"),
    ("rain", "pond"),
    ("rain", "sea"),
]
"""(front, background): the pairs that ``SceneSpec.background`` may name."""

VEILS = frozenset({"rain"})
"""Fronts that fall before the whole picture: what is behind one stays as near, and at the side, that the spec says."""

BACKGROUND_PROBABILITY = 0.3
CAMERA_PROBABILITY = 0.25

TIMES: dict[str, tuple[str, ...]] = {
    "night_sky": ("night",),
    "aurora": ("night",),
    "fireworks": ("night",),
    "lava": ("sunset", "night"),
    "meadow": ("day", "sunset"),
    "underwater": ("day",),
    "pond": ("day",),
    "tornado": ("day", "sunset"),
    "fireflies": ("night",),
}
"""Times of day at which a family is rendered; a family not named here is rendered at all three."""

ALL_TIMES = ("day", "sunset", "night")

CHOICES: dict[str, tuple[str, ...]] = {
    "distance": ("near", "far"),
    "side": ("left", "centre", "right"),
    "strength": ("weak", "strong"),
}


def sample_spec(rng: np.random.Generator, family: str | None = None) -> SceneSpec:
    """Draws a description: what its scenes do not vary keeps its default; backgrounds only from ``PAIRS``."""
    name = family or str(rng.choice(list(FAMILIES)))
    behind = [back for front, back in PAIRS if front == name]
    background = str(rng.choice(behind)) if behind and rng.random() < BACKGROUND_PROBABILITY else None
    spec = SceneSpec(name, background=background)
    varies = varied(spec)
    drawn = {key: str(rng.choice(values)) for key, values in CHOICES.items() if key in varies}
    drawn["time_of_day"] = str(rng.choice(times(spec)))
    if "colour" in varies:
        drawn["colour"] = str(rng.choice(FAMILIES[name].COLOURS))  # type: ignore[attr-defined]
    if rng.random() < CAMERA_PROBABILITY:
        drawn["camera"] = str(rng.choice(camera.MOVES))
    return replace(spec, seed=int(rng.integers(2**31)), **drawn)  # type: ignore[arg-type]


def varied(spec: SceneSpec) -> frozenset[str]:
    """Names of the attributes that change this scene: of a veil its strength, and those of what is behind it."""
    if spec.background is None or spec.family not in VEILS:
        return FAMILIES[spec.family].VARIES
    return FAMILIES[spec.background].VARIES | {"strength"}


def times(spec: SceneSpec) -> tuple[str, ...]:
    """Times of day at which the scene can be rendered: those that it and its background both know."""
    known = [_times_of(name) for name in (spec.family, spec.background) if name and _depends_on_time(name)]
    return tuple(time for time in ALL_TIMES if all(time in times for times in known)) if known else ("day",)


def _depends_on_time(family: str) -> bool:
    return family in TIMES or "time_of_day" in FAMILIES[family].VARIES


def _times_of(family: str) -> tuple[str, ...]:
    return TIMES.get(family, ALL_TIMES)


def render(spec: SceneSpec, num_frames: int = 61, fps: int = 12, size: int = 256) -> Clip:
    """Renders a description: frames (num_frames, size, size, 3) in [0, 1] and stereo sound; same spec, same clip.

    Raises ``ValueError`` when the family is unknown or the background is not one of its ``PAIRS``.
    """
    if spec.family not in FAMILIES:
        raise ValueError(f"unknown family {spec.family!r}: use one of {', '.join(FAMILIES)}")
    canvas = Canvas(num_frames, fps, size, np.random.default_rng([spec.seed, zlib.crc32(spec.family.encode())]))
    if spec.camera != "still":
        return camera.move(_large(spec, num_frames, fps, size), spec, canvas)
    if spec.background is None:
        return FAMILIES[spec.family].render(spec, canvas)
    if (spec.family, spec.background) not in PAIRS:
        raise ValueError(f"{spec.family!r} cannot stand before {spec.background!r}: use one of {PAIRS}")
    return FOREGROUNDS[spec.family].render(spec, canvas, background=render(behind(spec), num_frames, fps, size))


def render_takes(spec: SceneSpec, num_frames: int = 61, fps: int = 12, size: int = 256) -> dict[Camera, Clip]:
    """The scene of ``spec`` by every camera of `camera.TAKES`; if its own moves, `render` makes that take."""
    canvas = Canvas(num_frames, fps, size, np.random.default_rng(spec.seed))
    large = _large(spec, num_frames, fps, size)
    return {take: camera.move(large, replace(spec, camera=take), canvas) for take in camera.TAKES}


def _large(spec: SceneSpec, num_frames: int, fps: int, size: int) -> Clip:
    return render(replace(spec, camera="still"), num_frames, fps, camera.large(size))


def behind(spec: SceneSpec) -> SceneSpec:
    """The description of the background: the same light, its own seed, further away unless the front is a veil."""
    assert spec.background is not None
    back = replace(spec, family=spec.background, background=None, camera="still", seed=spec.seed + 7919)
    return back if spec.family in VEILS else replace(back, distance="far", side="centre")
