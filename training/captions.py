"""Captions for rendered scenes: a small grammar with much variation, and prompts outside it to test with.

Each attribute that changes the picture is named only sometimes, so that a model also learns what a scene looks like
when the prompt does not say. The words of ``HELD_OUT_WORDS`` never appear: the evaluation asks for them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.scenes import FAMILIES, behind, meadow, sample_spec, varied
from training.scenes.base import SceneSpec

MENTION_PROBABILITY = 0.6
BACKGROUND_MENTION_PROBABILITY = 0.95
CAMERA_MENTION_PROBABILITY = 0.85
SOUND_PROBABILITY = 0.15
SUBJECT_ONLY_PROBABILITY = 0.1

HELD_OUT_WORDS = (
    "bonfire",
    "surf",
    "blaze",
    "downpour",
    "cascade",
    "northern lights",
    "blizzard",
    "stargazing",
    "milky way",
    "beacon",
    "banner",
)

TIME_PHRASES: dict[str, tuple[str, ...]] = {
    "day": (
        "on a bright day",
        "in daylight",
        "during the day",
        "by day",
        "in the daytime",
        "on a sunny day",
        "at noon",
    ),
    "sunset": ("at sunset", "in the evening light", "at dusk", "in the evening", "under an orange sky", "at sundown"),
    "night": ("at night", "under a dark sky", "in the dark", "by night", "late at night", "in the night"),
}

DISTANCE_PHRASES: dict[str, tuple[str, ...]] = {
    "near": ("close up", "nearby", "seen from up close", "very near", "close to the camera", "up close"),
    "far": ("in the distance", "far away", "seen from afar", "a long way off", "far off", "seen from far away"),
}

SIDE_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "to the left of the picture", "on the left side", "at the left", "on the left-hand side"),
    "centre": ("in the middle", "in the centre", "in the center of the picture", "in the middle of the picture"),
    "right": (
        "on the right",
        "to the right of the picture",
        "on the right side",
        "at the right",
        "on the right-hand side",
    ),
}

OWN_SIDE_PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "night_sky": {
        "left": ("with the moon on the left", "the moon on the left side"),
        "centre": ("without a moon", "on a moonless night"),
        "right": ("with the moon on the right", "the moon on the right side"),
    },
    "rain": {
        "left": ("with lightning on the left", "lightning on the left side", "on the left"),
        "centre": ("with lightning in the middle", "lightning in the centre", "in the middle"),
        "right": ("with lightning on the right", "lightning on the right side", "on the right"),
    },
}
"""Families whose side is that of something in them: the moon, the lightning."""

STRENGTH_ADJECTIVES: dict[str, dict[str, tuple[str, ...]]] = {
    "fire": {"weak": ("small", "gentle", "weak", "low"), "strong": ("strong", "raging", "big", "fierce", "roaring")},
    "sea": {"weak": ("calm", "gentle", "quiet"), "strong": ("rough", "stormy", "strong", "wild")},
    "rain": {"weak": ("light", "gentle", "weak", "soft"), "strong": ("heavy", "strong", "violent")},
    "snow": {"weak": ("light", "gentle", "soft"), "strong": ("heavy", "strong", "thick", "driving")},
    "waterfall": {"weak": ("small", "thin", "gentle", "weak"), "strong": ("big", "mighty", "strong", "powerful")},
    "clouds": {"weak": ("slow", "light", "gentle"), "strong": ("fast", "heavy", "rushing")},
    "smoke": {"weak": ("thin", "light", "gentle"), "strong": ("thick", "heavy", "strong", "dense")},
    "night_sky": {"weak": ("silent", "still", "calm"), "strong": ("windy", "breezy")},
    "aurora": {"weak": ("faint", "weak", "gentle", "pale"), "strong": ("strong", "bright", "vivid", "intense")},
    "fireworks": {"weak": ("sparse", "small", "modest"), "strong": ("heavy", "intense", "spectacular", "big")},
    "lava": {"weak": ("weak", "small", "calm", "gentle"), "strong": ("strong", "violent", "big", "powerful")},
    "meadow": {"weak": ("calm", "gentle", "quiet"), "strong": ("windy", "windswept", "stormy")},
    "underwater": {"weak": ("calm", "quiet", "gentle"), "strong": ("lively", "busy", "bubbling")},
    "pond": {"weak": ("calm", "quiet", "still"), "strong": ("rainy", "lively", "busy")},
    "lighthouse": {"weak": ("faint", "dim", "weak"), "strong": ("bright", "powerful", "strong")},
    "flag": {"weak": ("limp", "gentle", "calm"), "strong": ("flapping", "wild", "windswept")},
    "balloon": {"weak": ("calm", "quiet", "gentle"), "strong": ("roaring", "fiery", "strong")},
    "pendulum": {"weak": ("quiet", "gentle", "soft"), "strong": ("loud", "wide-swinging", "strong")},
    "fountain": {"weak": ("small", "gentle", "low", "weak"), "strong": ("big", "tall", "grand", "strong")},
    "tornado": {"weak": ("thin", "weak", "narrow", "small"), "strong": ("huge", "violent", "broad", "strong")},
    "fireflies": {"weak": ("few", "sparse"), "strong": ("many", "countless", "swarming")},
}

STRENGTH_PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "fire": {"weak": ("burning gently", "burning low"), "strong": ("burning fiercely", "raging")},
    "sea": {"weak": ("with small waves", "with gentle waves"), "strong": ("with big waves", "with strong waves")},
    "rain": {"weak": ("falling gently", "in a drizzle"), "strong": ("pouring down", "in a storm")},
    "snow": {"weak": ("falling gently", "in a light wind"), "strong": ("in a storm", "in a strong wind")},
    "waterfall": {"weak": ("with little water",), "strong": ("with much water", "thundering down")},
    "clouds": {"weak": ("drifting slowly", "in a light wind"), "strong": ("racing by", "in a strong wind")},
    "smoke": {"weak": ("rising gently", "rising slowly"), "strong": ("billowing", "rising fast")},
    "night_sky": {
        "weak": ("in silence", "without wind"),
        "strong": ("in a light wind", "with a night wind", "an owl hooting"),
    },
    "aurora": {"weak": ("glowing faintly", "moving gently"), "strong": ("glowing brightly", "dancing strongly")},
    "fireworks": {"weak": ("now and then", "one at a time"), "strong": ("one after another", "in a grand finale")},
    "lava": {"weak": ("bubbling gently", "glowing quietly"), "strong": ("erupting violently", "spewing high")},
    "meadow": {"weak": ("in a gentle breeze", "in a light wind"), "strong": ("in a strong wind", "in a storm")},
    "underwater": {
        "weak": ("with a few bubbles", "with few bubbles"),
        "strong": ("with many bubbles", "full of bubbles"),
    },
    "pond": {"weak": ("with a few drops", "with single raindrops"), "strong": ("with many drops", "in steady rain")},
    "lighthouse": {
        "weak": ("shining faintly", "with a weak light"),
        "strong": ("shining brightly", "with a strong light"),
    },
    "flag": {"weak": ("hanging limply", "waving gently"), "strong": ("flapping fast", "waving wildly")},
    "balloon": {
        "weak": ("with a small flame", "with short bursts"),
        "strong": ("with a big flame", "with long bursts"),
    },
    "pendulum": {"weak": ("swinging gently", "swinging a little"), "strong": ("swinging wide", "swinging strongly")},
    "fountain": {
        "weak": ("with low jets", "trickling gently"),
        "strong": ("shooting high", "with tall jets", "spraying high into the air"),
    },
    "tornado": {
        "weak": ("turning slowly", "thin as a rope"),
        "strong": ("tearing up the ground", "whirling violently", "throwing up much dust"),
    },
    "fireflies": {
        "weak": ("only a few of them", "glowing here and there"),
        "strong": ("a whole swarm", "in great numbers"),
    },
}

BACKGROUND_PHRASES: dict[tuple[str, str], tuple[str, ...]] = {
    ("fire", "sea"): (
        "waves in the background",
        "with waves in the background",
        "on a beach",
        "on the beach with the sea behind it",
        "by the sea",
        "on a beach, waves in the background",
        "in front of the sea",
        "on the shore",
    ),
    ("fire", "snow"): (
        "in the snow",
        "on a snowy hill",
        "snow falling around it",
        "in front of snowy fir trees",
        "with snow falling behind it",
    ),
    ("fireworks", "sea"): (
        "over the sea",
        "above the waves",
        "waves in the background",
        "with waves below",
        "at the beach",
        "over a beach",
        "over the ocean",
    ),
    ("balloon", "meadow"): ("over a field", "above the fields", "over open country"),
    ("balloon", "sea"): ("over the sea", "above the waves", "waves in the background", "over a beach", "by the sea"),
    ("rain", "fire"): ("on a campfire", "over a campfire", "with a campfire burning in it", "on a burning fire"),
    ("rain", "meadow"): ("over a field", "on the fields", "over the open fields", "on a field"),
    ("rain", "pond"): ("on a pond", "over a pond", "on lily pads", "on a pond with lily pads"),
    ("rain", "sea"): ("over the sea", "on the ocean", "on a beach with waves", "over the waves"),
}

VEIL_SUBJECTS: dict[str, tuple[str, ...]] = {"rain": ("rain", "falling rain", "raindrops")}
"""Names of what falls before another scene: of the rain, without the lightning."""

VEIL_PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "rain": {
        "weak": ("in the rain", "in light rain", "rain falling gently", "while a light rain falls"),
        "strong": ("in the rain", "in heavy rain", "rain pouring down", "while heavy rain falls"),
    },
}
"""The same, said of the scene that it falls before."""

SOUND_PHRASES: dict[str, tuple[str, ...]] = {
    "fire": ("with crackling sound", "crackling", "with the sound of crackling wood"),
    "sea": ("with the sound of waves", "with waves crashing"),
    "rain": ("with the sound of rain", "with pattering drops"),
    "snow": ("with howling wind", "with wind howling"),
    "waterfall": ("with rushing water", "with a roaring sound"),
    "clouds": ("with a low wind", "with soft wind"),
    "smoke": ("with a soft hiss", "hissing", "with a hiss and soft crackling"),
    "night_sky": ("nearly silent", "with a quiet night sound"),
    "aurora": ("with a high shimmering sound", "with an airy sound"),
    "fireworks": ("with loud bangs", "booming and crackling"),
    "lava": ("with a low rumble", "rumbling"),
    "meadow": ("with rustling grass", "rustling"),
    "underwater": ("with the sound of bubbles", "with muffled bubbling"),
    "pond": ("with dripping sounds", "with the plop of drops"),
    "lighthouse": ("with a foghorn", "with the sound of a foghorn", "its horn sounding"),
    "flag": ("with flapping cloth", "with the sound of flapping", "flapping"),
    "balloon": ("with a roaring burner", "with the sound of its burner"),
    "pendulum": ("ticking", "with a ticking sound", "with tick and tock"),
    "fountain": ("with splashing water", "splashing", "with the sound of splashing"),
    "tornado": ("with a deep pulsing roar", "roaring like a train", "with a deep roar"),
    "fireflies": ("with crickets chirping", "with loud crickets", "crickets chirping"),
}

CAMERA_PHRASES: dict[str, tuple[str, ...]] = {
    "still": (),
    "pan left": (
        "the camera pans to the left",
        "the camera pans left",
        "panning left",
        "panning to the left",
        "a slow pan to the left",
        "the camera moving left",
        "the view sweeping to the left",
    ),
    "pan right": (
        "the camera pans to the right",
        "the camera pans right",
        "panning right",
        "panning to the right",
        "a slow pan to the right",
        "the camera moving right",
        "the view sweeping to the right",
    ),
    "push in": (
        "slowly zooming in",
        "zooming in",
        "the camera moves closer",
        "the camera pushes in",
        "a slow zoom in",
        "the camera moving closer",
        "the view drawing closer",
    ),
}

MORE_SUBJECTS: dict[str, tuple[str, ...]] = {
    "fire": ("a fire", "a campfire", "flames", "a burning log fire", "a fire burning"),
    "sea": ("the sea", "the ocean", "waves", "sea waves", "waves breaking on the beach"),
    "rain": ("rain", "rain with thunder", "a storm with lightning", "rain and lightning", "falling rain"),
    "snow": ("snow", "snowfall", "falling snow", "a snowstorm", "whirling snow"),
    "waterfall": ("a waterfall", "a waterfall in the rocks", "a high waterfall", "falling water"),
    "clouds": ("clouds", "clouds in the sky", "drifting clouds", "white clouds", "a cloudy sky"),
    "smoke": ("smoke", "rising smoke", "a column of smoke", "a plume of smoke", "smoke in the air"),
    "lighthouse": ("a lighthouse on the coast", "a red and white lighthouse"),
    "flag": ("a big flag", "a striped flag"),
    "balloon": ("a hot-air balloon in the air", "a striped balloon", "a big balloon"),
    "pendulum": ("a clock", "a pendulum clock", "a ticking clock"),
    "fountain": ("a garden fountain", "a fountain with jets of water", "jets of water", "a water fountain"),
    "tornado": ("a whirling tornado", "a whirlwind", "a tornado in open country", "a tornado touching the ground"),
    "fireflies": ("blinking fireflies", "fireflies in the grass", "fireflies on a summer night", "glowing insects"),
}
"""Plain names beside the ones in the scene's own ``SUBJECTS``."""

AFTER_COMMA = ("waves", "snow ", "rain ", "the camera", "the view", "a slow")
"""How phrases begin that are clauses of their own."""

PREFIXES = ("", "", "", "", "", "a video of ", "a view of ", "footage of ", "we see ", "a scene with ")

HOLDOUT: tuple[tuple[str, str], ...] = (
    ("a bonfire blazing on the sand after dark", "fire"),
    ("logs ablaze in a stone hearth", "fire"),
    ("surf breaking on the shore", "sea"),
    ("breakers rolling in from the Atlantic", "sea"),
    ("a downpour with lightning cracking overhead", "rain"),
    ("a thunderstorm drenching the land", "rain"),
    ("a blizzard sweeping across the forest", "snow"),
    ("a white winter squall, flakes whirling everywhere", "snow"),
    ("a cascade tumbling down a cliff", "waterfall"),
    ("whitewater plunging over rocks into a pool", "waterfall"),
    ("fluffy cumulus sailing across a blue heaven", "clouds"),
    ("a chimney puffing fumes into the air", "smoke"),
    ("stargazing far from the city lights", "night_sky"),
    ("the milky way above silent hills", "night_sky"),
    ("northern lights dancing over Lapland", "aurora"),
    ("New Year's Eve pyrotechnics exploding over town", "fireworks"),
    ("molten rock spilling from an erupting Etna", "lava"),
    ("the breeze combing through a field of barley", "meadow"),
    ("a scuba diver's view of the reef, air rising to the surface", "underwater"),
    ("raindrops making rings among the water lilies", "pond"),
    ("a beacon sweeping its ray over the cape", "lighthouse"),
    ("the lamp tower that warns ships off the reef", "lighthouse"),
    ("a banner fluttering from its mast", "flag"),
    ("an ensign snapping above the fort", "flag"),
    ("aeronauts firing the burner beneath their envelope", "balloon"),
    ("a montgolfier adrift above the valley", "balloon"),
    ("a grandfather timepiece, its bob going to and fro", "pendulum"),
    ("tick-tock, the brass weight keeps time", "pendulum"),
    ("spouts of water playing in a marble basin on the piazza", "fountain"),
    ("geysers of spray above the palace gardens", "fountain"),
    ("a vortex ripping across the Kansas plains", "tornado"),
    ("lightning bugs winking in the backyard in July", "fireflies"),
)
"""Prompts written by hand outside the grammar, each with the family it should give."""


def caption(spec: SceneSpec, rng: np.random.Generator) -> str:
    """Describes a scene in one line of English; only attributes that the scene varies are named.

    Of a scene in the rain half the captions say "rain over a field", the others "a field in the rain".
    """
    subject = _pick(rng, subjects(spec))
    if spec.background is None:
        alone = spec.camera == "still" and rng.random() < SUBJECT_ONLY_PROBABILITY
        return subject if alone else _described(spec, subject, [], rng)
    back = _pick(rng, BACKGROUND_PHRASES[spec.family, spec.background])
    if spec.family not in VEIL_PHRASES:
        return _described(spec, subject, [back] if rng.random() < BACKGROUND_MENTION_PROBABILITY else [], rng)
    if rng.random() < 0.5:
        return _described(spec, f"{subject} {back}", [], rng)
    veil = _pick(rng, VEIL_PHRASES[spec.family][spec.strength])
    veiled = replace(behind(spec), camera=spec.camera)
    return _described(veiled, _pick(rng, subjects(veiled)), [veil], rng)


def subjects(spec: SceneSpec) -> tuple[str, ...]:
    """Every noun phrase that may name a scene."""
    if spec.background and spec.family in VEIL_SUBJECTS:
        return VEIL_SUBJECTS[spec.family]
    if spec.family == "meadow" and meadow.is_wheat(spec):
        return meadow.WHEAT_SUBJECTS
    return tuple(FAMILIES[spec.family].SUBJECTS) + MORE_SUBJECTS.get(spec.family, ())


def side_phrases(spec: SceneSpec) -> dict[str, tuple[str, ...]]:
    """How the scene's side is said: that of what is behind, if it stands in the rain."""
    named = spec.background if spec.background and spec.family in VEIL_PHRASES else spec.family
    return OWN_SIDE_PHRASES.get(named, SIDE_PHRASES)


def with_adjective(noun: str, adjective: str) -> str:
    """Puts an adjective before a noun phrase: "an aurora", "faint" -> "a faint aurora"."""
    article, _, rest = noun.partition(" ")
    if article in ("a", "an"):
        return f"{'an' if adjective[0] in 'aeiou' else 'a'} {adjective} {rest}"
    if article == "the":
        return f"the {adjective} {rest}"
    return f"{adjective} {noun}"


def holdout_prompts() -> list[tuple[str, str]]:
    """(prompt, family) pairs that the grammar cannot produce, one or more a family."""
    return list(HOLDOUT)


def grammar_prompts(n: int, seed: int) -> list[tuple[str, SceneSpec]]:
    """``n`` (caption, description) pairs that take the families in turn, the same for the same seed."""
    rng = np.random.default_rng(seed)
    names = list(FAMILIES)
    specs = [sample_spec(rng, names[index % len(names)]) for index in range(n)]
    return [(caption(spec, rng), spec) for spec in specs]


def _described(spec: SceneSpec, subject: str, phrases: list[str], rng: np.random.Generator) -> str:
    """A sentence with these phrases and, often, the scene's colour, strength and whatever else it varies."""
    if spec.colour and _mentions(rng, spec, "colour"):
        subject = with_adjective(subject, spec.colour)
    phrases = phrases + _phrases(spec, rng)
    if _mentions(rng, spec, "strength"):
        if rng.random() < 0.5:
            subject = with_adjective(subject, _pick(rng, STRENGTH_ADJECTIVES[spec.family][spec.strength]))
        else:
            phrases.append(_pick(rng, STRENGTH_PHRASES[spec.family][spec.strength]))
    return _sentence(subject, phrases, rng)


def _phrases(spec: SceneSpec, rng: np.random.Generator) -> list[str]:
    phrases = []
    if _mentions(rng, spec, "time_of_day"):
        phrases.append(_pick(rng, TIME_PHRASES[spec.time_of_day]))
    if _mentions(rng, spec, "distance"):
        phrases.append(_pick(rng, DISTANCE_PHRASES[spec.distance]))
    if _mentions(rng, spec, "side"):
        phrases.append(_pick(rng, side_phrases(spec)[spec.side]))
    if spec.camera != "still" and rng.random() < CAMERA_MENTION_PROBABILITY:
        phrases.append(_pick(rng, CAMERA_PHRASES[spec.camera]))
    if rng.random() < SOUND_PROBABILITY:
        phrases.append(_pick(rng, SOUND_PHRASES[spec.family]))
    return phrases


def _mentions(rng: np.random.Generator, spec: SceneSpec, attribute: str) -> bool:
    return attribute in varied(spec) and bool(rng.random() < MENTION_PROBABILITY)


def _sentence(subject: str, phrases: list[str], rng: np.random.Generator) -> str:
    """Joins subject and phrases in a random order; one phrase may lead, the first letter may be a capital.

    A phrase that begins as in `AFTER_COMMA` always stands after one.
    """
    rng.shuffle(phrases)
    text = _pick(rng, PREFIXES) + subject
    lead = phrases.pop() if phrases and rng.random() < 0.2 else ""
    for phrase in phrases:
        text += (", " if phrase.startswith(AFTER_COMMA) or rng.random() < 0.35 else " ") + phrase
    text = f"{lead}, {text}" if lead else text
    return text[0].upper() + text[1:] + "." if rng.random() < 0.15 else text


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
