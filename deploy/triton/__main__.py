"""python -m deploy.triton: writes a repository for every model of a folder, then becomes the tritonserver on it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from deploy.triton.build_python import PythonOptions, build_python
from deploy.triton.server import server_command, server_environment
from deploy.triton.wheel import WheelMissingError
from libs.catalog import Catalog
from libs.families.networks import NETWORKS


@click.command()
@click.option("--models", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--repository", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--grpc-port", required=True, type=int)
@click.option("--metrics-port", required=True, type=int)
@click.option("--name", required=True, help="Begins the names of its shared memory.")
@click.option("--threads", default=0, help="CPU threads of each network; 0: every core.")
def main(models: Path, repository: Path, grpc_port: int, metrics_port: int, name: str, threads: int) -> None:
    """On 127.0.0.1, with the `python` backend on the CPU."""
    catalog = Catalog.read(models)
    for model in catalog.names():
        if catalog.get(model).family in NETWORKS:
            build_python(models / model, repository, PythonOptions(threads=threads))
    try:
        command = server_command(repository, grpc_port=grpc_port, metrics_port=metrics_port, name=name)
    except WheelMissingError as error:
        raise click.ClickException(str(error)) from error
    os.execve(command[0], command, server_environment(os.environ))


if __name__ == "__main__":
    main()
