"""How well AnalyzePrompt ranks prompts as a person does and finds what they say, beside the counting of words before.

The grades are in `graded_prompts.tsv`, written before anything was tuned on them. "held" is the figure to trust: no
concept and no threshold was changed by looking at those prompts.
"""

from __future__ import annotations

import asyncio
import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.options import Options
from bench.results import Figure, Results
from bench.word_counting import aspects_by_words, score_by_words
from libs.families import load_sentences, use_threads
from services.gateway.concepts import Bank, Concepts
from services.gateway.prompts import Analysis, PromptAnalyst

FILE = Path(__file__).with_name("graded_prompts.tsv")
FAMILY = "diorama"
ASPECTS = ("subject", "setting", "light", "camera", "sound")
UNCLEAR = "-"


@dataclass(frozen=True)
class Graded:
    """One line of the file; see its head for what the columns mean."""

    part: str
    grade: float
    aspects: frozenset[str]
    motion: str
    audible: str
    fit: str
    language: str
    prompt: str


@dataclass(frozen=True)
class Judged:
    graded: Graded
    analysis: Analysis


class OwnEmbedder:
    """The encoder service's work, in this process."""

    def __init__(self) -> None:
        self._sentences = load_sentences()

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._sentences(texts)


def run(options: Options) -> Results:
    use_threads(options.threads)
    judged = asyncio.run(judge(read()))
    parts = defaultdict(list)
    for one in judged:
        parts["held" if one.graded.part == "held" else "tune"].append(one)
    figures = [figure for part in ("held", "tune") for figure in figures_of(part, parts[part])]
    return Results(figures, {"prompts": [_told(one) for one in judged]})


def read(path: Path = FILE) -> list[Graded]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [_graded(row) for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]


def _graded(row: dict[str, str]) -> Graded:
    aspects = frozenset(row.pop("aspects").split(",")) - {""}
    return Graded(grade=float(row.pop("grade")), aspects=aspects, **row)


async def judge(prompts: Sequence[Graded]) -> list[Judged]:
    analyst = PromptAnalyst(Concepts(Bank.read(), OwnEmbedder()))
    return [Judged(graded, await analyst.analyze(graded.prompt, FAMILY)) for graded in prompts]


def figures_of(part: str, judged: Sequence[Judged]) -> list[Figure]:
    """Rank correlation over all prompts; accuracies over those in English, where there is something to find."""
    grades = [one.graded.grade for one in judged]
    english = [one for one in judged if one.graded.language == "en"]
    ours, words = (_accuracies(english, found) for found in (_found, _found_by_words))
    scores, by_words = [one.analysis.score for one in judged], [score_by_words(one.graded.prompt) for one in judged]
    languages = [one.analysis.evidence.language in _allowed(one.graded) for one in judged]
    return [
        Figure(f"{part}.prompts", len(judged), "count"),
        Figure(f"{part}.rank_correlation", spearman(scores, grades), "Spearman"),
        Figure(f"{part}.rank_correlation.words", spearman(by_words, grades), "Spearman"),
        *(Figure(f"{part}.{name}", share, "share") for name, share in ours.items()),
        *(Figure(f"{part}.{name}.words", share, "share") for name, share in words.items()),
        Figure(f"{part}.language", _share(languages), "share"),
    ]


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Equal values share their mean rank."""
    array = np.asarray(values)
    return np.array([(array < value).sum() + ((array == value).sum() - 1) / 2 for value in array])


def _accuracies(judged: Sequence[Judged], found: Callable[[Judged], dict[str, object]]) -> dict[str, float]:
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for one in judged:
        truth = _truth(one.graded)
        for name, value in found(one).items():
            if truth[name] != UNCLEAR:
                right[name].append(value == truth[name])
    return {name: _share(values) for name, values in right.items()}


def _truth(graded: Graded) -> Mapping[str, object]:
    named = {aspect: aspect in graded.aspects for aspect in ASPECTS}
    moving = {"motion": graded.motion, "moves": graded.motion == "physical"}
    return {**named, **moving, "audible": graded.audible, "fit": graded.fit}


def _found(judged: Judged) -> dict[str, object]:
    evidence = judged.analysis.evidence
    named = {aspect: aspect in evidence.said for aspect in ASPECTS}
    motion = evidence.motion.value.lower()
    fit = "complex" if evidence.too_complex else "known" if evidence.scenes else "other"
    audible = "rich" if evidence.audible else "quiet"
    return {**named, "motion": motion, "moves": motion == "physical", "audible": audible, "fit": fit}


def _found_by_words(judged: Judged) -> dict[str, object]:
    found = aspects_by_words(judged.graded.prompt)
    return {**{aspect: aspect in found for aspect in ASPECTS}, "moves": "motion" in found}


def _allowed(graded: Graded) -> tuple[str, ...]:
    """One or two words may be left undetermined."""
    return (graded.language, "und") if len(graded.prompt.split()) < 3 else (graded.language,)


def _share(values: Sequence[bool]) -> float:
    return float(np.mean(values))


def _told(judged: Judged) -> dict[str, Any]:
    graded, evidence = judged.graded, judged.analysis.evidence
    wrong = sorted(name for name, value in _found(judged).items() if _truth(graded)[name] not in (UNCLEAR, value))
    return {
        "part": graded.part,
        "grade": graded.grade,
        "score": judged.analysis.score,
        "score_by_words": round(score_by_words(graded.prompt), 2),
        "scenes": list(evidence.scenes),
        "wrong": wrong if graded.language == "en" else [],
        "prompt": graded.prompt,
    }
