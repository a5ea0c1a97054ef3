"""Captions say what the scene shows, only that, and never use the words kept for the evaluation."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from training import captions
from training.scenes import FAMILIES, PAIRS, behind, sample_spec
from training.scenes.base import SceneSpec


def many(spec: SceneSpec, count: int = 200) -> list[str]:
    rng = np.random.default_rng(5)
    return [captions.caption(spec, rng).lower() for _ in range(count)]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_captions_name_the_subject(family: str) -> None:
    spec = sample_spec(np.random.default_rng(1), family)
    last_words = {subject.split()[-1] for subject in captions.subjects(spec)}
    assert all(any(word in text for word in last_words) for text in many(spec, 50))


def test_every_caption_is_unambiguous_about_side_and_distance() -> None:
    spec = SceneSpec("lava", time_of_day="night", distance="far", side="left")
    texts = many(spec)
    assert any("left" in text for text in texts)
    assert any("far" in text or "distance" in text for text in texts)
    assert not any("right" in text or "close" in text or "near" in text or "sunset" in text for text in texts)


def test_opposite_attributes_get_opposite_words() -> None:
    spec = SceneSpec("meadow", time_of_day="sunset", strength="weak", seed=1)
    assert any("gentle" in text for text in many(spec))
    assert not any("gentle" in text for text in many(replace(spec, strength="strong")))
    assert not any(re.search(r"sun(set|down)", text) for text in many(replace(spec, time_of_day="day")))


def test_attributes_are_sometimes_left_out() -> None:
    texts = many(SceneSpec("underwater", side="right"))
    share = np.mean(["right" in text for text in texts])
    assert 0.4 < share < 0.7


def test_attributes_that_do_not_vary_are_not_named() -> None:
    assert not any(re.search(r"\b(left|near|close)\b", text) for text in many(SceneSpec("aurora", side="left")))


def test_background_is_named_only_when_there_is_one() -> None:
    alone = SceneSpec("fireworks", time_of_day="night")
    words = re.compile(r"\b(sea|waves|beach|ocean)\b")
    assert not any(words.search(text) for text in many(alone))
    assert np.mean([bool(words.search(text)) for text in many(replace(alone, background="sea"))]) > 0.85


@pytest.mark.parametrize(("front", "back"), PAIRS)
def test_both_scenes_of_a_pair_are_named(front: str, back: str) -> None:
    spec = SceneSpec(front, background=back, time_of_day="night", strength="weak", seed=1)
    named = [{subject.split()[-1] for subject in captions.subjects(one)} for one in (spec, behind(spec))]
    backs = {word for phrase in captions.BACKGROUND_PHRASES[front, back] for word in phrase.split()} - {"with", "in"}
    texts = [set(re.findall(r"[a-z]+", text)) for text in many(spec)]
    assert all(text & (named[0] | {"rain"}) for text in texts)
    assert np.mean([bool(text & (named[1] | backs)) for text in texts]) > 0.85


def test_what_is_said_of_a_fire_in_the_rain_is_true_of_the_fire() -> None:
    texts = many(SceneSpec("rain", background="fire", side="left", distance="far", time_of_day="night"))
    assert 0.4 < np.mean(["left" in text for text in texts]) < 0.8
    assert not any(re.search(r"lightning|thunder|close|daylight|right", text) for text in texts)


@pytest.mark.parametrize("family", [name for name in sorted(FAMILIES) if "colour" in FAMILIES[name].VARIES])
def test_a_colour_is_said_often_and_no_other_colour_ever(family: str) -> None:
    colours = FAMILIES[family].COLOURS  # type: ignore[attr-defined]
    texts = many(SceneSpec(family, time_of_day="night", colour=colours[0]))
    assert 0.35 < np.mean([f" {colours[0]} " in f" {text} " for text in texts]) < 0.7
    assert not [text for text in texts if any(re.search(rf"\b{other}\b", text) for other in colours[1:])]


def test_strength_stands_before_colour() -> None:
    texts = many(SceneSpec("aurora", colour="purple", strength="strong"))
    assert any(re.search(r"an intense purple aurora", text) for text in texts)


def test_a_moving_camera_is_nearly_always_named_and_a_still_one_never() -> None:
    words = {
        "pan left": r"\b(pans?|panning|moving|sweeping)\b.* left",
        "pan right": r"\b(pans?|panning|moving|sweeping)\b.* right",
        "push in": r"zoom|closer|pushes",
    }
    still = SceneSpec("fire", time_of_day="night")
    for move, pattern in words.items():
        texts = many(replace(still, camera=move))  # type: ignore[arg-type]
        assert 0.75 < np.mean([bool(re.search(pattern, text)) for text in texts]) < 0.95
    assert not any(re.search(r"camera (pans|pushes|mov)|panning|sweeping|zoom|closer", text) for text in many(still))


def test_wheat_is_yellow_and_grass_is_green() -> None:
    wheat, grass = SceneSpec("meadow", seed=3), SceneSpec("meadow", seed=4)
    assert all(re.search(r"wheat|field", text) for text in many(wheat, 50))
    assert not any(re.search(r"wheat|golden", text) for text in many(grass, 50))


@pytest.mark.parametrize(
    ("noun", "adjective", "expected"),
    [("an aurora", "faint", "a faint aurora"), ("the sea", "rough", "the rough sea"), ("flames", "low", "low flames")],
)
def test_adjectives_get_the_right_article(noun: str, adjective: str, expected: str) -> None:
    assert captions.with_adjective(noun, adjective) == expected
    assert captions.with_adjective("a fire", "intense") == "an intense fire"


def test_held_out_words_never_appear_in_the_grammar() -> None:
    texts = [text.lower() for text, _ in captions.grammar_prompts(1500, seed=11)]
    pattern = re.compile(r"\b(" + "|".join(captions.HELD_OUT_WORDS) + r")\b")
    assert [text for text in texts if pattern.search(text)] == []
    assert len(set(texts)) > 1000


def test_grammar_prompts_cover_all_families_and_repeat() -> None:
    prompts = captions.grammar_prompts(2 * len(FAMILIES), seed=2)
    assert prompts == captions.grammar_prompts(2 * len(FAMILIES), seed=2)
    assert {spec.family for _, spec in prompts} == set(FAMILIES)


def test_holdout_prompts_are_of_every_family_and_outside_the_grammar() -> None:
    prompts = captions.holdout_prompts()
    known = {text.lower() for text, _ in captions.grammar_prompts(1500, seed=3)}
    assert not known & {text.lower() for text, _ in prompts}
    assert {family for _, family in prompts} == set(FAMILIES)
