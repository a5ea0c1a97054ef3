"""Every scene family: shapes, levels, determinism, and that its attributes are seen and heard."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from libs.families.diorama.camera import MOST_ZOOM
from training.scenes import (
    ALL_TIMES,
    FAMILIES,
    PAIRS,
    TIMES,
    VEILS,
    behind,
    camera,
    render,
    render_takes,
    sample_spec,
    times,
    varied,
)
from training.scenes.base import SAMPLE_RATE, SIDE_POSITION, Canvas, Clip, Event, Field, SceneSpec, pan

SIZE, FRAMES, FPS = 48, 12, 12
SOUND_FRAMES = 36
EVERY = sorted(FAMILIES)


def varying(attribute: str) -> list[str]:
    return [family for family in EVERY if attribute in FAMILIES[family].VARIES]


def spec_of(family: str) -> SceneSpec:
    return SceneSpec(family, time_of_day=TIMES.get(family, ALL_TIMES)[-1], seed=4)  # type: ignore[arg-type]


def rms(sound: Field) -> float:
    return float(np.sqrt(np.mean(np.square(sound))))


def typical(sound: Field, quantile: float) -> float:
    """Level of a twelfth of a second at a quantile over time."""
    levels = np.sqrt(np.mean(np.square(sound.reshape(2, -1, SAMPLE_RATE // FPS)), axis=(0, 2)))
    return float(np.quantile(levels, quantile))


@cache
def clip_of(spec: SceneSpec, num_frames: int = FRAMES) -> Clip:
    return render(spec, num_frames, FPS, SIZE)


def test_families_go_by_their_own_names() -> None:
    assert all(name == module.FAMILY for name, module in FAMILIES.items())


@pytest.mark.parametrize("family", EVERY)
def test_clip_has_the_right_shape_and_levels(family: str) -> None:
    clip = clip_of(spec_of(family))
    assert clip.frames.shape == (FRAMES, SIZE, SIZE, 3)
    assert clip.sound.shape == (2, FRAMES * SAMPLE_RATE // FPS)
    assert clip.frames.dtype == clip.sound.dtype == np.float32
    assert np.isfinite(clip.frames).all()
    assert np.isfinite(clip.sound).all()
    assert clip.frames.min() >= 0
    assert clip.frames.max() <= 1
    assert np.abs(clip.sound).max() <= 1


@pytest.mark.parametrize("family", EVERY)
def test_picture_has_contrast_and_moves(family: str) -> None:
    frames = clip_of(spec_of(family)).frames
    assert frames.std(axis=(1, 2, 3)).min() > 0.02
    assert np.abs(np.diff(frames, axis=0)).max() > 0.03


@pytest.mark.parametrize("family", EVERY)
def test_same_spec_same_clip_other_seed_other_clip(family: str) -> None:
    spec = spec_of(family)
    again, other = render(spec, FRAMES, FPS, SIZE), render(replace(spec, seed=5), FRAMES, FPS, SIZE)
    np.testing.assert_array_equal(clip_of(spec).frames, again.frames)
    np.testing.assert_array_equal(clip_of(spec).sound, again.sound)
    assert np.abs(clip_of(spec).frames - other.frames).max() > 0.05


@pytest.mark.parametrize("family", EVERY)
def test_events_lie_inside_the_clip(family: str) -> None:
    for event in clip_of(spec_of(family), SOUND_FRAMES).events:
        assert 0 <= event.frame < SOUND_FRAMES
        assert -0.1 <= event.position <= 1.1


@pytest.mark.parametrize("family", varying("distance"))
def test_near_is_louder_than_far(family: str) -> None:
    spec = spec_of(family)
    near, far = (clip_of(replace(spec, distance=distance), SOUND_FRAMES) for distance in ("near", "far"))
    assert rms(near.sound) > 1.3 * rms(far.sound)


@pytest.mark.parametrize("family", [family for family in varying("side") if family != "night_sky"])
def test_left_is_louder_on_the_left(family: str) -> None:
    spec = spec_of(family)
    left, right = (clip_of(replace(spec, side=side), SOUND_FRAMES).sound for side in ("left", "right"))
    assert rms(left[0]) > 1.15 * rms(left[1])
    assert rms(right[1]) > 1.15 * rms(right[0])


def test_the_moon_stands_on_its_side() -> None:
    left, right = (
        clip_of(replace(spec_of("night_sky"), side=side)).frames.mean(axis=(0, 1, 3)) for side in ("left", "right")
    )
    assert left[: SIZE // 2].mean() > left[SIZE // 2 :].mean()
    assert right[: SIZE // 2].mean() < right[SIZE // 2 :].mean()


@pytest.mark.parametrize("family", varying("strength"))
def test_strong_is_louder_than_weak(family: str) -> None:
    spec = spec_of(family)
    strong, weak = (clip_of(replace(spec, strength=strength), SOUND_FRAMES) for strength in ("strong", "weak"))
    quantile = 0.2 if family == "rain" else 0.5  # what is heard before the thunder
    assert typical(strong.sound, quantile) > 1.2 * typical(weak.sound, quantile)


@pytest.mark.parametrize("family", varying("time_of_day"))
def test_time_of_day_changes_the_light(family: str) -> None:
    spec = spec_of(family)
    first, last = (
        clip_of(replace(spec, time_of_day=time)) for time in (TIMES.get(family, ALL_TIMES)[0], spec.time_of_day)
    )
    assert np.abs(first.frames.mean(axis=(0, 1, 2)) - last.frames.mean(axis=(0, 1, 2))).max() > 0.04


def test_a_calm_night_is_silent() -> None:
    assert rms(clip_of(replace(spec_of("night_sky"), strength="weak")).sound) < 0.002


def test_a_plop_is_heard_in_the_frame_of_its_drop() -> None:
    clip = clip_of(replace(spec_of("pond"), strength="weak"), SOUND_FRAMES)
    step = SAMPLE_RATE // FPS
    level = np.sqrt(np.mean(np.square(clip.sound.reshape(2, SOUND_FRAMES, step)), axis=(0, 2)))
    assert clip.events
    assert all(level[event.frame] > 5 * np.median(level) for event in clip.events)


@pytest.mark.parametrize("family", ["lighthouse", "flag", "balloon", "pendulum"])
def test_an_event_is_heard_in_its_frame(family: str) -> None:
    clip = clip_of(spec_of(family), SOUND_FRAMES)
    step = SAMPLE_RATE // FPS
    level = np.sqrt(np.mean(np.square(clip.sound.reshape(2, SOUND_FRAMES, step)), axis=(0, 2)))
    later = [event.frame for event in clip.events if event.frame > 0]
    assert later
    assert all(level[frame] > 1.5 * level[frame - 1] for frame in later)


def test_the_foghorn_sounds_while_the_lamp_looks_at_the_viewer() -> None:
    clip = clip_of(replace(spec_of("lighthouse"), time_of_day="day"), SOUND_FRAMES)
    glare = clip.frames[:, : SIZE // 2].mean(axis=(1, 2, 3))
    assert int(np.argmax(glare)) in {event.frame for event in clip.events}


def test_tick_and_tock_alternate_from_the_left_and_the_right_of_the_clock() -> None:
    events = clip_of(spec_of("pendulum"), SOUND_FRAMES).events
    assert {(event.kind, event.position < 0.5) for event in events} == {("tick", True), ("tock", False)}
    assert all(a.kind != b.kind for a, b in pairwise(events))


@pytest.mark.parametrize("family", ["flag", "balloon"])
def test_the_colour_that_is_named_is_seen(family: str) -> None:
    """Each of the four clips is the reddest, bluest, yellowest or greenest of them."""
    spec = replace(spec_of(family), time_of_day="day")
    mean = {c: clip_of(replace(spec, colour=c)).frames.mean(axis=(0, 1, 2)) for c in FAMILIES[family].COLOURS}  # type: ignore[attr-defined]
    much = {
        "red": {c: r - (g + b) / 2 for c, (r, g, b) in mean.items()},
        "blue": {c: b - (r + g) / 2 for c, (r, g, b) in mean.items()},
        "yellow": {c: min(r, g) - b for c, (r, g, b) in mean.items()},
        "green": {c: g - (r + b) / 2 for c, (r, g, b) in mean.items()},
    }
    for colour in mean:
        assert max(much[colour], key=lambda c: much[colour][c]) == colour


BANDS_HZ = {
    "clouds": (25, 200),
    "night_sky": (170, 650),
    "snow": (110, 2500),
    "smoke": (450, 5000),
    "meadow": (1700, 7500),
    "aurora": (4500, 13_000),
    "fireflies": (3800, 5300),
    "tornado": (30, 480),
    "fountain": (230, 4000),
}


@pytest.mark.parametrize("family", sorted(BANDS_HZ))
def test_soft_scenes_keep_to_their_bands(family: str) -> None:
    low, high = BANDS_HZ[family]
    power = np.square(np.abs(np.fft.rfft(clip_of(spec_of(family), SOUND_FRAMES).sound))).sum(axis=0)
    hertz = np.fft.rfftfreq(SOUND_FRAMES * SAMPLE_RATE // FPS, 1 / SAMPLE_RATE)
    assert power[(hertz >= low) & (hertz <= high)].sum() > 0.9 * power.sum()


@pytest.mark.parametrize(("family", "per_second"), [("tornado", 2.6), ("fireflies", 2.7)])
def test_roar_and_chirps_have_a_steady_beat(family: str, per_second: float) -> None:
    level = np.abs(clip_of(spec_of(family), SOUND_FRAMES).sound).mean(axis=0).reshape(-1, SAMPLE_RATE // 100).mean(1)
    spectrum = np.abs(np.fft.rfft(level - level.mean(), 4096))
    beats = np.fft.rfftfreq(4096, 0.01)
    slow = (beats > 1) & (beats < 4)
    assert beats[slow][spectrum[slow].argmax()] == pytest.approx(per_second, rel=0.15)


def test_a_splash_is_heard_in_the_frame_in_which_its_pulse_lands() -> None:
    clip = clip_of(spec_of("fountain"), SOUND_FRAMES)
    level = np.sqrt(np.mean(np.square(clip.sound.reshape(2, SOUND_FRAMES, -1)), axis=(0, 2)))
    inner = [event.frame for event in clip.events if event.frame >= 2]
    assert inner
    assert all(level[frame] > 1.5 * level[frame - 2 : frame].min() for frame in inner)


@pytest.mark.parametrize(("front", "back"), PAIRS)
def test_a_background_is_seen_and_heard(front: str, back: str) -> None:
    alone = replace(spec_of(front), time_of_day="night")
    both = clip_of(replace(alone, background=back))
    assert np.abs(both.frames - clip_of(alone).frames).mean() > 0.01
    assert both.sound.shape == clip_of(alone).sound.shape
    assert np.abs(both.sound - clip_of(alone).sound).max() > 0.005


def shift_between(before: Field, after: Field) -> int:
    """Columns by which a picture moved to the right, by the best match of their middles."""
    middle = slice(SIZE // 4, -SIZE // 4)
    errors = [np.abs(np.roll(before, by, axis=1)[:, middle] - after[:, middle]).mean() for by in range(-12, 13)]
    return int(np.argmin(errors)) - 12


@pytest.mark.parametrize(("move", "way"), [("pan left", 1), ("pan right", -1)])
def test_a_pan_moves_the_picture_against_it(move: str, way: int) -> None:
    clip = clip_of(SceneSpec("meadow", seed=4, camera=move), 61)  # type: ignore[arg-type]
    assert clip.frames.shape == (61, SIZE, SIZE, 3)
    sky = clip.frames[:, : SIZE // 3]
    assert way * shift_between(sky[0], sky[-1]) == pytest.approx(0.234 * SIZE, abs=2)


def test_sources_go_left_in_picture_and_sound_when_the_camera_pans_right() -> None:
    canvas = Canvas(61, FPS, SIZE, np.random.default_rng(0))
    spec = SceneSpec("fire", camera="pan right")
    still = Clip(np.zeros((61, 60, 60, 3), np.float32), pan(np.full(canvas.num_samples, 0.1, np.float32), 0.5))
    still.events = [Event(0, "crackle", 0.5), Event(60, "crackle", 0.5)]
    moved = camera.move(still, spec, canvas)
    first, last = (event.position for event in moved.events)
    assert first - last == pytest.approx(0.23, abs=0.02)
    angle = np.arctan2(moved.sound[1], moved.sound[0]) * 2 / np.pi
    assert angle[0] == pytest.approx(first, abs=0.01)
    assert angle[-1] == pytest.approx(last, abs=0.01)


@pytest.mark.parametrize("side", ["left", "centre", "right"])
@pytest.mark.parametrize("move", camera.MOVES)
def test_a_source_stays_on_its_side_of_a_moving_picture(side: str, move: str) -> None:
    spec = SceneSpec("fire", side=side, camera=move)  # type: ignore[arg-type]
    window = camera.window_of(spec, Canvas(61, FPS, SIZE, np.random.default_rng(0)))
    seen = window.seen_at(SIDE_POSITION[side])
    low, high = {"left": (0.08, 0.36), "centre": (0.34, 0.66), "right": (0.64, 0.92)}[side]
    assert low < seen.min() <= seen.max() < high
    assert (window.left >= 0).all()
    assert (np.maximum(window.left, window.top) + window.width <= 1 + 1e-6).all()


def test_takes_of_a_scene_differ_in_the_camera_alone() -> None:
    spec = SceneSpec("meadow", time_of_day="day", seed=4, camera="pan left")
    takes = render_takes(spec, 61, FPS, SIZE)
    assert takes.keys() == {"still", *camera.MOVES}
    np.testing.assert_array_equal(takes["pan left"].frames, clip_of(spec, 61).frames)
    middle = [takes[take].frames[30, : SIZE // 3] for take in ("still", "pan left", "pan right")]
    assert [shift_between(middle[0], other) for other in middle[1:]] == [0, 0], "they meet half way"
    assert shift_between(takes["still"].frames[0, : SIZE // 3], takes["still"].frames[-1, : SIZE // 3]) == 0


def test_what_the_camera_moves_towards_grows_and_gets_louder() -> None:
    spec = SceneSpec("waterfall", seed=4)
    canvas = Canvas(61, FPS, SIZE, np.random.default_rng(0))
    tone = Clip(np.zeros((61, 60, 60, 3), np.float32), np.full((2, canvas.num_samples), 0.05, np.float32))
    moved = camera.move(tone, replace(spec, camera="push in"), canvas).sound
    assert moved[0, -1] / moved[0, 0] == pytest.approx(MOST_ZOOM, rel=0.03)
    still, near = clip_of(spec, 61).frames, clip_of(replace(spec, camera="push in"), 61).frames
    white = [(frames[-1].min(axis=-1) > 0.6).mean() for frames in (still, near)]
    assert white[1] > 1.15 * white[0]


@pytest.mark.parametrize(("front", "back"), [pair for pair in PAIRS if pair[0] not in VEILS])
def test_the_scene_behind_is_quieter_than_alone_and_near(front: str, back: str) -> None:
    spec = SceneSpec(front, background=back, time_of_day="night", seed=4)
    rear = behind(spec)
    assert rms(clip_of(rear, SOUND_FRAMES).sound) <= rms(clip_of(replace(rear, distance="near"), SOUND_FRAMES).sound)
    assert (rear.camera, rear.distance, rear.side) == ("still", "far", "centre")


def test_a_fire_in_the_rain_burns_where_it_would_without_and_both_are_heard() -> None:
    spec = SceneSpec("rain", background="fire", time_of_day="night", side="left", strength="weak", seed=4)
    fire = clip_of(behind(spec), SOUND_FRAMES)
    both = clip_of(spec, SOUND_FRAMES)
    rain = both.sound - fire.sound
    assert both.events == fire.events
    assert 0.002 < rms(rain) < 10 * rms(fire.sound)
    assert rms(both.sound[0]) > 1.15 * rms(both.sound[1])
    hot = fire.frames[..., 0] - fire.frames[..., 2] > 0.5
    assert (both.frames[..., 0] - both.frames[..., 2])[hot].mean() > 0.35
    assert np.abs(both.frames - fire.frames)[~hot].mean() > 0.01


@pytest.mark.parametrize(("colour", "channel"), [("red", 0), ("green", 1), ("blue", 2)])
def test_fireworks_have_their_colour(colour: str, channel: int) -> None:
    light = clip_of(replace(spec_of("fireworks"), colour=colour), SOUND_FRAMES).frames
    sparks = light[light.max(axis=-1) > 0.6]
    assert (sparks.argmax(axis=-1) == channel).mean() > 0.7


@pytest.mark.parametrize(("colour", "least"), [("green", 0), ("purple", 1), ("red", 1)])
def test_an_aurora_has_its_colour(colour: str, least: int) -> None:
    mean = clip_of(replace(spec_of("aurora"), colour=colour)).frames[:, : SIZE // 2].mean(axis=(0, 1, 2))
    assert mean.argmin() == least


def test_sampled_specs_are_valid() -> None:
    rng = np.random.default_rng(0)
    specs = [sample_spec(rng) for _ in range(300)]
    assert {spec.family for spec in specs} == set(FAMILIES)
    for spec in specs:
        assert spec.time_of_day in times(spec)
        assert spec.background is None or (spec.family, spec.background) in PAIRS
        assert spec.camera in ("still", *camera.MOVES)
        assert "distance" in varied(spec) or spec.distance == "near"
    assert any(spec.background for spec in specs)
    assert 0.15 < np.mean([spec.camera != "still" for spec in specs]) < 0.35


@pytest.mark.parametrize("spec", [SceneSpec("city"), SceneSpec("sea", background="rain")])
def test_impossible_specs_are_refused(spec: SceneSpec) -> None:
    with pytest.raises(ValueError, match="use one of"):
        render(spec, 2, FPS, 32)
