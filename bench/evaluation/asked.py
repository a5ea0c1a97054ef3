"""The fixed prompts of the evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.captions import (
    CAMERA_PHRASES,
    DISTANCE_PHRASES,
    OWN_SIDE_PHRASES,
    SIDE_PHRASES,
    TIME_PHRASES,
    grammar_prompts,
    holdout_prompts,
)
from training.scenes import FAMILIES, VEILS
from training.scenes.base import SceneSpec

PROMPT_SEED = 20_261
"""Of the grammar prompts; no training captions are drawn from it."""


@dataclass(frozen=True)
class Asked:
    """A prompt, and what a clip that obeys it shows."""

    prompt: str
    families: tuple[str, ...]
    """One of these must be seen and heard; two where the prompt names two scenes."""
    kind: str
    """"grammar", "synonyms", "order", "mixed", "negation", "colour" or "camera"."""
    spec: SceneSpec | None = None
    """The description that a grammar prompt was made of."""
    says: Mapping[str, str] = field(default_factory=dict)
    """What the prompt says of the scene, by the name of the attribute."""
    negative: str = ""
    refused_time: str = ""
    """Time of day that the negative prompt rules out."""


def inside(rounds: int) -> list[Asked]:
    """So many grammar prompts of each family."""
    prompts = grammar_prompts(rounds * len(FAMILIES), PROMPT_SEED)
    return [Asked(text, _named(spec), "grammar", spec, said(text, spec)) for text, spec in prompts]


def outside(most: int | None = None) -> list[Asked]:
    """Those written by hand, which the grammar cannot produce (but for plain ones that have a negative prompt).

    With ``most`` so many, evenly of all kinds.
    """
    everything = [Asked(text, (family,), "synonyms") for text, family in holdout_prompts()]
    everything += [Asked(text, (family,), kind) for kind, pairs in WORDED.items() for text, family in pairs]
    everything += [Asked(text, families, "mixed") for text, families in MIXED]
    everything += [
        Asked(text, (family,), "negation", negative=no, refused_time=time) for text, family, no, time in NEGATED
    ]
    for attribute, prompts in SAYING.items():
        everything += [Asked(text, (family,), attribute, says={attribute: value}) for text, family, value in prompts]
    count = len(everything) if most is None else min(most, len(everything))
    return [everything[index * len(everything) // count] for index in range(count)]


def said(prompt: str, spec: SceneSpec) -> dict[str, str]:
    """What a grammar prompt says of its description: time of day, side, distance, colour and camera, where it does.

    Of a scene in the rain only the camera counts: the others are told by what clips of one scene look like.
    """
    phrases: dict[str, Mapping[str, tuple[str, ...]]] = {"camera": CAMERA_PHRASES}
    if spec.family not in VEILS or spec.background is None:
        phrases |= {
            "time_of_day": TIME_PHRASES,
            "side": OWN_SIDE_PHRASES.get(spec.family, SIDE_PHRASES),
            "distance": DISTANCE_PHRASES,
            "colour": {spec.colour: (spec.colour,) if spec.colour else ()},
        }
    values = {attribute: (getattr(spec, attribute), known) for attribute, known in phrases.items()}
    text = prompt.lower()
    return {
        name: value for name, (value, known) in values.items() if any(word.lower() in text for word in known[value])
    }


def _named(spec: SceneSpec) -> tuple[str, ...]:
    """Of a scene in the rain either counts: as many prompts name the scene as name the rain."""
    return (spec.family, spec.background) if spec.family in VEILS and spec.background else (spec.family,)


WORDED = {
    "synonyms": (
        ("a hearth glowing with embers", "fire"),
        ("swell rolling towards the coast", "sea"),
        ("a cloudburst, bolts splitting the heavens", "rain"),
        ("flurries drifting onto the firs", "snow"),
        ("rapids dropping from a ledge", "waterfall"),
        ("cotton-wool shapes gliding overhead", "clouds"),
        ("soot and vapour climbing from a stack", "smoke"),
        ("a canopy of constellations", "night_sky"),
        ("green curtains of light in the polar sky", "aurora"),
        ("rockets bursting into coloured sparks", "fireworks"),
        ("magma fountaining from the crater", "lava"),
        ("tall grass rippling on the prairie", "meadow"),
        ("a harbour light warning sailors", "lighthouse"),
        ("national colours streaming from a mast", "flag"),
        ("a wicker basket under a huge silk envelope, lifted by a flame", "balloon"),
        ("the bob of an old timepiece going to and fro", "pendulum"),
        ("waterspouts dancing in a stone basin", "fountain"),
        ("a cyclone touching down on farmland", "tornado"),
        ("glow-worms flickering above the lawn in June", "fireflies"),
    ),
    "order": (
        ("crackling in the dark, a wood fire", "fire"),
        ("on the sand they break, the waves of the ocean", "sea"),
        ("thunder, then rain, then thunder again", "rain"),
        ("white everywhere, for it is snowing", "snow"),
        ("down the rocks it pours, a waterfall", "waterfall"),
        ("across the sky, slowly, clouds", "clouds"),
        ("from the chimney there rises smoke", "smoke"),
        ("above us nothing but stars", "night_sky"),
        ("in the far north the aurora glows", "aurora"),
        ("bang after bang, fireworks", "fireworks"),
        ("out of the volcano comes lava", "lava"),
        ("fish and bubbles, seen from under the water", "underwater"),
        ("round and round goes the light of the lighthouse", "lighthouse"),
        ("on its pole, flapping and flapping, a flag", "flag"),
        ("up into the sky it floats, a hot-air balloon", "balloon"),
        ("left, right, left, right, the pendulum of a clock", "pendulum"),
        ("up it shoots and down it splashes, the fountain", "fountain"),
        ("down from the storm cloud comes a tornado", "tornado"),
        ("chirping crickets, and all around them fireflies", "fireflies"),
    ),
}
"""(prompt, family) by kind: other words than the grammar's, or its words in another order."""

MIXED = (
    ("a campfire on a beach, rain beginning", ("fire", "rain")),
    ("fireworks bursting over a stormy ocean", ("fireworks", "sea")),
    ("snow falling on a frozen pond", ("snow", "pond")),
    ("smoke drifting across a starry night sky", ("smoke", "night_sky")),
    ("a waterfall plunging into the sea", ("waterfall", "sea")),
    ("clouds rushing over a wheat field", ("clouds", "meadow")),
    ("lava flowing into the ocean, steam rising", ("lava", "sea")),
    ("the aurora above a snowstorm", ("aurora", "snow")),
    ("a wood fire crackling while snow comes down", ("fire", "snow")),
    ("a shower passing over the meadow", ("rain", "meadow")),
    ("raindrops pelting the ocean", ("rain", "sea")),
)
"""Two scenes in one picture; either of them counts."""

NEGATED = (
    ("clouds in the sky", "clouds", "night, dark, stars", "night"),
    ("waves breaking on the beach", "sea", "night, dark", "night"),
    ("a fire", "fire", "daylight, bright, sun", "day"),
    ("falling snow", "snow", "night, darkness", "night"),
    ("a waterfall", "waterfall", "dark, at night", "night"),
    ("a column of smoke", "smoke", "bright daylight", "day"),
    ("clouds", "clouds", "sunset, orange sky, evening", "sunset"),
    ("the sea", "sea", "sunset, evening light", "sunset"),
)
"""(prompt, family, negative prompt, the time of day that it rules out)."""

SAYING = {
    "colour": (
        ("the polar sky glowing purple, an aurora", "aurora", "purple"),
        ("an aurora, blood red above the peaks", "aurora", "red"),
        ("fireworks, all of them green, over the roofs", "fireworks", "green"),
        ("rockets exploding in pure gold, fireworks of golden sparks", "fireworks", "golden"),
        ("nothing but blue in the fireworks tonight", "fireworks", "blue"),
        ("red stars raining from the fireworks", "fireworks", "red"),
    ),
    "camera": (
        ("a campfire; the lens wanders leftwards, panning left all the time", "fire", "pan left"),
        ("panning right along the beach, waves rolling in", "sea", "pan right"),
        ("we zoom in on the waterfall", "waterfall", "push in"),
        ("the camera travels right past the snowy firs", "snow", "pan right"),
        ("closer and closer to the volcano, lava spouting", "lava", "push in"),
        ("over the meadow the camera swings to the left", "meadow", "pan left"),
    ),
}
"""(prompt, family, what it says) by attribute."""
