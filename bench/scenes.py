"""Whether generated clips show, and sound like, what was asked for.

Prompts of the training grammar and prompts written by hand outside it are made into clips with fixed seeds, and
named by a scene classifier and a sound classifier that were trained on rendered clips alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench import scene_classes, sound_classes
from bench.options import Options
from bench.results import Figure, Results
from libs.families import JointSound, load_sound, use_threads
from training.captions import grammar_prompts, holdout_prompts
from training.look import FAMILY, FPS, Sampler, Sampling, Tile, contact_sheet, shown
from training.transformer import newest_checkpoints

PROMPT_SEED = 20_260
"""Of the grammar prompts; none of the training captions is drawn from it."""
SHEET = "scenes.png"
SHEET_EVERY = 8


@dataclass(frozen=True)
class Prompt:
    text: str
    family: str
    outside_grammar: bool


@dataclass(frozen=True)
class Verdict:
    """What the classifiers took a clip for, with the probability they gave to that and to what was asked for."""

    prompt: str
    family: str
    outside_grammar: bool
    scene: str
    scene_probability: float
    asked_probability: float
    sound: str


def run(options: Options) -> Results:
    use_threads(options.threads)
    sampling = Sampling(options.frames, options.steps or 25)
    verdicts: list[Verdict] = []
    tiles: list[Tile] = []
    prompts = list_prompts(options.prompts, options.holdout)
    began = time.perf_counter()
    for prompt, clip, sound in generate(prompts, sampling, options):
        verdicts.append(judge(prompt, clip, sound))
        tiles.append(Tile(shown(clip), prompt.text, _note(verdicts[-1])))
        seconds = (time.perf_counter() - began) / len(verdicts)
        print(
            f"  {len(verdicts)}/{len(prompts)} ({seconds:.0f} s each) {prompt.text!r}: {_note(verdicts[-1])}",
            flush=True,
        )
        if len(tiles) % SHEET_EVERY == 0 or len(tiles) == len(prompts):
            options.out.mkdir(parents=True, exist_ok=True)
            contact_sheet(tiles, side=96).quantize(128, dither=Image.Dither.NONE).save(
                options.out / SHEET, optimize=True
            )
    details = {
        "sampling": asdict(sampling),
        "seed": options.seed,
        "trained": options.trained,
        "mistaken": mistaken(verdicts),
        "clips": [asdict(verdict) for verdict in verdicts],
    }
    return Results(figures_of(verdicts), details)


def list_prompts(grammar: int, holdout: int) -> list[Prompt]:
    """``grammar`` prompts that take the families in turn, then ``holdout`` of those outside the grammar."""
    inside = [Prompt(text, spec.family, False) for text, spec in grammar_prompts(grammar, PROMPT_SEED)]
    return inside + [Prompt(text, family, True) for text, family in holdout_prompts()[:holdout]]


def generate(
    prompts: Sequence[Prompt], sampling: Sampling, options: Options
) -> Iterator[tuple[Prompt, NDArray[np.uint8], NDArray[np.float32]]]:
    """(prompt, frames (T, 256, 256, 3), sound (2, N)); the n-th clip takes seed + n."""
    sampler = Sampler(newest_checkpoints() if options.trained else {}, options.models / FAMILY)
    sound = load_sound(options.models / FAMILY, FAMILY)
    assert not isinstance(sound, JointSound), "Diorama's sound is made from its pictures"
    encoded = sampler.encode([prompt.text for prompt in prompts])
    for index, (prompt, conditioning) in enumerate(zip(prompts, encoded, strict=True)):
        clip = sampler.sample(conditioning, sampling, options.seed + index)
        yield prompt, clip, sound(clip, float(FPS), prompt.text, "full", options.seed + index)


def judge(prompt: Prompt, clip: NDArray[np.uint8], sound: NDArray[np.float32]) -> Verdict:
    scene, scores = scene_classes.classify(clip)
    heard = sound_classes.classify(sound)
    return Verdict(
        prompt.text, prompt.family, prompt.outside_grammar, scene, scores[scene], scores[prompt.family], heard
    )


def figures_of(verdicts: Sequence[Verdict]) -> list[Figure]:
    """Top-1 of scenes and sounds inside and outside the grammar, and of scenes inside it by family."""
    figures: list[Figure] = []
    for outside, name, aim in ((False, "grammar", "≥ 0.85"), (True, "outside_grammar", "≥ 0.65")):
        group = [verdict for verdict in verdicts if verdict.outside_grammar == outside]
        if group:
            figures += [
                Figure(f"scene_top1.{name}", _share(v.scene == v.family for v in group), "share", aim),
                Figure(f"sound_top1.{name}", _share(v.sound == v.family for v in group), "share", aim),
                Figure(f"clips.{name}", len(group), "count"),
            ]
    for family in sorted({verdict.family for verdict in verdicts}):
        group = [verdict for verdict in verdicts if verdict.family == family]
        figures.append(Figure(f"scene_top1.{family}", _share(v.scene == family for v in group), "share"))
        figures.append(Figure(f"sound_top1.{family}", _share(v.sound == family for v in group), "share"))
    return figures


def mistaken(verdicts: Sequence[Verdict]) -> dict[str, dict[str, int]]:
    """What was taken for what, the most frequent first: {"scene": {"sea as clouds": 2}, "sound": {...}}."""
    scenes = Counter(f"{v.family} as {v.scene}" for v in verdicts if v.scene != v.family)
    sounds = Counter(f"{v.family} as {v.sound}" for v in verdicts if v.sound != v.family)
    return {"scene": dict(scenes.most_common()), "sound": dict(sounds.most_common())}


def _share(hits: Iterator[bool]) -> float:
    return float(np.mean(list(hits)))


def _note(verdict: Verdict) -> str:
    """What was asked for, and what is seen and heard instead where that is something else."""
    seen = "" if verdict.scene == verdict.family else f", seen: {verdict.scene}"
    heard = "" if verdict.sound == verdict.family else f", heard: {verdict.sound}"
    return f"{verdict.family}{seen}{heard}"
