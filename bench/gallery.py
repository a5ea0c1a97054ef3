"""Makes docs/gallery.png, the contact sheet of the README: six prompts through the public API of a local stack.

    python -m bench.gallery [--steps N] [--duration S] [--prompt "..."] [--out FILE]

Each tile shows four frames of one video and, below them, the spectrogram of its sound.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, pairwise
from pathlib import Path

import av
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from soundstage.video.v1 import video_pb2 as pb

from bench.stack import local_stack
from client import SoundstageClient
from training.look import fitted, shown

PROMPTS = (
    "a campfire on a beach at night, waves in the background",
    "northern lights dancing over dark hills",
    "a lighthouse on the right, close up, by day",
    "a waterfall in the rocks on a bright day",
    "surf breaking on the shore at sunset",
    "the pendulum of a clock on the left, ticking",
)
SEED = 11
WAIT_SECONDS = 1800.0
OUT = Path("docs/gallery.png")
MOST_BYTES = 1_500_000

WIDTH, COLUMNS, FRAMES = 1200, 2, 4
MARGIN, GAP, ROUND = 14, 3, 5
CAPTION_HEIGHT, SOUND_HEIGHT = 26, 44
BACKGROUND, CARD, INK = (15, 17, 21), (27, 30, 37), (230, 233, 239)

TILE = (WIDTH - MARGIN * (COLUMNS + 1)) // COLUMNS
SIDE = (TILE - 2 * GAP - GAP * (FRAMES - 1)) // FRAMES
INNER = FRAMES * SIDE + (FRAMES - 1) * GAP
HEIGHT = CAPTION_HEIGHT + SIDE + GAP + SOUND_HEIGHT + GAP

WINDOW = 2048
LOWEST_HERTZ, HIGHEST_HERTZ = 60.0, 16_000.0
RANGE_DB = 60.0


@dataclass(frozen=True)
class Exhibit:
    prompt: str
    frames: NDArray[np.uint8]
    """(4, H, W, 3)."""
    sound: NDArray[np.float32]
    """(2, N), as it comes out of the MP4."""
    sample_rate: int


def make(prompts: Sequence[str], steps: int | None, duration: float | None) -> list[Exhibit]:
    """One video a prompt, one after another."""
    exhibits = []
    with local_stack() as state, SoundstageClient(state.address) as client, tempfile.TemporaryDirectory() as folder:
        for index, prompt in enumerate(prompts):
            video = client.create(prompt, seed=SEED + index, num_inference_steps=steps, duration=duration)
            video = client.wait(video, timeout_seconds=WAIT_SECONDS)
            if video.state != pb.STATE_SUCCEEDED:
                raise RuntimeError(f"{prompt!r} did not succeed: {video.error.reason} {video.error.message}")
            path = Path(folder) / f"{index}.mp4"
            client.download(video, path)
            exhibits.append(read(prompt, path))
            print(f"  {index + 1}/{len(prompts)} {prompt}", flush=True)
    return exhibits


def read(prompt: str, path: Path) -> Exhibit:
    """Decodes a finished MP4: what a viewer sees and hears."""
    with av.open(str(path)) as file:
        pictures = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        frames: NDArray[np.uint8] = np.stack(pictures).astype(np.uint8, copy=False)
    with av.open(str(path)) as file:
        rate = file.streams.audio[0].rate
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=rate)
        decoded = chain(file.decode(audio=0), (None,))
        sound = np.concatenate([part.to_ndarray() for frame in decoded for part in resampler.resample(frame)], axis=1)
    return Exhibit(prompt, shown(frames, FRAMES), sound.astype(np.float32), rate)


def draw(exhibits: Sequence[Exhibit]) -> Image.Image:
    rows = -(-len(exhibits) // COLUMNS)
    sheet = Image.new("RGB", (WIDTH, MARGIN + rows * (HEIGHT + MARGIN)), BACKGROUND)
    for index, exhibit in enumerate(exhibits):
        left = MARGIN + index % COLUMNS * (TILE + MARGIN)
        top = MARGIN + index // COLUMNS * (HEIGHT + MARGIN)
        sheet.paste(_tile(exhibit), (left, top), _rounded((TILE, HEIGHT)))
    return sheet


def _tile(exhibit: Exhibit) -> Image.Image:
    tile = Image.new("RGB", (TILE, HEIGHT), CARD)
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(15)
    left = (TILE - INNER) // 2
    pen.text((left + 4, 4), fitted(pen, exhibit.prompt, font, INNER - 8), INK, font)
    for number, frame in enumerate(exhibit.frames):
        picture = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        tile.paste(picture, (left + number * (SIDE + GAP), CAPTION_HEIGHT))
    strip = Image.fromarray(spectrogram(exhibit.sound, exhibit.sample_rate, INNER, SOUND_HEIGHT))
    tile.paste(strip, (left, CAPTION_HEIGHT + SIDE + GAP))
    return tile


def spectrogram(sound: NDArray[np.float32], rate: int, width: int, height: int) -> NDArray[np.uint8]:
    """Sound (2, N) -> a picture (height, width, 3): time to the right, pitch upwards on a logarithmic scale, 60 dB."""
    mono = np.pad(sound.mean(0), WINDOW // 2)
    starts = np.linspace(0, len(mono) - WINDOW, width).round().astype(int)
    power = np.abs(np.fft.rfft(mono[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW), axis=1)) ** 2
    edges = np.geomspace(LOWEST_HERTZ, HIGHEST_HERTZ, height + 1) * WINDOW / rate
    bands = [power[:, int(low) : max(int(low) + 1, int(high))].mean(1) for low, high in pairwise(edges)]
    level = 10 * np.log10(np.stack(bands[::-1]) + 1e-9)
    shade = np.clip((level - level.max()) / RANGE_DB + 1, 0, 1)
    return (colormaps["magma"](shade)[..., :3] * 255).round().astype(np.uint8)


def _rounded(size: tuple[int, int]) -> Image.Image:
    """A mask with round corners."""
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), ROUND, fill=255)
    return mask


def save(sheet: Image.Image, path: Path) -> int:
    """Writes a PNG of at most 1.5 MB and returns its size: with fewer colours where all of them would take more."""
    for picture in _ever_smaller(sheet):
        buffer = BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MOST_BYTES:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return buffer.tell()


def _ever_smaller(sheet: Image.Image) -> Iterable[Image.Image]:
    yield sheet
    for colours in (256, 128, 64):
        yield sheet.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--duration", type=float, help="seconds of each video (default: the model's)")
    parser.add_argument("--prompt", action="append", help="instead of the six; may be repeated")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    exhibits = make(arguments.prompt or PROMPTS, arguments.steps, arguments.duration)
    print(f"{arguments.out}, {save(draw(exhibits), arguments.out) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
