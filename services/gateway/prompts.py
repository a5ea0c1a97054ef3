"""Says what a prompt gives a model to work with. Simple and honest: it looks for words, and knows nothing else.

A prompt is looked through for six aspects. `subject` counts most; for a family in `SUBJECTS` it asks for one of the
things that family was trained on, for other families only for something beyond the other aspects' words. The score is
the sum of `WEIGHT` of the aspects found. It does not judge grammar, style or taste.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WEIGHT = {"subject": 0.5, "setting": 0.12, "light": 0.12, "motion": 0.10, "sound": 0.10, "camera": 0.06}
"""Share of the score by aspect; adds up to 1."""

LEXICON: dict[str, str] = {
    "setting": "beach shore coast forest wood woods field mountain mountains valley desert city street harbour harbor "
    "lake river garden sky horizon cliff cave village island meadow background foreground distance near far left right",
    "light": "day daylight night sunset sunrise dusk dawn evening morning noon moonlight moonlit sunny bright dark dim "
    "glow glowing golden starlight backlit shadow lantern overcast",
    "motion": "slow slowly fast calm gentle gently wild strong weak drifting flowing falling rising rolling crashing "
    "flickering swirling blowing waving moving running breaking raging roaring storm stormy wind windy",
    "camera": "close-up closeup wide aerial overhead panning zoom macro shot view static handheld angle",
    "sound": "sound quiet loud silent crackle crackling roar roaring rumble rumbling thunder splash splashing patter "
    "hiss hissing howling whistling rustle rustling boom bang murmur birds crickets",
}

SUBJECTS: dict[str, dict[str, str]] = {
    "diorama": {
        "fire": "fire campfire bonfire flame flames burning embers fireplace blaze",
        "sea": "sea ocean waves wave surf tide beach shore coast",
        "rain": "rain raining rainy downpour drizzle thunderstorm thunder lightning storm",
        "snow": "snow snowing snowy snowfall blizzard snowflakes winter",
        "waterfall": "waterfall waterfalls cascade falls",
        "clouds": "cloud clouds cloudy cumulus overcast",
        "smoke": "smoke smoking chimney fumes steam plume",
        "night sky": "stars starry galaxy moon constellation comet meteor milky",
        "aurora": "aurora northern lights borealis polar",
        "fireworks": "firework fireworks rockets",
        "lava": "lava volcano magma eruption molten",
        "meadow": "meadow grass field flowers prairie wheat",
        "underwater": "underwater reef coral bubbles fish seabed",
        "pond": "pond lake ripples puddle raindrops",
    }
}
"""What a family was trained on, with words for it. Families not listed were trained on pictures of everything."""

ADVICE = {
    "setting": ("says where it happens", "say where it happens", "on a beach"),
    "light": ("says what the light is like", "say the time of day or the light", "at night"),
    "motion": ("says how things move", "say how strong or fast things move", "moving slowly"),
    "sound": ("says what is to be heard", "name a sound if one matters to you", "with a quiet rustling sound"),
    "camera": ("says how it is seen", "say how it is seen, near or from afar", "wide shot"),
}
ADDED_TO_SUGGESTIONS = ("light", "setting", "motion")
"""Aspects that a suggestion adds: they change the picture most."""


@dataclass(frozen=True)
class Finding:
    aspect: str
    positive: bool
    message: str


@dataclass(frozen=True)
class Analysis:
    score: float
    findings: list[Finding]
    suggestions: list[str]


def analyze(prompt: str, family: str) -> Analysis:
    """What is good first, then what is missing, weightiest first."""
    words = frozenset(re.findall(r"[a-z]+(?:-[a-z]+)*", prompt.lower()))
    findings = [_subject(words, family), *(_aspect(aspect, words) for aspect in LEXICON)]
    findings.sort(key=lambda finding: (not finding.positive, -WEIGHT[finding.aspect]))
    score = sum(WEIGHT[finding.aspect] for finding in findings if finding.positive)
    return Analysis(round(score, 2), findings, _suggestions(prompt, family, findings))


def _subject(words: frozenset[str], family: str) -> Finding:
    known = SUBJECTS.get(family)
    if known is None:
        others = frozenset(" ".join(LEXICON.values()).split())
        positive = len(words - others) > 1
        return Finding("subject", positive, "says what is shown" if positive else "say what is to be shown")
    found = [name for name, synonyms in known.items() if words & frozenset(synonyms.split())]
    if found:
        return Finding("subject", True, f"the model knows {_listed(found)} well")
    return Finding("subject", False, f"the model was only trained on {_listed(list(known))}: name one of them")


def _aspect(aspect: str, words: frozenset[str]) -> Finding:
    there, missing, _ = ADVICE[aspect]
    positive = bool(words & frozenset(LEXICON[aspect].split()))
    return Finding(aspect, positive, there if positive else missing)


def _suggestions(prompt: str, family: str, findings: list[Finding]) -> list[str]:
    missing = {finding.aspect for finding in findings if not finding.positive}
    if "subject" in missing and family in SUBJECTS:
        return ["a campfire on a beach at night, waves in the background", "heavy rain with thunder at sunset"]
    added = [ADVICE[aspect][2] for aspect in ADDED_TO_SUGGESTIONS if aspect in missing]
    return [f"{prompt.strip().rstrip('.')}, {', '.join(added)}"] if added else []


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
