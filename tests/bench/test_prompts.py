"""AnalyzePrompt ranks as a person does, at least about as well as when it was measured."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.prompts import figures_of, judge, read, spearman
from bench.word_counting import aspects_by_words
from libs.families import use_threads
from services.gateway.concepts import Bank


@pytest.mark.timeout(600)
async def test_prompts_that_it_was_not_tuned_on_are_ranked_as_by_hand() -> None:
    """The floors are a little below what was measured; see bench/results/prompts.json."""
    use_threads(1)  # on a busy machine more of them only wait for each other
    held = [graded for graded in read() if graded.part == "held"]
    figures = {figure.name: figure.value for figure in figures_of("held", await judge(held))}
    assert figures["held.rank_correlation"] > 0.85
    assert figures["held.rank_correlation"] > figures["held.rank_correlation.words"]
    for aspect in ("subject", "setting", "light", "camera", "sound", "motion", "audible", "fit", "language"):
        assert figures[f"held.{aspect}"] > 0.7, aspect


def test_there_are_enough_prompts_of_every_kind() -> None:
    graded = read()
    assert len(graded) >= 40
    assert len({one.prompt for one in graded}) == len(graded)
    parts = Counter(one.part for one in graded)
    assert parts["held"] >= 20
    for part in parts:
        assert {one.fit for one in graded if one.part == part} == {"known", "other", "complex"}
        assert len({one.language for one in graded if one.part == part}) >= 4


def test_no_example_of_the_bank_is_a_held_out_prompt() -> None:
    held = [graded.prompt.lower() for graded in read() if graded.part == "held"]
    examples = {example.lower() for examples in Bank.read().concepts().values() for example in examples}
    long = [example for example in examples if len(example.split()) >= 4]
    assert [example for example in long if any(example in prompt for prompt in held)] == []


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 400]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 1, 2, 2], [1, 1, 2, 2]) == pytest.approx(1)
    assert abs(spearman([1, 2, 3, 4], [1, 4, 1, 4])) < 0.5


def test_words_are_counted_as_before() -> None:
    assert aspects_by_words("a strong campfire on a beach at night") == {"subject", "setting", "light", "motion"}
    assert aspects_by_words("a red sports car") == frozenset()
