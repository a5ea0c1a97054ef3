"""What the feature cache saves on Diorama, and what it costs: by threshold, time and likeness to the whole loop."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
from numpy.typing import NDArray

from bench.evaluation.first_frame import psnr
from bench.options import Options
from bench.results import Figure, Results
from libs.families import load_decode, load_denoise, load_encode, use_threads
from training.captions import grammar_prompts

FAMILY = "diorama"
PROMPT_SEED, PROMPTS = 20_262, 7
THRESHOLDS = (0.0, 0.05, 0.1, 0.2, 0.3)
SIZE, FPS, FRAMES, STEPS, GUIDANCE = 256, 12.0, 29, 25, 3.0


def run(options: Options) -> Results:
    """Thresholds take turns for each prompt."""
    use_threads(options.threads)
    model_dir = options.models / FAMILY
    prompts = [text for text, _ in grammar_prompts(2 * PROMPTS, PROMPT_SEED)][::2]
    encode, decode = load_encode(model_dir, FAMILY), load_decode(model_dir, FAMILY)
    loops = {threshold: load_denoise(model_dir, FAMILY, cache_threshold=threshold) for threshold in THRESHOLDS}
    seconds: dict[float, list[float]] = {threshold: [] for threshold in THRESHOLDS}
    likeness: dict[float, list[float]] = {threshold: [] for threshold in THRESHOLDS}
    for number, prompt in enumerate(prompts):
        conditioning = encode(prompt, "", None, SIZE, SIZE, FRAMES)
        whole: NDArray[np.uint8] | None = None
        for threshold, denoise in loops.items():
            began = time.perf_counter()
            latents = denoise(
                conditioning,
                width=SIZE,
                height=SIZE,
                num_frames=FRAMES,
                fps=FPS,
                num_inference_steps=options.steps or STEPS,
                guidance_scale=GUIDANCE,
                seed=options.seed + number,
                preview_every_steps=0,
                on_step=lambda _: None,
            )
            seconds[threshold].append(time.perf_counter() - began)
            frames = np.concatenate(list(decode(latents, FRAMES)))
            whole = frames if whole is None else whole
            likeness[threshold].append(psnr(frames, whole))
        print(f"  {number + 1}/{len(prompts)} {prompt!r}", flush=True)
    figures = []
    for threshold in THRESHOLDS[1:]:
        ratios = [own / all_calls for own, all_calls in zip(seconds[threshold], seconds[0.0], strict=True)]
        figures.append(Figure(f"time.{threshold:g}", median(ratios), "ratio"))
        figures.append(Figure(f"psnr.{threshold:g}", median(likeness[threshold]), "dB"))
        figures.append(Figure(f"psnr_least.{threshold:g}", min(likeness[threshold]), "dB"))
    return Results(figures, {"prompts": prompts, "steps": options.steps or STEPS, "frames": FRAMES})
