"""What parts of a prompt are about, told by their likeness to the examples of a bank of concepts (`concepts.toml`).

A prompt is cut at punctuation and before prepositions into parts of a thought each; long parts also give windows of
three words. Each text becomes a direction (`embeddings.py`); what concept it says is read off along lines (`Lines`).
"""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.gateway.embeddings import Embedder

BANK_FILE = Path(__file__).with_name("concepts.toml")

PREPOSITIONS = (
    "on in at under over with without while and then as by into onto through during behind beside across above below "
    "among to past around each before after against along between inside near off of toward towards upon until when "
    "where"
)
FILLERS = frozenset(f"a an the {PREPOSITIONS} from it its is are".split())
CUT = re.compile(rf"[.,;:!?()\n\u3001\u3002]+|\s+(?=(?:{'|'.join(PREPOSITIONS.split())})\s)", re.IGNORECASE)
WINDOW_WORDS = 3
SMOOTHING = 1.0
"""Keeps a line from bending to single examples."""
MOST_PARTS = 96
"""Of a prompt; 2,000 characters give more. What is beyond is not looked at."""


Name = str | tuple[str, str]
"""Of a concept: an aspect, or a family and one of its scenes."""
Directions = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """Something a family was trained on. `prompt` asks for it as well as it can be asked for."""

    examples: tuple[str, ...]
    audible: bool
    prompt: str


@dataclass(frozen=True)
class Bank:
    aspects: Mapping[str, tuple[str, ...]]
    scenes: Mapping[str, Mapping[str, Scene]]

    @classmethod
    def read(cls, path: Path = BANK_FILE) -> Bank:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        scenes = {
            family: {
                name: Scene(tuple(scene["examples"]), scene["audible"], scene["prompt"])
                for name, scene in named.items()
            }
            for family, named in data["scenes"].items()
        }
        return cls({name: tuple(examples) for name, examples in data["aspects"].items()}, scenes)

    def concepts(self) -> dict[Name, tuple[str, ...]]:
        """The examples of every aspect, by its name, and of every scene, by its family and name."""
        concepts: dict[Name, tuple[str, ...]] = {}
        for aspect, examples in self.aspects.items():
            concepts[aspect] = examples
        for family, named in self.scenes.items():
            concepts |= {(family, name): scene.examples for name, scene in named.items()}
        return concepts


@dataclass(frozen=True)
class Likeness:
    """How much each part of a prompt says each concept: about 1 as its examples do, about -1 as those of others do."""

    parts: tuple[str, ...]
    whole: NDArray[np.bool_]
    """Which parts are no windows."""
    aspects: Mapping[str, NDArray[np.float64]]
    scenes: Mapping[str, NDArray[np.float64]]


class Concepts:
    """The bank with its directions, which are asked for once, when they are first needed."""

    def __init__(self, bank: Bank, embedder: Embedder) -> None:
        self.bank, self._embedder = bank, embedder
        self._learning: asyncio.Task[Lines] | None = None

    async def likeness(self, prompt: str, family: str) -> Likeness:
        """Raises what the embedder raises."""
        lines = await self._learn()
        wholes, windows = parts_of(prompt)
        said = lines.read(await self._embedder.embed([*wholes, *windows]))
        return Likeness(
            parts=(*wholes, *windows),
            whole=np.arange(len(wholes) + len(windows)) < len(wholes),
            aspects={name: said[name] for name in self.bank.aspects},
            scenes={name: said[family, name] for name in self.bank.scenes.get(family, {})},
        )

    async def _learn(self) -> Lines:
        """Shielded: where the first caller's patience is too short for it, the next one finds it done."""
        if self._learning is None or _failed(self._learning):
            self._learning = asyncio.create_task(self._lines())
        return await asyncio.shield(self._learning)

    async def _lines(self) -> Lines:
        concepts = self.bank.concepts()
        texts = list(dict.fromkeys(text for examples in concepts.values() for text in examples))
        return Lines(concepts, texts, await self._embedder.embed(texts))


def _failed(task: asyncio.Task[Lines]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


class Lines:
    """For each concept the line, among all directions, along which its examples differ from all others' most.

    Least squares: 1 for its examples and -1 for the others, both sides weighing the same. More than the nearest
    example it finds what the examples have in common, as that something moves, in words that are in none of them.
    """

    def __init__(self, concepts: Mapping[Name, tuple[str, ...]], texts: list[str], directions: Directions) -> None:
        self._names = list(concepts)
        self._middle = directions.mean(axis=0, dtype=np.float64)
        points = self._points(directions)
        lines = [_line(points, np.array([text in examples for text in texts])) for examples in concepts.values()]
        self._lines = np.stack(lines, axis=1)

    def read(self, directions: Directions) -> dict[Name, NDArray[np.float64]]:
        return dict(zip(self._names, (self._points(directions) @ self._lines).T, strict=True))

    def _points(self, directions: Directions) -> NDArray[np.float64]:
        return np.column_stack([directions - self._middle, np.ones(len(directions))])


def _line(points: NDArray[np.float64], mine: NDArray[np.bool_]) -> NDArray[np.float64]:
    weights = np.where(mine, 0.5 / mine.sum(), 0.5 / (~mine).sum()) * len(mine)
    smoothing = np.eye(points.shape[1]) * SMOOTHING
    smoothing[-1, -1] = 0.0  # where the line begins is free
    weighted = points.T * weights
    solved: NDArray[np.float64] = np.linalg.solve(weighted @ points + smoothing, weighted @ np.where(mine, 1.0, -1.0))
    return solved


def parts_of(prompt: str) -> tuple[list[str], list[str]]:
    """The prompt's parts, and windows of three words inside those that are longer; each text once."""
    wholes = list(dict.fromkeys(part for cut in CUT.split(prompt) if (part := " ".join(cut.split()))))[:MOST_PARTS]
    windows: dict[str, None] = {}
    for whole in wholes:
        words = [word for word in whole.split() if word.lower() not in FILLERS]
        if len(words) >= WINDOW_WORDS:
            for start in range(len(words) - WINDOW_WORDS + 1):
                windows[" ".join(words[start : start + WINDOW_WORDS])] = None
            windows[" ".join(words[-2:])] = None
    return wholes or [prompt], [window for window in windows if window not in wholes][: MOST_PARTS - len(wholes)]
