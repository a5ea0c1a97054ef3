"""From clips to the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench import scene_classes, sound_classes
from bench.evaluation import camera, motion
from bench.evaluation.clips import Made, rendered
from bench.evaluation.first_frame import Kept
from bench.evaluation.hearing import Space, Synchrony
from bench.evaluation.layers import Layers
from bench.evaluation.motion import Motion
from bench.evaluation.picture import ATTRIBUTES, Probes, frechet
from bench.results import Figure, Results

OTHER_SEED = 1_009
"""Added to a description's seed for the second set of rendered clips."""
STILL = 0.3
"""Grey levels a frame; of clips that move less than this, ratios of motion say nothing."""


@dataclass(frozen=True)
class Seen:
    made: Sequence[Made]
    first_frame: Kept
    synchrony: Synchrony
    space: Space
    layers: Layers
    probes: Probes


def figures_of(seen: Seen) -> Results:
    named = [_named(one) for one in seen.made]
    inside = [one for one in seen.made if one.asked.kind == "grammar"]
    obeyed, mistaken = _attributes(seen.made, seen.probes)
    moves, mistaken_moves = _camera(seen.made)
    figures = [
        *_top_one(named),
        *_frechet(inside),
        *obeyed,
        *moves,
        *_motion(inside),
        Figure("first_frame.psnr", seen.first_frame.to_given, "dB"),
        Figure("first_frame.psnr_limit", seen.first_frame.limit, "dB"),
        Figure("first_frame.below_limit", seen.first_frame.limit - seen.first_frame.to_given, "dB", "≤ 1"),
        Figure("first_frame.psnr_to_redrawn", seen.first_frame.to_redrawn, "dB"),
        *_hearing(seen.synchrony, seen.space, seen.layers),
    ]
    details = {
        "mistaken_scenes": _mistaken(named, lambda clip: clip["scene"]),
        "mistaken_sounds": _mistaken(named, lambda clip: clip["sound"]),
        "mistaken_attributes": mistaken | mistaken_moves,
        "clips": named,
    }
    return Results(figures, details)


def _named(one: Made) -> dict[str, str]:
    scene, _ = scene_classes.classify(one.clip.frames)
    return {
        "prompt": one.asked.prompt,
        "kind": one.asked.kind,
        "asked": "+".join(one.asked.families),
        "scene": scene,
        "sound": sound_classes.classify(one.clip.sound),
    }


def _top_one(named: Sequence[dict[str, str]]) -> list[Figure]:
    groups = {
        "grammar": ("≥ 0.95", [clip for clip in named if clip["kind"] == "grammar"]),
        "outside_grammar": ("≥ 0.80", [clip for clip in named if clip["kind"] != "grammar"]),
    }
    figures = [
        Figure(f"{what}_top1.{group}", _share(clip[what] in clip["asked"].split("+") for clip in clips), "share", aim)
        for what, aims in (("scene", True), ("sound", False))
        for group, (aim_of_group, clips) in groups.items()
        for aim in [aim_of_group if aims else "≥ 0.95" if group == "grammar" else ""]
    ]
    kinds = Counter(clip["kind"] for clip in named)
    figures += [
        Figure(
            f"scene_top1.{kind}",
            _share(clip["scene"] in clip["asked"].split("+") for clip in named if clip["kind"] == kind),
            "share",
        )
        for kind in kinds
        if kind != "grammar"
    ]
    return [*figures, *(Figure(f"clips.{kind}", count, "count") for kind, count in kinds.items())]


def _frechet(inside: Sequence[Made]) -> list[Figure]:
    """Of features, made against rendered, beside two rendered sets of the same descriptions."""
    count = len(inside[0].clip.frames)
    made = np.concatenate([scene_classes.features(one.clip.frames) for one in inside])
    like = np.concatenate([scene_classes.features(one.like.frames) for one in inside if one.like])
    other = np.concatenate(
        [
            scene_classes.features(rendered(one.asked.spec, count, other=OTHER_SEED).frames)
            for one in inside
            if one.asked.spec
        ]
    )
    return [
        Figure("frechet.made", frechet(made, like), "distance"),
        Figure("frechet.rendered", frechet(other, like), "distance"),
    ]


def _attributes(made: Sequence[Made], probes: Probes) -> tuple[list[Figure], dict[str, int]]:
    """Shares of clips that obey what their prompt says of an attribute."""
    right: dict[str, list[bool]] = {attribute: [] for attribute in (*ATTRIBUTES, "negative_prompt")}
    mistaken: Counter[str] = Counter()
    for one in made:
        family = one.asked.families[0]
        if one.asked.refused_time and probes.tells(family, "time_of_day"):
            told = probes.of(one.clip.frames, family, "time_of_day")
            right["negative_prompt"].append(told != one.asked.refused_time)
        for attribute in ATTRIBUTES:
            if attribute not in one.asked.says or not probes.tells(family, attribute):
                continue
            told, said = probes.of(one.clip.frames, family, attribute), one.asked.says[attribute]
            right[attribute].append(told == said)
            if told != said:
                mistaken[f"{family}: {said} as {told}"] += 1
    figures = [
        figure
        for name, hits in right.items()
        for figure in _obeyed(f"obeyed.{name}", hits, "≥ 0.90" if name in ATTRIBUTES else "")
    ]
    limits = [Figure(f"obeyed.{name}.rendered", share, "share") for name, share in probes.rendered_right.items()]
    return [*figures, *limits], dict(mistaken.most_common())


def _camera(made: Sequence[Made]) -> tuple[list[Figure], dict[str, int]]:
    """Shares of clips whose camera moves as their prompt says, and that stand still where neither prompt nor
    description has a move; a prompt that leaves its description's move out asks for nothing."""
    asked = [
        one for one in made if "camera" in one.asked.says or one.asked.spec is None or one.asked.spec.camera == "still"
    ]
    told = [(camera.told(one.clip.frames), one.asked.says.get("camera", "still"), one) for one in asked]
    like = [(camera.told(one.like.frames), one.asked.spec.camera) for one in made if one.like and one.asked.spec]
    obeyed = {
        "obeyed.camera": [move == said for move, said, _ in told if said != "still"],
        "obeyed.camera.still": [move == said for move, said, _ in told if said == "still"],
        "obeyed.camera.rendered": [move == said for move, said in like if said != "still"],
        "obeyed.camera.still.rendered": [move == said for move, said in like if said == "still"],
    }
    figures = [
        figure
        for name, hits in obeyed.items()
        for figure in _obeyed(name, hits, "≥ 0.70" if name == "obeyed.camera" else "")
    ]
    mistaken = Counter(f"{one.asked.families[0]}: {said} as {move}" for move, said, one in told if move != said)
    return figures, dict(mistaken.most_common())


def _obeyed(name: str, hits: Sequence[bool], aim: str) -> list[Figure]:
    """The share, and of how many clips: some are few, and a share of ten is no exact one."""
    return [Figure(name, _share(hits), "share", aim), Figure(f"{name}.clips", len(hits), "count")] if hits else []


def _motion(inside: Sequence[Made]) -> list[Figure]:
    """Medians over clips of made over rendered; of `jump` both themselves."""
    pairs = [(motion.measure(one.clip.frames), motion.measure(one.like.frames)) for one in inside if one.like]
    moving = [(made, like) for made, like in pairs if like.energy > STILL]

    def ratio(of: Callable[[Motion], float]) -> float:
        return float(np.median([of(made) / max(of(like), 1e-3) for made, like in moving]))

    return [
        Figure("motion.energy", ratio(lambda clip: clip.energy), "ratio"),
        Figure("motion.speed", ratio(lambda clip: clip.speed), "ratio"),
        Figure("motion.flicker", ratio(lambda clip: clip.flicker), "ratio", "≤ 1.3"),
        Figure("motion.seam", float(np.median([made.jump for made, _ in moving])), "ratio"),
        Figure("motion.seam.rendered", float(np.median([like.jump for _, like in moving])), "ratio"),
    ]


def _hearing(synchrony: Synchrony, space: Space, layers: Layers) -> list[Figure]:
    return [
        Figure("synchrony.offset", synchrony.own, "frames", "≤ 1"),
        Figure("synchrony.offset_of_strangers", synchrony.strangers, "frames"),
        Figure("synchrony.offset_of_rendered", synchrony.rendered, "frames"),
        Figure("synchrony.strangers_over_own", synchrony.strangers / max(synchrony.own, 0.05), "ratio", "≥ 5"),
        Figure("synchrony.within_one_frame", synchrony.within_one, "share"),
        Figure("synchrony.events", synchrony.events, "count"),
        Figure("space.balance_with_position", space.correlation, "correlation", "≥ 0.8"),
        Figure("space.near_over_far", space.near_over_far, "dB", "≥ 4"),
        Figure("layers.nearer_louder", layers.nearer_louder, "share", "≥ 0.90"),
        Figure("layers.nearer_louder.rendered", layers.rendered, "share"),
        Figure("layers.front_over_back", layers.difference, "dB"),
    ]


def _mistaken(named: Sequence[dict[str, str]], of: Callable[[dict[str, str]], str]) -> dict[str, int]:
    wrong = Counter(f"{clip['asked']} as {of(clip)}" for clip in named if of(clip) not in clip["asked"].split("+"))
    return dict(wrong.most_common())


def _share(hits: Iterable[bool]) -> float:
    return float(np.mean(list(hits)))
