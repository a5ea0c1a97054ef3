"""Says what a prompt gives a model to work with: what it names, what is missing, and what would do better.

It follows what guides for text-to-video models advise: one subject, said concretely; where it is and in what light;
movement as something that happens to matter ("foam runs back") instead of a wish ("dynamic"); how it is seen; what is
heard; not too much at once. What a part of the prompt says is told by its likeness to examples (`concepts.py`). It
judges neither taste nor grammar. How far to trust it is measured: `python -m bench prompts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from services.gateway.concepts import Concepts, Likeness, Scene
from services.gateway.languages import UNSURE, language_of

READS = "en"
"""The language that the text encoder was trained on."""


class Motion(StrEnum):
    NONE = "NONE"
    VAGUE = "VAGUE"
    """Movement is wished for, but not what moves and how."""
    PHYSICAL = "PHYSICAL"


THRESHOLD: Mapping[str, float] = {
    "setting": 0.12,
    "light": 0.28,
    "motion": -0.25,
    "camera": 0.55,
    "sound": -0.1,
    "vague": 0.5,
    "vague_motion": 0.4,
    "sequence": 0.8,
    "other": 0.1,
    "noisy": 0.1,
}
"""From which likeness on a part says a concept. Set by looking at the benchmark's prompts "tune" and "second"."""

EMPTY = 0.0
"""A part that says an empty word at least so much is not taken for a subject."""

RIVALS: Mapping[str, str] = {"motion": "vague_motion"}

SCENE_THRESHOLD, SURE_SCENE = 0.05, 0.6
"""The same for scenes; the second where something that is no scene was named before."""

SCENES_AT_ONCE = 2
"""More than these are too many for one short video. Where a model has no list of scenes, one thing after another is."""

BASE, OTHER, NOTHING = 0.45, 0.06, 0.03
"""Score of a scene that the model knows; of things it does not know; of no subject at all."""
WEIGHT: Mapping[str, float] = {"motion": 0.16, "sound": 0.12, "light": 0.1, "setting": 0.1, "camera": 0.07}
"""What each aspect adds to a subject's score; with `BASE` they add up to 1."""
OTHER_SHARE = 0.15
"""Of the aspects' weights where the subject is nothing that the model knows."""
TOO_COMPLEX, VAGUE_LOSS, OTHER_LANGUAGE = 0.35, 0.06, 0.33
"""Factor for too much at once; loss by empty words; score of a prompt in a language that the model does not read."""


@dataclass(frozen=True)
class Evidence:
    """What was found in a prompt. `said`: for each aspect the part that says it."""

    said: Mapping[str, str]
    motion: Motion
    scenes: tuple[str, ...]
    """Of the model, in the order of the prompt."""
    knows_everything: bool
    """The model was trained on pictures of everything, so there are no `scenes`."""
    audible: bool
    too_complex: bool
    language: str

    @property
    def is_read(self) -> bool:
        return self.language in (READS, UNSURE)

    @property
    def subject(self) -> bool:
        return "subject" in self.said


@dataclass(frozen=True)
class Finding:
    """`part`: what of the prompt it is about; empty for what is missing."""

    aspect: str
    positive: bool
    message: str
    part: str = ""


@dataclass(frozen=True)
class Analysis:
    score: float
    findings: list[Finding]
    suggestions: list[str]
    evidence: Evidence


class PromptAnalyst:
    def __init__(self, concepts: Concepts) -> None:
        self._concepts = concepts

    async def analyze(self, prompt: str, family: str) -> Analysis:
        """What is good first, then what is missing, weightiest first. Raises what the embedder raises."""
        scenes = self._concepts.bank.scenes.get(family, {})
        evidence = gather(await self._concepts.likeness(prompt, family), scenes, language_of(prompt))
        findings = sorted(_findings(evidence, list(scenes)), key=lambda finding: not finding.positive)
        return Analysis(round(score_of(evidence), 2), findings, _suggestions(prompt, evidence, scenes), evidence)


def refused(analysis: Analysis, reason: str) -> Analysis:
    """The analysis of a prompt that the server does not take: that comes first, and no variation of it is suggested."""
    finding = Finding("safety", False, f"it would be refused: {reason}")
    return replace(analysis, score=0.0, findings=[finding, *analysis.findings], suggestions=[])


def gather(likeness: Likeness, scenes: Mapping[str, Scene], language: str) -> Evidence:
    said = {aspect: part for aspect in THRESHOLD if (part := _says(likeness, aspect, RIVALS.get(aspect)))}
    named = _scenes(likeness)
    if subject := next(iter(named.values()), "") or said.get("other", "") or _anything(likeness, said):
        said["subject"] = subject
    motion = Motion.PHYSICAL if "motion" in said else Motion.VAGUE if "vague_motion" in said else Motion.NONE
    return Evidence(
        said=said,
        motion=motion,
        scenes=tuple(named),
        knows_everything=not scenes,
        audible=not said.keys().isdisjoint(("sound", "noisy")) or any(scenes[name].audible for name in named),
        too_complex=len(named) > SCENES_AT_ONCE or (not scenes and "sequence" in said),
        language=language,
    )


def score_of(evidence: Evidence) -> float:
    """0 to 1: how surely the model makes what the writer has in mind."""
    if not evidence.is_read:
        return OTHER_LANGUAGE
    if not evidence.subject:
        return NOTHING
    added = sum(weight for aspect, weight in WEIGHT.items() if aspect in evidence.said)
    if not evidence.scenes and not evidence.knows_everything:
        return OTHER + OTHER_SHARE * added
    loss = VAGUE_LOSS * (("vague" in evidence.said) + (evidence.motion is Motion.VAGUE))
    return (BASE + added - loss) * (TOO_COMPLEX if evidence.too_complex else 1.0)


def _says(likeness: Likeness, aspect: str, rival: str | None) -> str:
    """The part that says it most clearly, or nothing. A part that says the rival more clearly does not count."""
    said = likeness.aspects[aspect]
    allowed = said >= THRESHOLD[aspect]
    if rival is not None:
        allowed &= said > likeness.aspects[rival]
    return likeness.parts[int(np.argmax(np.where(allowed, said, -np.inf)))] if allowed.any() else ""


def _scenes(likeness: Likeness) -> dict[str, str]:
    """Scenes that the prompt names, each with the part that does. A part names one scene at most."""
    if not likeness.scenes:
        return {}
    names = list(likeness.scenes)
    table = np.stack([likeness.scenes[name] for name in names])
    best, which = table.max(axis=0), table.argmax(axis=0)
    other, threshold = likeness.aspects["other"], SCENE_THRESHOLD
    found: dict[str, str] = {}
    for index, part in enumerate(likeness.parts):
        if best[index] >= threshold and best[index] > other[index]:
            found.setdefault(names[which[index]], part)
        elif not found and other[index] >= THRESHOLD["other"] and other[index] > best[index]:
            threshold = SURE_SCENE
    return found


def _anything(likeness: Likeness, said: Mapping[str, str]) -> str:
    """The first part that stands for nothing else and holds no empty words."""
    taken = {part for aspect, part in said.items() if aspect in ("setting", "light", "camera", "sequence")}
    vague = np.maximum(likeness.aspects["vague"], likeness.aspects["vague_motion"])
    for part, whole, emptiness in zip(likeness.parts, likeness.whole, vague, strict=True):
        if whole and part not in taken and emptiness < EMPTY:
            return part
    return ""


GOOD = {
    "setting": "says where it happens",
    "light": "says what the light is like",
    "camera": "says how it is seen",
    "sound": "says what is to be heard",
}
MISSING = {
    "setting": "say where it happens",
    "light": "say the time of day or where the light comes from",
    "camera": "say how it is seen: near or from afar, from which side, whether the camera moves",
    "sound": "name a sound and what makes it, if one matters to you",
}
ADDED = {"light": "at night", "setting": "on a beach", "camera": "close up"}
"""What a suggestion adds for an aspect that is missing."""


def _findings(evidence: Evidence, known: list[str]) -> list[Finding]:
    findings = [_subject(evidence, known), _motion(evidence)]
    for aspect in ("light", "setting", "sound", "camera"):
        part = evidence.said.get(aspect, "")
        findings.append(Finding(aspect, bool(part), GOOD[aspect] if part else MISSING[aspect], part))
    findings.append(_audibility(evidence))
    if evidence.too_complex:
        many = _listed(list(evidence.scenes))
        findings.insert(0, Finding("complexity", False, f"{many} are too much for one short video: choose one of them"))
    if "vague" in evidence.said:
        empty = "words like these add nothing that can be shown: say what is to be seen instead"
        findings.append(Finding("wording", False, empty, evidence.said["vague"]))
    if not evidence.is_read:
        what = f"the model reads English, and this looks like another language ({evidence.language}): translate it"
        findings.insert(0, Finding("language", False, what))
    return findings


def _subject(evidence: Evidence, known: list[str]) -> Finding:
    part = evidence.said.get("subject", "")
    if evidence.scenes:
        return Finding("subject", True, f"the model was trained on {_listed(list(evidence.scenes))}", part)
    if known:
        return Finding("subject", False, f"the model was only trained on {_listed(known)}: name one of them", part)
    return Finding("subject", bool(part), "says what is shown" if part else "say what is to be shown", part)


def _motion(evidence: Evidence) -> Finding:
    match evidence.motion:
        case Motion.PHYSICAL:
            return Finding("motion", True, "says what moves and how", evidence.said["motion"])
        case Motion.VAGUE:
            vague = (
                "wishes for movement: say what moves, which way and how fast, as in 'smoke drifts slowly to the right'"
            )
            return Finding("motion", False, vague, evidence.said["vague_motion"])
        case Motion.NONE:
            return Finding("motion", False, "say what moves and how strongly or fast, as in 'rough waves roll in'")


def _audibility(evidence: Evidence) -> Finding:
    if evidence.audible:
        return Finding("audibility", True, "there is something to hear")
    return Finding("audibility", False, "hardly anything here makes a sound: expect a quiet video, or name a sound")


def _suggestions(prompt: str, evidence: Evidence, scenes: Mapping[str, Scene]) -> list[str]:
    if evidence.too_complex:
        return [scenes[name].prompt for name in evidence.scenes[:3]]
    if evidence.scenes and evidence.is_read:
        added = [phrase for aspect, phrase in ADDED.items() if aspect not in evidence.said]
        better = [f"{prompt.strip().rstrip('.')}, {', '.join(added)}"] if added else []
        return better + ([scenes[evidence.scenes[0]].prompt] if evidence.motion is not Motion.PHYSICAL else [])
    if evidence.knows_everything and evidence.subject:
        added = [phrase for aspect, phrase in ADDED.items() if aspect not in evidence.said and aspect != "setting"]
        return [f"{prompt.strip().rstrip('.')}, {', '.join(added)}"] if added else []
    return [scene.prompt for scene in list(scenes.values())[:3]]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
