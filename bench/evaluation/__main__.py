"""make eval: judges Diorama's clips, prints one table and writes it beside the weights.

    python -m bench.evaluation                              models/diorama as it is; writes into it
    python -m bench.evaluation --trained --out /tmp/eval    the newest checkpoints of training/cache
    python -m bench.evaluation --rounds 1 --outside 15      a quick look

Writes evaluation.json, EVALUATION.md and two contact sheets.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from bench.evaluation import hearing
from bench.evaluation.asked import inside, outside
from bench.evaluation.clips import make
from bench.evaluation.figures import Seen, figures_of
from bench.evaluation.first_frame import kept
from bench.evaluation.layers import layers
from bench.evaluation.page import write_page
from bench.evaluation.picture import Probes
from bench.results import Results, show, write
from libs.families import use_threads
from training.look import Sampler, Sampling
from training.scenes import FAMILIES
from training.transformer import MODEL, newest_checkpoints

SEED = 7


def main() -> None:
    arguments = _arguments()
    use_threads(arguments.threads)
    sampler = Sampler(newest_checkpoints() if arguments.trained else {})
    sampling = Sampling(arguments.frames, arguments.steps, arguments.guidance)
    asked = inside(arguments.rounds)
    made = make([*asked, *outside(arguments.outside)], sampler, sampling, SEED)
    first = kept(asked[: len(FAMILIES)], sampler, sampling, SEED)  # prompts take the families in turn: one of each
    synchrony = hearing.synchrony(arguments.sounds, 61)
    space = hearing.space(arguments.sounds, 61)
    layered = layers(arguments.sounds // 2, 61)
    results = figures_of(Seen(made, first, synchrony, space, layered, Probes()))
    results = Results(results.figures, {"sampling": vars(sampling), "seed": SEED, **results.details})
    show("evaluation", results, Console())
    write("evaluation", results, arguments.out)
    print(f"written to {write_page(results, made, arguments.out)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.evaluation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2, help="grammar prompts of each family")
    parser.add_argument("--outside", type=int, help="prompts outside the grammar (default: all)")
    parser.add_argument("--sounds", type=int, default=48, help="rendered pictures that are sounded")
    parser.add_argument("--frames", type=int, default=29, help="of each clip, 1 + 4 k")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: all")
    parser.add_argument("--trained", action="store_true", help="the newest checkpoints, not the model folder")
    parser.add_argument("--out", type=Path, default=MODEL)
    arguments = parser.parse_args()
    if (arguments.frames - 1) % 4 or arguments.frames < 13:
        parser.error(f"--frames {arguments.frames}: give 1 + 4 k, 13 or more")
    return arguments


if __name__ == "__main__":
    main()
