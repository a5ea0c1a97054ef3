"""python -m deploy.triton.engines: engines of this machine's GPU, into the model store and out of it.

build URI… --work DIR                builds those that the store lacks, and publishes them: a Job of each GPU pool
fetch URI… --cache DIR --into DIR    brings them to where Triton looks for its models: before it starts

Where the store is, say SOUNDSTAGE_MODELS_…, as for deploy.models. Exit codes as there: 1 it cannot be done as things
are, 2 change the command, 3 the store does not answer, or engines are not there yet: again may work.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from deploy.models.cache import Deadline
from deploy.models.manifest import ModelUri
from deploy.models.settings import ModelStoreSettings
from deploy.triton.build_tensorrt import FLOAT8, build_tensorrt, this_machine
from deploy.triton.engine import EngineError, Machine
from deploy.triton.engine_job import Build, Builder, EngineJob
from libs.errors import SoundstageError, Unavailable

__all__ = ["Workshop", "main"]

FOLDER = click.Path(file_okay=False, path_type=Path)


def _uris(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> tuple[ModelUri, ...]:
    try:
        return tuple(ModelUri.parse(text) for text in given)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


URIS = click.argument("models", nargs=-1, required=True, callback=_uris, metavar="URI…")
DTYPE = click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32", FLOAT8]), default="bfloat16")
INSTANCES = click.option("--instances", type=click.IntRange(1, 16), default=1, help="Copies of each network.")


@dataclass(frozen=True)
class Workshop:
    """The GPU, and what builds on it: a test without one brings others."""

    machine: Callable[[], Machine] = this_machine
    builder: Builder = build_tensorrt


@click.group()
@click.pass_context
def main(context: click.Context) -> None:
    """Engines of this machine's GPU, into the model store and out of it."""
    context.ensure_object(Workshop)


@main.command()
@URIS
@DTYPE
@INSTANCES
@click.option("--work", type=FOLDER, required=True, help="For the models and what is built.")
@click.option("--deadline-seconds", type=float, default=7200.0, help="Of all waiting for the store.")
@click.pass_obj
def build(
    shop: Workshop, models: tuple[ModelUri, ...], dtype: str, instances: int, work: Path, deadline_seconds: float
) -> None:
    """Builds what the store lacks."""
    with _exit_codes():
        deadline, here = Deadline(deadline_seconds), shop.machine()
        for model in models:
            job = EngineJob(ModelStoreSettings().open(model.bucket), here, Build(dtype, instances), deadline)
            record, what = job.run(model, shop.builder, work)
            click.echo(f"{model}: {what}: {record}")


@main.command()
@URIS
@DTYPE
@INSTANCES
@click.option("--cache", type=FOLDER, required=True, help="Where the files go.")
@click.option("--into", type=FOLDER, required=True, help="Triton's model repository: links into the cache.")
@click.option("--deadline-seconds", type=float, default=600.0, help="Until all are there, built by a Job meanwhile.")
@click.pass_obj
def fetch(
    shop: Workshop,
    models: tuple[ModelUri, ...],
    dtype: str,
    instances: int,
    cache: Path,
    into: Path,
    deadline_seconds: float,
) -> None:
    """Fetches those that fit this GPU, and refuses others."""
    with _exit_codes():
        deadline, here = Deadline(deadline_seconds), shop.machine()
        for model in models:
            job = EngineJob(ModelStoreSettings().open(model.bucket), here, Build(dtype, instances), deadline)
            for shown in job.fetch(model, cache, into):
                click.echo(f"{shown}: for {here}")


@contextmanager
def _exit_codes() -> Iterator[None]:
    try:
        yield
    except Unavailable as error:
        click.echo(error, err=True)
        raise SystemExit(3) from error
    except (SoundstageError, EngineError, OSError, ValueError) as error:
        click.echo(error, err=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # As the first process of a container it would otherwise not be heard.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
