"""python -m deploy.local up | down | status | video"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import get_args

import click
from rich.console import Console
from typing_extensions import override

from client import SoundstageRpcError
from client.cli import NewFile
from client.errors import SoundstageClientError
from client.request import PresetName
from client.text import describe, describe_value
from deploy.local.health import NotReadyError
from deploy.local.plan import REPOSITORY
from deploy.local.stack import answers, is_up, start_stack, stop_stack
from deploy.local.state import State
from deploy.local.video import Order, VideoFailedError, make_video, stop_stale_runs

__all__ = ["main"]

NOT_UP = 3
VARIABLE_PREFIX = "SOUNDSTAGE_VIDEO_"
# What a person typed after `make video`, for the field that the server names.
VARIABLE_OF_FIELD = {
    "spec.prompt": "PROMPT",
    "spec.negative_prompt": "NEGATIVE",
    "spec.image": "IMAGE",
    "spec.duration": "DURATION",
    "spec.seed": "SEED",
    "spec.num_inference_steps": "STEPS",
    "spec.preset": "PRESET",
}


class MakeOption(click.Option):
    """One that `make video` has a variable for: complaints name both, as either may have been typed."""

    @override
    def get_error_hint(self, ctx: click.Context | None) -> str:
        return f"{super().get_error_hint(ctx)} (in make video: {str(self.envvar).removeprefix(VARIABLE_PREFIX)})"


@click.group()
@click.option(
    "--state",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=REPOSITORY / ".state",
    help="Where the stack keeps its address, logs and data.",
)
@click.pass_context
def main(context: click.Context, folder: Path) -> None:
    """Soundstage on this machine: Temporal and the five services as processes."""
    context.obj = State(folder)


@main.command()
@click.option("--triton", is_flag=True, help="Start a tritonserver too; the networks run there.")
@click.pass_obj
def up(state: State, triton: bool) -> None:
    """Starts everything and leaves it running."""
    console = Console(stderr=True)
    with _told_to_people(), state.locked():
        if is_up(state):
            click.echo(f"already up at {state.address}")
            return
        with console.status("starting") as status:
            address = start_stack(state, end_with_parent=False, say=lambda text: status.update(text), triton=triton)
    click.echo(f'up at {address}; next: .venv/bin/soundstage create --wait "a campfire on a beach at night"')


@main.command()
@click.pass_obj
def down(state: State) -> None:
    """Stops everything, also what an earlier run left behind. Videos and records stay."""
    with _told_to_people(), state.locked():
        killed = stop_stack(state)
        stop_stale_runs(state)
    if killed:
        click.echo(f"had to be killed: {', '.join(killed)}; their logs are in {state.logs}")


@main.command()
@click.pass_obj
def status(state: State) -> None:
    """Shows each process. Exit code 3 when the stack is not up."""
    for process in state.processes():
        word = "ended" if not process.is_alive() else "ready" if answers(process) else "starting"
        click.echo(f"{process.name:<9} {word:<9} pid {process.pid:<8} 127.0.0.1:{process.port:<6} {process.log}")
    if not is_up(state):
        click.echo("not up; start it with: make up")
        sys.exit(NOT_UP)


@main.command()
@click.option(
    "--prompt", cls=MakeOption, envvar="SOUNDSTAGE_VIDEO_PROMPT", default="", help="What to show and let hear."
)
@click.option("--out", cls=MakeOption, envvar="SOUNDSTAGE_VIDEO_OUT", default="video.mp4", type=NewFile())
@click.option("--negative", cls=MakeOption, envvar="SOUNDSTAGE_VIDEO_NEGATIVE", default="")
@click.option(
    "--image",
    cls=MakeOption,
    envvar="SOUNDSTAGE_VIDEO_IMAGE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option("--duration", cls=MakeOption, envvar="SOUNDSTAGE_VIDEO_DURATION", type=float)
@click.option("--seed", cls=MakeOption, envvar="SOUNDSTAGE_VIDEO_SEED", type=int)
@click.option("--steps", cls=MakeOption, envvar="SOUNDSTAGE_VIDEO_STEPS", type=int)
@click.option("--preset", cls=MakeOption, envvar="SOUNDSTAGE_VIDEO_PRESET", type=click.Choice(get_args(PresetName)))
@click.option("--token", envvar="SOUNDSTAGE_TOKEN", default="", help="API key or JWT, for a stack that asks who calls.")
@click.option("--triton", is_flag=True, help="Start a tritonserver too; the networks run there.")
@click.pass_obj
def video(
    state: State,
    prompt: str,
    out: Path,
    negative: str,
    image: Path | None,
    duration: float | None,
    seed: int | None,
    steps: int | None,
    preset: PresetName | None,
    token: str,
    triton: bool,
) -> None:
    """Makes one video: starts what is not up, waits for it, writes --out and a poster, stops what it started."""
    if not prompt.strip():
        raise click.UsageError('say what to show: make video PROMPT="a campfire on a beach at night" OUT=campfire.mp4')
    if out.suffix.lower() != ".mp4":
        raise click.UsageError(f"OUT={out}: the file is an MP4; give it a name that ends with .mp4")
    order = Order(prompt, out, negative, image, duration, seed, steps, preset)
    with _told_to_people(), _ended_by_signals():
        make_video(order, state, Console(stderr=True), token, triton=triton)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal stop a video as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _told_to_people() -> Iterator[None]:
    try:
        yield
    except SoundstageRpcError as error:
        raise click.ClickException(describe(error, "127.0.0.1", VARIABLE_OF_FIELD)) from error
    except ValueError as error:
        raise click.ClickException(describe_value(error, VARIABLE_OF_FIELD)) from error
    except (SoundstageClientError, NotReadyError, VideoFailedError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
