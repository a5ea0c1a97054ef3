"""The fixed prompts of the evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from training.captions import grammar_prompts, holdout_prompts
from training.scenes import FAMILIES
from training.scenes.base import SceneSpec

PROMPT_SEED = 20_261
"""Of the grammar prompts; neither training captions nor those of `bench scenes` are drawn from it."""


@dataclass(frozen=True)
class Asked:
    """A prompt, and what a clip that obeys it shows."""

    prompt: str
    families: tuple[str, ...]
    """One of these must be seen and heard; two where the prompt names two scenes."""
    kind: str
    """"grammar", "synonyms", "order", "mixed" or "negation"."""
    spec: SceneSpec | None = None
    """The description that a grammar prompt was made of."""
    negative: str = ""
    refused_time: str = ""
    """Time of day that the negative prompt rules out."""


def inside(rounds: int) -> list[Asked]:
    """So many grammar prompts of each family."""
    prompts = grammar_prompts(rounds * len(FAMILIES), PROMPT_SEED)
    return [Asked(text, (spec.family,), "grammar", spec) for text, spec in prompts]


def outside(most: int | None = None) -> list[Asked]:
    """All written by hand, of which the grammar can produce none; ``most`` of them, evenly spread, if it is given."""
    everything = [Asked(text, (family,), "synonyms") for text, family in holdout_prompts()]
    everything += [Asked(text, (family,), kind) for kind, pairs in WORDED.items() for text, family in pairs]
    everything += [Asked(text, families, "mixed") for text, families in MIXED]
    everything += [Asked(text, (family,), "negation", None, no, time) for text, family, no, time in NEGATED]
    count = min(most or len(everything), len(everything))
    return [everything[index * len(everything) // count] for index in range(count)]


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
