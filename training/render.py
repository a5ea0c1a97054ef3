"""Renders the training clips once and keeps what training reads: latents, small frames, sound and captions.

    python -m training.render --clips 2400 --processes 2

Writes ``training/cache/clips/{index:05d}.npz``; a clip that exists is not rendered again, so the command can be
stopped and repeated. Families take turns, so any prefix of the set is balanced. Clips with an index divisible by 20 are
held out of training.

Where the camera moves, the file also holds what other cameras make of the same scene: a still one and those that move
in another way (`training/scenes/camera.py`). Seen side by side they teach what a camera's move is.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from libs.families.diorama.autoencoder import FRAMES, AutoencoderDiorama
from training.autoencoder import MODEL, to_tensor
from training.captions import caption
from training.scenes import FAMILIES, render, render_takes, sample_spec
from training.scenes.base import Clip

CLIPS = Path("training/cache/clips")
NUM_FRAMES = 61
CAPTIONS_PER_CLIP = 8
HELD_OUT_EVERY = 20


def render_clip(index: int, autoencoder: AutoencoderDiorama, folder: Path = CLIPS, size: int = 256) -> None:
    """One file: latents (C, 16, 16, 16) and still latents of every fourth frame (C, 16, 16, 16) as float16, frames64
    (T, 64, 64, 3) uint8, sound (2, N) int16, and ``meta`` as JSON text with spec, captions and events.

    With K other takes of the scene (none if its camera is still) ``take_latents`` and ``take_still_latents`` are
    (K, C, 16, 16, 16), and ``takes`` in ``meta`` are their cameras.

    Those are the shapes for the usual ``size``, in pixels, a multiple of 64.
    """
    path = folder / f"{index:05d}.npz"
    if path.exists():
        return
    rng = np.random.default_rng([2026, index])
    families = list(FAMILIES)
    spec = sample_spec(rng, families[index % len(families)])
    if spec.camera == "still":
        clip, others = render(spec, num_frames=NUM_FRAMES, size=size), {}
    else:
        others = render_takes(spec, num_frames=NUM_FRAMES, size=size)
        clip = others.pop(spec.camera)
    latents, still_latents = _encode(clip, autoencoder)
    takes = [_encode(other, autoencoder) for other in others.values()]
    frames = clip.frames.reshape(NUM_FRAMES, 64, size // 64, 64, size // 64, 3).mean(axis=(2, 4))
    captions = sorted({caption(spec, rng) for _ in range(CAPTIONS_PER_CLIP)})
    meta = {
        "spec": asdict(spec),
        "captions": captions,
        "events": [asdict(event) for event in clip.events],
        "takes": list(others),
    }
    partial = path.with_suffix(".tmp.npz")
    np.savez(
        partial,
        latents=latents,
        still_latents=still_latents,
        take_latents=np.array([whole for whole, _ in takes]),
        take_still_latents=np.array([stills for _, stills in takes]),
        frames64=(frames * 255).round().clip(0, 255).astype(np.uint8),
        sound=(clip.sound.clip(-1, 1) * 32767).astype(np.int16),
        meta=np.array(json.dumps(meta, default=float)),
    )
    partial.rename(path)


def _encode(clip: Clip, autoencoder: AutoencoderDiorama) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Latents of the clip, and of every fourth frame as a still picture."""
    video = to_tensor(clip.frames)
    stills = video[0, :, ::FRAMES].transpose(0, 1)[:, :, None]
    with torch.inference_mode():
        latents = autoencoder.encode(video)[0]
        still_latents = autoencoder.encode(stills)[:, :, 0].transpose(0, 1)
    return latents.half().numpy(), still_latents.half().numpy()


def _work(first: int, step: int, count: int) -> None:
    torch.set_num_threads(1)
    autoencoder = AutoencoderDiorama.from_pretrained(MODEL, low_cpu_mem_usage=False)
    parent = multiprocessing.parent_process()
    for index in range(first, count, step):
        if parent is not None and not parent.is_alive():
            return  # killed, and the same clips may be begun anew by another
        render_clip(index, autoencoder)
        if index % 100 == 0:
            print(f"rendered {index} of {count}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2400)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    CLIPS.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_work, args=(first, arguments.processes, arguments.clips))
        for first in range(arguments.processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a rendering process failed; see above")


if __name__ == "__main__":
    main()
