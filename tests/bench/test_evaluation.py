"""The measures of the evaluation, on clips of which the answer is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.evaluation import camera, hearing, layers, motion
from bench.evaluation.asked import Asked, inside, outside, said
from bench.evaluation.clips import Made, Shown, rendered
from bench.evaluation.figures import Seen, figures_of
from bench.evaluation.first_frame import Kept, psnr, redrawn
from bench.evaluation.hearing import Space, Synchrony
from bench.evaluation.layers import Layers
from bench.evaluation.page import write_page
from bench.evaluation.picture import Probes, frechet, hues
from libs.families.diorama.autoencoder import AutoencoderDiorama
from training.autoencoder import MODEL
from training.captions import HELD_OUT_WORDS
from training.scenes import FAMILIES, behind
from training.scenes.base import Camera, SceneSpec
from training.scenes.camera import MOVES


@pytest.fixture(scope="module")
def probes() -> Probes:
    return Probes(clips_a_family=40, families=("fire", "aurora", "fireworks"))


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_prompts_stand_outside_the_grammar_and_name_what_is_known() -> None:
    prompts = outside()
    assert len({one.prompt for one in prompts}) == len(prompts) >= 60
    assert {family for one in prompts for family in one.families} == set(FAMILIES)
    assert {one.kind for one in prompts} == {"synonyms", "order", "mixed", "negation", "colour", "camera"}
    grammar = {one.prompt.lower() for one in inside(40)}
    assert [one.prompt for one in prompts if one.kind != "negation" and one.prompt.lower() in grammar] == []
    for one in prompts:
        assert one.says.get("camera", MOVES[0]) in MOVES
        colours = getattr(FAMILIES[one.families[0]], "COLOURS", ())
        assert "colour" not in one.says or one.says["colour"] in colours
    assert len(outside(20)) == 20


def test_grammar_prompts_take_the_families_in_turn_and_hold_no_held_out_word() -> None:
    prompts = inside(2)
    assert [one.families[0] for one in prompts] == [*FAMILIES, *FAMILIES]
    assert not [one for one in prompts if any(word in one.prompt.lower() for word in HELD_OUT_WORDS)]


# --- motion ----------------------------------------------------------------------------------------------------------


def texture(shift: float, seed: int = 0) -> np.ndarray:
    x, y = np.arange(64)[None, :] - shift, np.arange(64)[:, None]
    phases = np.random.default_rng(seed).uniform(0, 6, 3)
    waves = np.sin(x / 3 + phases[0]) + np.sin(y / 4 + phases[1]) + np.sin((x + y) / 5 + phases[2])
    return np.repeat((128 + 30 * waves)[..., None], 3, axis=-1).round().clip(0, 255).astype(np.uint8)


def test_flow_finds_how_far_a_texture_moved() -> None:
    before, after = (texture(shift).mean(-1).astype(np.float32) for shift in (0.0, 0.8))
    down, right = motion.flow(before, after)
    assert np.median(right) == pytest.approx(0.8, abs=0.15)
    assert np.median(down) == pytest.approx(0.0, abs=0.1)
    assert np.abs(after - motion.moved(before, np.stack([down, right]))).mean() < 0.4 * np.abs(after - before).mean()


def test_what_moves_flickers_less_than_what_changes_at_random() -> None:
    moving = motion.measure(np.stack([texture(0.8 * frame) for frame in range(13)]))
    random = motion.measure(np.stack([texture(0.0, frame) for frame in range(13)]))
    assert moving.flicker < 0.3 * random.flicker
    assert moving.speed == pytest.approx(0.8, abs=0.25)
    assert moving.jump == pytest.approx(1.0, abs=0.1)


def test_a_clip_that_changes_where_latent_frames_meet_has_a_jump() -> None:
    at = [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    rng = np.random.default_rng(0)
    frames = np.stack([texture(2.0 * place) for place in at]) + rng.integers(0, 2, (13, 64, 64, 3), dtype=np.uint8)
    assert motion.measure(frames).jump > 5


# --- picture ---------------------------------------------------------------------------------------------------------


def test_frechet_distance_of_like_sets_is_small_beside_that_of_unlike_ones() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 400, 40)).astype(np.float32)
    assert frechet(a, a) == pytest.approx(0.0, abs=1e-3)
    assert frechet(a, b) < 0.05 * frechet(a + 3, b)


def test_probes_tell_attributes_of_rendered_clips_they_were_not_fitted_to(probes: Probes) -> None:
    assert min(probes.rendered_right.values()) > 0.7
    fire = SceneSpec("fire", time_of_day="night", side="left", seed=123)
    told = [
        probes.of(rendered(replace(fire, seed=seed, side=side), 9).frames, "fire", "side")  # type: ignore[arg-type]
        for seed in range(6)
        for side in ("left", "right")
    ]
    assert told.count("left") == told.count("right") == 6


def test_an_attribute_counts_only_where_the_prompt_names_it() -> None:
    fire = SceneSpec("fire", time_of_day="night", side="left", camera="pan left")
    assert said("A fire at night", fire) == {"time_of_day": "night"}
    assert said("A fire on the left, panning left", fire) == {"side": "left", "camera": "pan left"}
    assert said("stars, the moon on the left side", SceneSpec("night_sky", side="left")) == {"side": "left"}
    assert said("red fireworks", SceneSpec("fireworks", colour="red")) == {"colour": "red"}
    assert said("a fire on the left in the rain", SceneSpec("rain", background="fire", side="left")) == {}


def test_probes_tell_the_colour_of_fireworks(probes: Probes) -> None:
    for colour in ("red", "green", "blue", "golden"):
        spec = SceneSpec("fireworks", time_of_day="night", colour=colour, seed=77)
        assert probes.of(rendered(spec, 25).frames, "fireworks", "colour") == colour


def test_hues_are_of_what_is_vivid_and_stands_before_the_rest() -> None:
    frames = np.full((2, 64, 64, 3), (50, 110, 230), np.uint8)
    frames[:, 20:30, 20:30] = (255, 0, 0)
    assert hues(frames).argmax() == 0
    assert hues(frames)[0] > 0.75
    assert hues(frames).sum() == pytest.approx(1.0, abs=1e-5)


# --- camera ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("move", ["still", *MOVES])
def test_a_rendered_move_is_told(move: Camera) -> None:
    assert camera.told(rendered(SceneSpec("fire", camera=move, seed=3), 29).frames) == move
    assert camera.told(rendered(SceneSpec("meadow", camera=move, seed=4), 17).frames) == move


# --- sound -----------------------------------------------------------------------------------------------------------


def clicks(*frames: int, count: int = 61) -> np.ndarray:
    rng = np.random.default_rng(0)
    sound = 1e-3 * rng.standard_normal((2, count * 4000)).astype(np.float32)
    for frame in frames:
        sound[:, frame * 4000 : frame * 4000 + 2400] += 0.3 * rng.standard_normal((2, 2400)).astype(np.float32)
    return sound


def test_onsets_are_found_where_sounds_begin() -> None:
    found = hearing.onsets(clicks(10, 30), 61)
    assert len(found) == 2
    assert [hearing.nearest(found, frame) for frame in (10, 30)] == pytest.approx([0.0, 0.0], abs=0.3)
    assert hearing.nearest(found, 20) == pytest.approx(10, abs=0.5)
    assert hearing.nearest(hearing.onsets(clicks(), 61), 20) == hearing.FARTHEST


def test_balance_is_towards_the_louder_side() -> None:
    left, right = (clicks(10) * np.array(gains)[:, None] for gains in ((1.0, 0.5), (0.5, 1.0)))
    assert hearing.balance(left) < -5 < 5 < hearing.balance(right)


def test_the_trained_sound_begins_with_its_picture_and_not_with_another() -> None:
    found = hearing.synchrony(6, 61)
    assert found.events >= 10
    assert found.own <= 1 < found.strangers


def test_the_levels_of_two_sounds_are_found_in_their_sum() -> None:
    spec = SceneSpec("fire", time_of_day="night", background="sea", seed=3)
    front, back = rendered(replace(spec, background=None), 24).sound, rendered(behind(spec), 24).sound
    for level in (0.2, 1.0):
        truth = 10 * np.log10((level * front**2).mean() * level / (back**2).mean())
        assert layers.front_over_back(level * front + back, front, back, 24) == pytest.approx(truth, abs=1.0)


def test_a_sound_of_the_background_alone_has_no_louder_front() -> None:
    def background_alone(frames: np.ndarray, prompt: str, seed: int) -> np.ndarray:
        return rendered(SceneSpec("sea", time_of_day="night", distance="far", seed=seed), len(frames)).sound

    found = layers.layers(2, 24, background_alone)
    assert found.rendered == 1.0
    assert found.nearer_louder < 1.0
    assert found.difference < 3.0


# --- first frame, table and page -------------------------------------------------------------------------------------


def test_the_autoencoder_redraws_a_picture_better_than_a_grey_one() -> None:
    autoencoder = AutoencoderDiorama.from_pretrained(MODEL, low_cpu_mem_usage=False)
    picture = rendered(SceneSpec("waterfall", seed=5), 9, 256).frames[0]
    assert psnr(redrawn(autoencoder, picture), picture) > psnr(np.full_like(picture, 128), picture) + 8
    assert psnr(picture, picture) > 60


def test_the_page_shows_the_table_and_the_clips(probes: Probes, tmp_path: Path) -> None:
    """Rendered clips in the place of made ones: all aims but the noise of the measures are met."""
    made = []
    for one in inside(2):
        assert one.spec is not None
        like = rendered(one.spec, 13)
        made.append(Made(one, rendered(one.spec, 13, other=3), like))
    strange = Asked("surf", ("sea",), "synonyms")
    made.append(Made(strange, Shown(np.zeros((13, 64, 64, 3), np.uint8), clicks(3, count=13)), None))
    seen = Seen(
        made, Kept(30, 40, 31), Synchrony(9, 0.1, 4.0, 0.1, 1.0), Space(9, 0.9, 6.0), Layers(9, 0.9, 1.0, 7.0), probes
    )
    results = figures_of(seen)
    values = {figure.name: figure.value for figure in results.figures}
    assert values["scene_top1.grammar"] > 0.85
    assert values["scene_top1.outside_grammar"] == 0.0
    assert values["frechet.made"] < 10 * values["frechet.rendered"]
    assert 0.5 < values["motion.flicker"] < 2
    assert values["obeyed.camera.still"] > 0.7
    assert {"obeyed.colour.rendered", "layers.nearer_louder"} <= set(values)
    page = write_page(results, made, tmp_path).read_text()
    assert "| scene_top1.outside_grammar | 0 | share | ≥ 0.80 |" in page
    for sheet in ("evaluation_grammar.png", "evaluation_outside.png"):
        assert sheet in page
        assert (tmp_path / sheet).stat().st_size > 10_000
