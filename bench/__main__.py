"""python -m bench [NAME]: measures, writes bench/results/NAME.json and prints the figures."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path

from rich.console import Console

from bench.options import Options
from bench.results import Results, show, write

BENCHMARKS = {
    "stages": "bench.stages",
    "denoise": "bench.denoise",
    "steps": "bench.steps",
    "cache": "bench.cache",
    "decode_memory": "bench.decode_memory",
    "triton": "bench.triton",
    "prompts": "bench.prompts",
    "gateway": "bench.gateway",
    "fairness": "bench.fairness",
    "autoscaling": "bench.autoscaling",
    "scale_in": "bench.scale_in",
}
"""Name -> module with ``run(options)``; imported only when it is run, because each brings torch or a whole stack."""
STEPS = "of denoising, in stages, denoise, triton, cache and scale_in (default: the model's, 25)"
STACKS = "the stacks that stages and scale_in start"


def main() -> None:
    arguments = _arguments()
    options = Options(**{field.name: getattr(arguments, field.name) for field in fields(Options)})
    console = Console()
    for name in [arguments.name] if arguments.name else BENCHMARKS:
        print(f"{name} …", flush=True)
        run: Callable[[Options], Results] = import_module(BENCHMARKS[name]).run
        results = run(options)
        show(name, results, console)
        print(f"written to {write(name, results, options.out)}\n", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    default = Options()
    parser.add_argument("name", nargs="?", choices=list(BENCHMARKS), help="one of them; without it, all")
    parser.add_argument("--steps", type=int, help=STEPS)
    parser.add_argument("--rounds", type=int, default=default.rounds, help="of stages, denoise, triton and steps")
    parser.add_argument("--duration", type=float, help="stages: seconds of video")
    parser.add_argument("--videos", type=int, default=default.videos, help="gateway: how many it takes in")
    parser.add_argument(
        "--models", type=Path, default=default.models, help=f"folder of models; {STACKS} have their own"
    )
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--threads", type=int, default=default.threads, help=f"of torch, not in {STACKS}; 0: all")
    parser.add_argument("--out", type=Path, default=default.out, help="folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
