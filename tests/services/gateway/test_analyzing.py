"""AnalyzePrompt with a real text encoder behind it, without one, and what its parts do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from soundstage.video.v1 import video_pb2 as pb

from libs.errors import FailedPrecondition, Unavailable
from services.gateway.concepts import MOST_PARTS, Bank, parts_of
from services.gateway.languages import UNSURE, language_of
from services.gateway.prompts import BASE, RIVALS, THRESHOLD, WEIGHT
from tests.services.gateway.conftest import Scene, refused, serving_gateway, settings_for
from tests.support.embedding import serving_encoder
from tests.support.stages import StageServers
from training.scenes import FAMILIES

RICH = "a campfire on a beach at night, close up, flames flicker and the wood crackles"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory, temporal_address: str) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("gateway")
    async with serving_encoder() as encoder_address:
        settings = settings_for(
            folder, temporal_address, "127.0.0.1:1", role="api", encoder_address=encoder_address, analyze_seconds=60
        )
        async with serving_gateway(settings, StageServers(), folder / "artifacts") as scene:
            yield scene


async def analyzed(api: Scene, prompt: str) -> pb.AnalyzePromptResponse:
    return await api.stub.AnalyzePrompt(pb.AnalyzePromptRequest(prompt=prompt), timeout=120)


def finding(answer: pb.AnalyzePromptResponse, aspect: str) -> pb.PromptFinding:
    [found] = [one for one in answer.findings if one.aspect == aspect]
    return found


@pytest.mark.asyncio(loop_scope="module")
async def test_a_good_prompt_is_told_what_is_good(api: Scene) -> None:
    answer = await analyzed(api, RICH)
    assert answer.score > 0.9
    assert "fire" in answer.scenes
    assert (answer.language, answer.motion, answer.audible) == ("en", pb.PROMPT_MOTION_PHYSICAL, True)
    assert not answer.too_complex
    assert all(found.positive for found in answer.findings), answer.findings
    assert {"subject", "setting", "light", "motion", "camera", "sound", "audibility"} == {
        found.aspect for found in answer.findings
    }
    assert (finding(answer, "subject").part, finding(answer, "light").part) == ("a campfire", "at night")


@pytest.mark.asyncio(loop_scope="module")
async def test_words_outside_the_bank_are_understood(api: Scene) -> None:
    """No word of these is in the concept bank; counting words found nothing."""
    answer = await analyzed(api, "Vesuvius erupting after nightfall")
    assert list(answer.scenes) == ["lava"]
    assert finding(answer, "light").positive


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_missing_or_vague_is_told_with_what_would_help(api: Scene) -> None:
    answer = await analyzed(api, "stars, dynamic, masterpiece")
    assert list(answer.scenes) == ["night sky"]
    assert answer.motion == pb.PROMPT_MOTION_VAGUE
    assert "which way" in finding(answer, "motion").message
    assert finding(answer, "wording").part == "masterpiece"
    assert not finding(answer, "audibility").positive
    positives = [found.positive for found in answer.findings]
    assert positives == sorted(positives, reverse=True)
    better = await analyzed(api, answer.suggestions[0])
    assert better.score > answer.score


@pytest.mark.asyncio(loop_scope="module")
async def test_what_the_model_cannot_make_is_told(api: Scene) -> None:
    car = await analyzed(api, "a red sports car")
    wish = await analyzed(api, "surprise me")
    assert wish.score < car.score < 0.2
    assert "fire" in finding(car, "subject").message
    for suggestion in car.suggestions:
        assert (await analyzed(api, suggestion)).score > 0.7


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", Bank.read().scenes["diorama"])
async def test_each_scenes_own_prompt_is_a_good_one_of_it(api: Scene, name: str) -> None:
    answer = await analyzed(api, Bank.read().scenes["diorama"][name].prompt)
    assert name in answer.scenes
    assert answer.score > 0.7


@pytest.mark.asyncio(loop_scope="module")
async def test_too_much_at_once_and_other_languages_are_told(api: Scene) -> None:
    much = await analyzed(api, "a campfire, then a blizzard, then a waterfall, then a volcano and fireworks at night")
    assert much.too_complex
    assert not finding(much, "complexity").positive
    german = await analyzed(api, "ein Lagerfeuer am Strand bei Nacht")
    assert german.language == "de"
    assert "English" in finding(german, "language").message
    assert 0.1 < german.score < 0.5
    assert much.score < 0.5


@pytest.mark.asyncio(loop_scope="module")
async def test_long_and_odd_prompts_are_answered(api: Scene) -> None:
    for prompt in ("fire " * 400, "x" * 2000, "?!", "🔥🔥🔥", "a\nb\tc\u0000d"[:5], "on, at, in."):
        answer = await analyzed(api, prompt)
        assert 0 <= answer.score <= 1
        assert answer.findings


@pytest.mark.asyncio(loop_scope="module")
async def test_without_the_encoder_it_says_so_and_the_rest_works(
    tmp_path_factory: pytest.TempPathFactory, temporal_address: str
) -> None:
    for address, kind, reason in (
        ("127.0.0.1:1", Unavailable, "ENCODER_UNAVAILABLE"),
        ("", FailedPrecondition, "ENCODER_NOT_CONFIGURED"),
    ):
        folder = tmp_path_factory.mktemp("gateway")
        settings = settings_for(folder, temporal_address, "127.0.0.1:1", role="api", encoder_address=address)
        async with serving_gateway(settings, StageServers(), folder / "artifacts") as scene:
            error = await refused(scene.stub.AnalyzePrompt(pb.AnalyzePromptRequest(prompt="fire"), timeout=60))
            assert (type(error), error.reason) == (kind, reason)
            assert (await scene.create()).state == pb.STATE_QUEUED


def test_a_prompt_is_cut_into_thoughts() -> None:
    wholes, windows = parts_of("A campfire on a beach at night, close up; sparks fly")
    assert wholes == ["A campfire", "on a beach", "at night", "close up", "sparks fly"]
    assert windows == []
    wholes, windows = parts_of("big dark waves roll slowly")
    assert wholes == ["big dark waves roll slowly"]
    assert windows == ["big dark waves", "dark waves roll", "waves roll slowly", "roll slowly"]
    assert parts_of("…") == (["…"], [])
    assert len(parts_of(", ".join(f"word{n} and more of it" for n in range(999)))[0]) == MOST_PARTS


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("a campfire on a beach at night", "en"),
        ("une forte pluie pendant la nuit", "fr"),
        ("山谷里的瀑布从高处落下，水声很大", "zh"),
        ("костёр на берегу", "ru"),
        ("fog", UNSURE),
        ("", UNSURE),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert [language_of(text) for _ in range(3)] == [language] * 3


def test_the_bank_is_whole() -> None:
    bank = Bank.read()
    assert set(bank.scenes["diorama"]) == {name.replace("_", " ") for name in FAMILIES}, "what Diorama was trained on"
    assert set(THRESHOLD) == set(bank.aspects)
    assert set(RIVALS) | set(RIVALS.values()) <= set(bank.aspects)
    assert BASE + sum(WEIGHT.values()) == pytest.approx(1)
    assert set(WEIGHT) <= set(bank.aspects)
    for concept, examples in bank.concepts().items():
        assert len(examples) >= 3, concept
        assert len(set(examples)) == len(examples), concept
