"""Compares the sound that the trained model makes for held-out clips with the sound that was rendered with them.

    python -m training.sound_report --clips 60

Prints level and panning against the rendered sound, how exactly events are heard, and which scene the independent
classifier of `bench.sound_classes` hears. ``--soften`` gives the model softened frames, as generated video is.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench.sound_classes import classify
from libs.families.diorama.sound import DioramaSound, TextMean, load_model, synthesize
from libs.families.diorama.vocoder import COLUMNS_PER_FRAME, analyse
from training.render import NUM_FRAMES
from training.scenes import FAMILIES
from training.sound import CLIPS, MODEL, Example, is_held_out, patch_basis, prepare, soften

SHARP = ("thunder", "boom", "eruption", "wave", "plop", "crackle")
"""Kinds of events that begin suddenly; an event carries the frame at which its sound begins."""
FIRST_BAND = 10
"""Of those that beginnings are looked for in, 630 Hz and up: below it, rumble hides them."""


@dataclass(frozen=True)
class Compared:
    """One clip: its description, the sound made for it and the rendered one, (2, N) each, and its events."""

    spec: dict[str, str]
    made: np.ndarray
    rendered: np.ndarray
    events: list[dict[str, object]]


def compare(path: Path, model: DioramaSound, text: TextMean, basis: torch.Tensor | None) -> Compared:
    with np.load(path) as clip:
        meta, frames = json.loads(str(clip["meta"])), clip["frames64"]
        rendered = clip["sound"].astype(np.float32) / 32767
    if basis is not None:
        frames = _softened(frames, basis, int(path.stem))
    made = synthesize(model, frames, 12, text([meta["captions"][0]])[0], "full", seed=1)
    return Compared(meta["spec"], made, rendered, meta["events"])


def _softened(frames: np.ndarray, basis: torch.Tensor, seed: int) -> np.ndarray:
    whole = len(frames) // 4 * 4
    video = torch.from_numpy(frames[:whole]).permute(0, 3, 1, 2).float()[None] / 255
    soft = soften(video, basis[:16], np.random.default_rng(seed))[0].permute(0, 2, 3, 1).mul(255).round().byte()
    return np.concatenate([soft.numpy(), frames[whole:]])


def level(sound: np.ndarray) -> float:
    """Decibels of both channels' mean power."""
    return float(10 * np.log10((sound**2).mean() + 1e-9))


def balance(sound: np.ndarray) -> float:
    """Right minus left in decibels."""
    left, right = (sound**2).mean(axis=1) + 1e-9
    return float(10 * np.log10(right / left))


def rises(sound: np.ndarray, frames: int) -> np.ndarray:
    """Decibels by which a sound is louder in the 20 ms from each column on than in those before it, (16 * frames,)."""
    power = 10 ** (analyse(sound, frames).astype(np.float64) / 10)
    loud = 10 * np.log10(power[:, FIRST_BAND:].sum(axis=(0, 1)) + 1e-9)
    return np.convolve(loud, np.r_[np.ones(4), -np.ones(4)] / 4, mode="same")


def onset_offset(sound: np.ndarray, frame: int) -> float | None:
    """Frames from an event to the steepest rise of the sound within four frames around it; None when it rises by less
    than 3 dB."""
    rise, middle = rises(sound, NUM_FRAMES), frame * COLUMNS_PER_FRAME
    low, high = max(0, middle - 64), min(len(rise), middle + 65)
    best = low + int(rise[low:high].argmax())
    return (best - middle) / COLUMNS_PER_FRAME if rise[best] > 3.0 else None


def report(clips: list[Compared]) -> None:
    made, rendered = (np.array([level(sound) for sound in sounds]) for sounds in _both(clips))
    print(f"level: {np.abs(made - rendered).mean():.1f} dB off on average, correlation {_corr(made, rendered):.2f}")
    balances = [np.array([balance(sound) for sound in sounds]) for sounds in _both(clips)]
    off = np.abs(balances[0] - balances[1]).mean()
    print(f"left/right balance: {off:.1f} dB off, correlation {_corr(*balances):.2f}")
    for distance in ("near", "far"):
        chosen = [index for index, clip in enumerate(clips) if clip.spec["distance"] == distance]
        print(f"{distance}: {made[chosen].mean():.1f} dB made, {rendered[chosen].mean():.1f} dB rendered")
    _report_events(clips)
    _report_families(clips)


def _report_events(clips: list[Compared]) -> None:
    found: dict[str, list[tuple[float | None, float | None]]] = defaultdict(list)
    elsewhere: dict[str, list[float | None]] = defaultdict(list)
    for clip in clips:
        for event in clip.events:
            frame, kind = int(str(event["frame"])), str(event["kind"])
            if kind in SHARP and 4 <= frame <= 56:
                found[kind].append((onset_offset(clip.rendered, frame), onset_offset(clip.made, frame)))
                elsewhere[kind].append(onset_offset(clip.made, 4 + (frame + 19) % 53))
    for kind, pairs in sorted(found.items()):
        clear = [made for rendered, made in pairs if rendered is not None and abs(rendered) <= 1]
        print(
            f"{kind}: {len(clear)} clear in the rendered sound, {_within(clear):.0%} of them within one frame in the "
            f"made one ({_within(elsewhere[kind]):.0%} at other frames of the same clips)"
        )


def _within(offsets: list[float | None]) -> float:
    """Share of onsets found within one frame."""
    return sum(offset is not None and abs(offset) <= 1 for offset in offsets) / max(len(offsets), 1)


def _report_families(clips: list[Compared]) -> None:
    guesses = [(clip.spec["family"], classify(clip.made), classify(clip.rendered)) for clip in clips]
    for name, index in (("made", 1), ("rendered", 2)):
        right = np.mean([guess[0] == guess[index] for guess in guesses])
        print(f"classifier names {right:.0%} of the {name} sounds rightly")
    print("made, mistaken:", ", ".join(f"{truth} heard as {heard}" for truth, heard, _ in guesses if truth != heard))


def _both(clips: list[Compared]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [clip.made for clip in clips], [clip.rendered for clip in clips]


def _corr(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=60, help="how many held-out clips")
    parser.add_argument("--soften", action="store_true", help="blur and block the frames first")
    parser.add_argument("--model", type=Path, default=MODEL)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text, model = TextMean(), load_model(arguments.model)
    held_out = [path for path in sorted(CLIPS.glob("[0-9]*[0-9].npz")) if is_held_out(int(path.stem))]
    basis = patch_basis(_some(text)) if arguments.soften else None
    report([compare(path, model, text, basis) for path in held_out[: arguments.clips]])


def _some(text: TextMean) -> list[Example]:
    return [prepare(path, text) for path in sorted(CLIPS.glob("[0-9]*[0-9].npz"))[: 3 * len(FAMILIES)]]


if __name__ == "__main__":
    main()
