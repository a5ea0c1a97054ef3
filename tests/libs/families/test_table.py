"""The table of families, and the cache of what was loaded."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from libs.errors import FailedPrecondition
from libs.families import PipelineCache, load_encode
from libs.families.table import FAMILIES


@dataclass(frozen=True)
class Card:
    name: str
    family: str = "diorama"
    path: Path = Path("models/x")


def test_unknown_family_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="diorama") as raised:
        load_encode(tmp_path, "movie-maker")
    assert raised.value.reason == "FAMILY_UNKNOWN"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_stage_gives_what_its_blocks_make(name: str) -> None:
    family = FAMILIES[name]
    for stage in (family.encode, family.denoise, family.decode):
        blocks = stage.blocks()
        made = {output.name for output in blocks.intermediate_outputs} | {given.name for given in blocks.inputs}
        assert set(stage.gives) <= made
    needed = set(family.encode.gives)
    assert needed <= {given.name for given in family.denoise.blocks().inputs}


@pytest.mark.parametrize(("shown", "made"), [(1, 1), (2, 5), (5, 5), (12, 13), (60, 61), (61, 61), (96, 97)])
def test_frames_made_are_the_next_one_and_a_multiple_of_four(shown: int, made: int) -> None:
    assert FAMILIES["diorama"].frames_made(shown) == made


def test_cache_loads_a_model_once_for_callers_at_the_same_time() -> None:
    loads: list[Path] = []

    def load(path: Path, family: str) -> object:
        loads.append(path)
        time.sleep(0.05)
        return object()

    cache = PipelineCache(load)
    got: list[tuple[object, float]] = []
    threads = [threading.Thread(target=lambda: got.append(cache.get(Card("a")))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(loads) == 1
    assert len({id(pipeline) for pipeline, _ in got}) == 1
    assert all(seconds > 0 for _, seconds in got)
    assert cache.get(Card("a")) == (got[0][0], 0.0)
    assert cache.get(Card("b"))[0] is not got[0][0]


def test_a_load_that_failed_is_tried_again() -> None:
    answers = iter([OSError("no weights"), "pipeline"])

    def load(path: Path, family: str) -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    cache = PipelineCache(load)
    with pytest.raises(OSError, match="no weights"):
        cache.get(Card("a"))
    assert cache.get(Card("a"))[0] == "pipeline"


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, libs.families; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
