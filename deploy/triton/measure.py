"""python -m deploy.triton.measure HOST:PORT --model models/diorama: seconds of one call, for the model's default video.

For comparing backends on one GPU: serve one repository, measure, serve the next.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import click
import numpy as np

from deploy.triton.onnx_export import example_inputs
from deploy.triton.repository import read_card, read_config
from libs.families.networks import bind, network_named, shape_of
from libs.triton import TritonOptions, triton_in_thread


@click.command()
@click.argument("address")
@click.option("--model", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--network", "name", default="transformer")
@click.option("--rows", default=2, help="2: one video with guidance.")
@click.option("--calls", default=20)
@click.option("--call-seconds", default=600.0, help="The first call may compile.")
def main(address: str, model: Path, name: str, rows: int, calls: int, call_seconds: float) -> None:
    """Median, quickest and slowest of --calls after one that is not counted."""
    card = read_card(model)
    network, defaults = network_named(card.family, name), card.defaults
    config = read_config(card, network)
    frames = round(defaults.duration_seconds * defaults.fps)
    texts = {text: usual for text, (_, usual, _) in network.texts.items()}
    sizes = {**network.sizes(defaults.width, defaults.height, frames), **texts}
    tensors = example_inputs(network, config, sizes, rows)
    inputs = {spec.name: tensor.numpy() for spec, tensor in zip(network.inputs, tensors, strict=True)}
    names = bind(network, {key: array.shape for key, array in inputs.items()})
    outputs = {spec.name: ((rows, *shape_of(spec, names, config)), np.dtype(spec.dtype)) for spec in network.outputs}
    seconds = []
    with triton_in_thread([address], TritonOptions(call_seconds, attempts=1)) as triton:
        for _ in range(calls + 1):
            began = time.perf_counter()
            triton.infer(f"{card.name}_{name}", inputs, outputs)
            seconds.append(time.perf_counter() - began)
    counted = seconds[1:]
    click.echo(f"first {seconds[0]:.3f} s; then {median(counted):.4f} s ({min(counted):.4f} to {max(counted):.4f})")


if __name__ == "__main__":
    main()
