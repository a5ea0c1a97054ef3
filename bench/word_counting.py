"""The way in which AnalyzePrompt worked before: it looks for words. Kept to compare with, by `bench.prompts`."""

from __future__ import annotations

import re

WEIGHT = {"subject": 0.5, "setting": 0.12, "light": 0.12, "motion": 0.10, "sound": 0.10, "camera": 0.06}

LEXICON: dict[str, str] = {
    "subject": "fire campfire bonfire flame flames burning embers fireplace blaze sea ocean waves wave surf tide beach "
    "shore coast rain raining rainy downpour drizzle thunderstorm thunder lightning storm snow snowing snowy snowfall "
    "blizzard snowflakes winter waterfall waterfalls cascade falls cloud clouds cloudy cumulus overcast smoke "
    "smoking chimney fumes steam plume stars starry galaxy moon constellation comet meteor milky aurora northern "
    "lights borealis polar firework fireworks rockets lava volcano magma eruption molten meadow grass field "
    "flowers prairie wheat underwater reef coral bubbles fish seabed pond lake ripples puddle raindrops",
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


def aspects_by_words(prompt: str) -> frozenset[str]:
    words = frozenset(re.findall(r"[a-z]+(?:-[a-z]+)*", prompt.lower()))
    return frozenset(aspect for aspect, known in LEXICON.items() if words & frozenset(known.split()))


def score_by_words(prompt: str) -> float:
    return sum(WEIGHT[aspect] for aspect in aspects_by_words(prompt))
