"""Names the scene that a sound comes from: a small classifier trained on the real sound of rendered clips only.

    python -m bench.sound_classes --minutes 1.5      trains on training/cache/clips and reports held-out accuracy
    python -m bench.sound_classes sound.wav          names the scene of a 48 kHz stereo file

It never hears what the video-to-audio model makes, so it can judge it. It works on a log-mel spectrogram of the
waveform, not on the vocoder's bands, and ignores which channel is the louder one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "classifiers" / "sound.safetensors"
CLIPS = Path("training/cache/clips")
SAMPLE_RATE = 48_000
WINDOW, HOP, MELS = 1024, 768, 48
"""Columns of 21 ms, 16 ms apart."""
CROP_COLUMNS = 192
"""Trained on three seconds at a time."""
FLOOR = 1e-9
BATCH = 32


class SoundClassifier(nn.Module):
    """Log-mel spectrogram (B, 48, columns) -> logits (B, classes)."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(MELS, width, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv1d(width, width, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv1d(width, 2 * width, 3, padding=1),
            nn.GELU(),
        )
        self.head = nn.Linear(3 * 2 * width, classes)

    def forward(self, spectrogram: Tensor) -> Tensor:
        x = self.convolutions(spectrogram)
        spread = x.var(-1, unbiased=False).add(1e-6).sqrt()
        logits: Tensor = self.head(F.dropout(torch.cat([x.mean(-1), x.amax(-1), spread], 1), 0.2, self.training))
        return logits


def log_mel(sound: NDArray[np.floating]) -> Tensor:
    """Sound (2, N) at 48 kHz -> mean of both channels' mel spectra in units of 20 dB around -60 dB, (48, columns)."""
    wave = torch.from_numpy(np.ascontiguousarray(sound, dtype=np.float32))
    spectrum = torch.stft(wave, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)
    power = _mel_filters() @ spectrum.abs().square().mean(0) / WINDOW**2
    return torch.log10(power + FLOOR) / 2 + 3


@lru_cache(maxsize=1)
def _mel_filters() -> Tensor:
    """Triangles equally wide in mel from 30 Hz to 20 kHz, (48, bins)."""
    edges = torch.linspace(math.log(1 + 30 / 700), math.log(1 + 20_000 / 700), MELS + 2).exp().sub(1).mul(700)
    hertz = torch.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)
    rise = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rise, fall).clamp(min=0)


def classify(sound: NDArray[np.floating]) -> str:
    """The family that a sound (2, N) at 48 kHz most likely comes from. Needs half a second or more."""
    scores = probabilities(sound)
    return max(scores, key=lambda family: scores[family])


@torch.inference_mode()
def probabilities(sound: NDArray[np.floating]) -> dict[str, float]:
    """Probability of each family. Raises ``FileNotFoundError`` when the classifier was not trained."""
    model, families = _trained()
    shares = model(log_mel(sound)[None])[0].softmax(-1).tolist()
    return dict(zip(families, shares, strict=True))


@lru_cache(maxsize=1)
def _trained() -> tuple[SoundClassifier, list[str]]:
    if not WEIGHTS.exists():
        raise FileNotFoundError(f"{WEIGHTS} is missing: run `python -m bench.sound_classes`")
    with safe_open(WEIGHTS, "pt") as file:
        families: list[str] = json.loads(file.metadata()["families"])
        model = SoundClassifier(len(families))
        model.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
    return model.eval(), families


# --- training --------------------------------------------------------------------------------------------------------


def train(minutes: float = 1.5, weights: Path = WEIGHTS, clips: int = 2400) -> float:
    """Trains on one thread, saves ``weights`` (half precision) and returns the held-out accuracy, 0 to 1."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    families, data, held_out = _data(clips)
    model, rng = SoundClassifier(len(families)), np.random.default_rng(5)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    begin = time.monotonic()
    while (progress := (time.monotonic() - begin) / (60 * minutes)) < 1:
        optimiser.param_groups[0]["lr"] = 2e-3 * (0.5 + 0.5 * math.cos(math.pi * progress))
        spectrograms, labels = _batch(data, rng)
        loss = F.cross_entropy(model(spectrograms), labels, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.half() for name, value in model.state_dict().items()},
        weights,
        metadata={"families": json.dumps(families)},
    )
    return _report(model.eval(), families, held_out)


def _data(count: int) -> tuple[list[str], list[tuple[Tensor, int]], list[tuple[Tensor, int]]]:
    """(families, trained on, held out); every twentieth round of families is held out, as for the model it judges."""
    clips = []
    for path in sorted(CLIPS.glob("[0-9]*[0-9].npz"))[:count]:
        with np.load(path) as clip:
            family = json.loads(str(clip["meta"]))["spec"]["family"]
            clips.append((int(path.stem), family, log_mel(clip["sound"].astype(np.float32) / 32767)))
    if not clips:
        raise FileNotFoundError(f"no clips in {CLIPS}: run `python -m training.render`")
    families = sorted({family for _, family, _ in clips})
    rows = [(index // len(families) % 20 == 0, (mel, families.index(family))) for index, family, mel in clips]
    return families, [row for held, row in rows if not held], [row for held, row in rows if held]


def _batch(data: list[tuple[Tensor, int]], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random stretches of random clips, up to 3 dB louder or quieter."""
    chosen = [data[index] for index in rng.integers(len(data), size=BATCH)]
    crops = []
    for mel, _ in chosen:
        start = int(rng.integers(mel.shape[-1] - CROP_COLUMNS))
        crops.append(mel[:, start : start + CROP_COLUMNS] + float(rng.uniform(-0.15, 0.15)))
    return torch.stack(crops), torch.tensor([label for _, label in chosen])


@torch.inference_mode()
def _report(model: SoundClassifier, families: list[str], held_out: list[tuple[Tensor, int]]) -> float:
    """Prints accuracy and what is mistaken for what."""
    guesses = [(families[label], families[int(model(mel[None]).argmax())]) for mel, label in held_out]
    right = sum(truth == guess for truth, guess in guesses) / len(guesses)
    print(f"held out: {right:.1%} of {len(guesses)} clips named rightly, by {len(families)} families")
    for (truth, guess), count in Counter(pair for pair in guesses if pair[0] != pair[1]).most_common():
        print(f"  {truth} heard as {guess}: {count}")
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="a 48 kHz stereo WAV file; without one, trains")
    parser.add_argument("--minutes", type=float, default=1.5)
    arguments = parser.parse_args()
    if arguments.file is None:
        train(arguments.minutes)
        return
    from scipy.io import wavfile

    rate, samples = wavfile.read(arguments.file)
    if rate != SAMPLE_RATE or samples.ndim != 2:
        raise SystemExit(f"{arguments.file} has {rate} Hz and shape {samples.shape}: give 48 kHz stereo")
    print(classify(samples.T / (1.0 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max)))


if __name__ == "__main__":
    main()
