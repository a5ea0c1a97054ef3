"""EVALUATION.md: the table, and pictures to judge it by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.evaluation.clips import Made
from bench.gallery import FRAMES, Exhibit, draw, save
from bench.results import Results
from training.look import shown
from training.scenes import FAMILIES
from training.scenes.base import SAMPLE_RATE

SHEETS = {"grammar": "evaluation_grammar.png", "outside": "evaluation_outside.png"}
OUTSIDE = 14
"""Clips of prompts outside the grammar that are shown."""

OPENING = """# Evaluation

Written by `make eval` for the weights in this folder; `evaluation.json` has every clip. `bench/evaluation/` says what
the figures mean, in a file a subject. Scenes and sounds are named by classifiers that were trained on rendered clips
alone, attributes told by probes fitted to rendered clips; `rendered` is what rendered clips reach, the most to be had.
Synchrony, space and layers are measured with the trained sound on rendered pictures, where moment, place and the parts
of the sound are known. A camera's move is told by which move explains best how the picture changed.

"""
CLOSING = """
## Clips

Four frames of each, with the spectrogram of its sound (time to the right, pitch upwards).

Prompts of the grammar, one of each family:

![clips of grammar prompts](evaluation_grammar.png)

Prompts outside the grammar:

![clips of prompts outside the grammar](evaluation_outside.png)
"""


def write_page(results: Results, made: Sequence[Made], folder: Path) -> Path:
    """Writes the page and its two sheets into ``folder``."""
    inside = [one for one in made if one.asked.kind == "grammar"]
    outside = [one for one in made if one.asked.kind != "grammar"]
    few = outside[:: max(1, len(outside) // OUTSIDE)][:OUTSIDE]
    for name, clips in (("grammar", inside[: len(FAMILIES)]), ("outside", few)):
        save(draw([_exhibit(one) for one in clips]), folder / SHEETS[name])
    path = folder / "EVALUATION.md"
    path.write_text(OPENING + "\n".join(_lines(results)) + "\n" + CLOSING, encoding="utf-8")
    return path


def _exhibit(one: Made) -> Exhibit:
    return Exhibit(one.asked.prompt, shown(one.clip.frames, FRAMES), one.clip.sound, SAMPLE_RATE)


def _lines(results: Results) -> Iterator[str]:
    yield "| figure | value | unit | aim |"
    yield "|---|---|---|---|"
    for figure in results.figures:
        yield f"| {figure.name} | {figure.value:.3g} | {figure.unit} | {figure.aim} |"
    for what in ("scenes", "sounds", "attributes"):
        mistaken: dict[str, int] = results.details[f"mistaken_{what}"]
        said = ", ".join(f"{mistake} ({count})" for mistake, count in mistaken.items())
        yield f"\nMistaken {what}: {said or 'none'}."
