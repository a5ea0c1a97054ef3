"""python -m deploy.triton.build --model models/diorama --repository DIR --backend python

Writes a model repository for Triton: one model a network, as `<model>_transformer` and `<model>_vae_decoder`.
"""

from __future__ import annotations

from pathlib import Path

import click

from deploy.triton.build_python import PythonOptions, build_python
from deploy.triton.build_tensorrt import FLOAT8, build_tensorrt, check_repository, this_machine
from deploy.triton.config import Instances
from deploy.triton.engine import EngineError

DTYPES = ["float32", "bfloat16", "float16", FLOAT8]


@click.command()
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of a model.")
@click.option("--repository", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--backend", type=click.Choice(["python", "tensorrt"]), default="python")
@click.option("--network", "networks", multiple=True, help="Only this one; may be repeated.")
@click.option("--instances", default=1, help="Copies of each network.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Default: float32, bfloat16. float8: tensorrt.")
@click.option("--device", type=click.Choice(["cpu", "gpu"]), default="cpu", help="python: where it runs.")
@click.option("--threads", default=0, help="python: CPU threads of each; 0: every core.")
@click.option("--merge/--no-merge", default=False, help="python: run requests that wait together as one batch.")
@click.option("--compile", "compiled", is_flag=True, help="python: with torch.compile.")
@click.option("--loras-kept", default=2, help="python: networks with a LoRA in memory, in each instance, beside it.")
@click.option("--export-only", is_flag=True, help="tensorrt: all but the engine; needs no GPU.")
@click.option("--check", is_flag=True, help="tensorrt: only see whether the engines there are for this machine.")
def main(
    model: Path | None,
    repository: Path,
    backend: str,
    networks: tuple[str, ...],
    instances: int,
    dtype: str | None,
    device: str,
    threads: int,
    merge: bool,
    compiled: bool,
    loras_kept: int,
    export_only: bool,
    check: bool,
) -> None:
    """Writes a model repository for Triton."""
    try:
        if check:
            check_repository(repository, this_machine())
            return
        if model is None:
            raise click.UsageError("say which model: --model models/diorama")
        if backend == "python" and dtype == FLOAT8:
            raise click.UsageError("float8 is for --backend tensorrt")
        if backend == "python":
            options = PythonOptions(
                Instances(instances, device), threads, dtype or "float32", merge, compiled, loras_kept=loras_kept
            )
            folders = build_python(model, repository, options, networks)
        else:
            folders = build_tensorrt(
                model,
                repository,
                dtype=dtype or "bfloat16",
                instances=instances,
                networks=networks,
                export_only=export_only,
            )
    except EngineError as error:
        raise click.ClickException(str(error)) from error
    for folder in folders:
        click.echo(folder)


if __name__ == "__main__":
    main()
