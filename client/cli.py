"""The ``soundstage`` command.

Exit codes: 0 done · 1 the video failed or was cancelled, or a file could not be fetched · 2 the request must be
changed · 3 no server answers · 4 there is no such video · 5 not now (a limit, a state, a deadline) · 6 the server wants
to know who you are · 130 Ctrl-C.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import click
import grpc
from google.protobuf.json_format import MessageToJson
from rich.console import Console
from soundstage.artifact.v1 import artifact_pb2
from soundstage.video.v1 import video_pb2 as pb
from typing_extensions import override

from client.credentials import tls_credentials
from client.errors import SoundstageClientError, SoundstageRpcError, WaitTimeoutError
from client.progress import ProgressDisplay, stage_table, state_name
from client.request import AudioName, PresetName, PriorityName
from client.sync import SoundstageClient
from client.text import (
    describe,
    describe_value,
    failure_of,
    is_too_large,
    json_text,
    model_text,
    quota_text,
    video_line,
    video_text,
)

__all__ = ["NewFile", "ProblemForPeople", "main"]

REPOSITORY = Path(__file__).resolve().parent.parent
ADDRESS_FILE = Path(".state") / "address"

EXIT_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: 2,
    grpc.StatusCode.ALREADY_EXISTS: 2,
    grpc.StatusCode.OUT_OF_RANGE: 2,
    grpc.StatusCode.UNAVAILABLE: 3,
    grpc.StatusCode.NOT_FOUND: 4,
    grpc.StatusCode.FAILED_PRECONDITION: 5,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 5,
    grpc.StatusCode.DEADLINE_EXCEEDED: 5,
    grpc.StatusCode.UNAUTHENTICATED: 6,
}
PEM = click.Path(exists=True, dir_okay=False, path_type=Path)
PASSED_ON: dict[str, Any] = {"add_help_option": False, "context_settings": {"ignore_unknown_options": True}}
"""Of a command that another program reads the words of."""
STATE_CHOICES = [
    name.removeprefix("STATE_").lower() for name in pb.State.DESCRIPTOR.values_by_name if name != "STATE_UNSPECIFIED"
]


class ProblemForPeople(click.ClickException):
    """Prints ``Error: ...`` and ends the command with its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        vars(self)["exit_code"] = exit_code


class NewFile(click.Path):
    """A file to be written when a video is ready: that it cannot be is told before minutes of work."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            self.fail(f"{str(path)!r} cannot be written: {folder} is no folder that you may write to.", param, ctx)
        return path


@dataclass(frozen=True)
class Connection:
    """How to reach the server, as somebody said it in the environment or on the command line."""

    address: str | None
    token: str
    tls: bool
    ca: Path | None
    cert: Path | None
    key: Path | None

    def open(self, address: str) -> SoundstageClient:
        files = {"ca": self.ca, "cert": self.cert, "key": self.key}
        encrypted = self.tls or any(files.values())
        return SoundstageClient(address, token=self.token, credentials=tls_credentials(**files) if encrypted else None)


@click.group(
    epilog="Exit codes: 1 video failed, 2 change the request, 3 no server, 4 no such video, 5 not now, 6 who are you."
)
def main() -> None:
    """Makes videos with sound on a Soundstage server."""


def _running_stack() -> str:
    """The address that `make up` wrote: from here upwards, or in the repository that this command is installed from."""
    for folder in (Path.cwd(), *Path.cwd().parents, REPOSITORY):
        if (folder / ADDRESS_FILE).is_file():
            return (folder / ADDRESS_FILE).read_text().strip()
    raise ProblemForPeople("no server is named and none runs here: use --address HOST:PORT, or start one: make up", 3)


@contextmanager
def _client(connection: Connection) -> Iterator[SoundstageClient]:
    """A client whose errors are told to a person."""
    where = connection.address or _running_stack()
    try:
        with connection.open(where) as client:
            yield client
    except SoundstageRpcError as error:
        exit_code = 2 if is_too_large(error) else EXIT_CODES.get(error.code, 1)
        raise ProblemForPeople(describe(error, where), exit_code) from error
    except WaitTimeoutError as error:
        raise ProblemForPeople(str(error), 5) from error
    except ValueError as error:
        raise ProblemForPeople(describe_value(error), 2) from error
    except (SoundstageClientError, OSError) as error:
        raise ProblemForPeople(str(error), 1) from error
    except KeyboardInterrupt:
        raise ProblemForPeople("stopped", 130) from None


def calls_server(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of a connection and, as its first argument, a client for it."""

    @click.option("--address", envvar="SOUNDSTAGE_ADDRESS", help="host:port of the server; default: that of `make up`.")
    @click.option("--token", envvar="SOUNDSTAGE_TOKEN", default="", help="API key or JWT; better in SOUNDSTAGE_TOKEN.")
    @click.option("--tls", envvar="SOUNDSTAGE_TLS", is_flag=True, help="Encrypt; implied by the next three.")
    @click.option("--ca", envvar="SOUNDSTAGE_CA", type=PEM, help="Who vouches for the server; default: the system's.")
    @click.option("--cert", envvar="SOUNDSTAGE_CERT", type=PEM, help="Our certificate, if the server asks for one.")
    @click.option("--key", envvar="SOUNDSTAGE_KEY", type=PEM, help="Its key.")
    @wraps(command)
    def run(
        *,
        address: str | None,
        token: str,
        tls: bool,
        ca: Path | None,
        cert: Path | None,
        key: Path | None,
        **options: object,
    ) -> None:
        with _client(Connection(address, token, tls, ca, cert, key)) as client:
            command(client, **options)

    return run


@main.command()
@click.argument("prompt")
@click.option("--model", default="", help="As `soundstage models` lists them.")
@click.option("--negative", default="", help="What to keep out of the picture.")
@click.option("--image", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="First frame: PNG, JPEG.")
@click.option("--duration", type=float, help="Seconds.")
@click.option("--width", type=int, help="Pixels.")
@click.option("--height", type=int, help="Pixels.")
@click.option("--fps", type=float, help="Frames a second.")
@click.option("--steps", type=int, help="Denoising steps.")
@click.option("--guidance", type=float, help="Guidance scale; 1 is none.")
@click.option("--seed", type=int, help="The same request with the same seed gives the same video.")
@click.option("--lora", help="A change of the model's weights: a safetensors file, or the URI of one on the server.")
@click.option("--lora-scale", type=float, help="How strongly it changes them, 0 to 2; default: 1.")
@click.option("--lora-sha256", help="With a URI: the file's SHA-256.")
@click.option("--lora-bytes", type=int, help="With a URI: the file's size.")
@click.option("--preset", type=click.Choice(get_args(PresetName)))
@click.option("--audio", type=click.Choice(get_args(AudioName)), help="What is to be heard.")
@click.option("--priority", type=click.Choice(get_args(PriorityName)))
@click.option("--request-id", help="A UUID: a repeat with the same one makes no second video.")
@click.option("--price", is_flag=True, help="Say what it would cost, and make nothing.")
@click.option("--wait", is_flag=True, help="Follow it until it is ready; Ctrl-C cancels it.")
@click.option("--out", type=NewFile(), help="Bring the MP4 here; implies --wait.")
@click.option("--json", "as_json", is_flag=True, help="Print the video as JSON.")
@calls_server
def create(
    client: SoundstageClient,
    prompt: str,
    price: bool,
    wait: bool,
    out: Path | None,
    as_json: bool,
    **options: Any,  # noqa: ANN401  click passes the options above
) -> None:
    """Asks for a video of PROMPT."""
    if price:
        priced = client.create(prompt, validate_only=True, **_spec_arguments(options))
        click.echo(json_text(priced) if as_json else f"{priced.cost_credits:g} credits")
        return
    video = client.create(prompt, **_spec_arguments(options))
    if not wait and out is None:
        click.echo(json_text(video) if as_json else video.name)
        return
    Console(stderr=True).print(f"{video.name}, seed {video.spec.seed}", highlight=False)
    video = _follow_or_cancel(client, video)
    _raise_unless_succeeded(video)
    if out is not None:
        client.download(video, out)
    click.echo(json_text(video) if as_json else out or video.result.video_url)


@main.command()
@click.argument("video")
@calls_server
def watch(client: SoundstageClient, video: str) -> None:
    """Follows VIDEO until it ends. Ctrl-C stops the watching, not the video."""
    ended = _follow(client, video)
    _raise_unless_succeeded(ended)
    click.echo(ended.result.video_url)


@main.command()
@click.argument("video")
@click.option("--out", type=NewFile(), help="Bring the MP4 here, if it is ready.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@calls_server
def get(client: SoundstageClient, video: str, out: Path | None, as_json: bool) -> None:
    """Shows VIDEO, as it is now."""
    found = client.get(video)
    if out is not None:
        client.download(found, out)
    if as_json:
        click.echo(json_text(found))
        return
    click.echo(video_text(found))
    if found.stage_timings:
        Console().print(stage_table(found))


@main.command(name="list")
@click.option("--state", "states", type=click.Choice(STATE_CHOICES), multiple=True, help="Only these; may be repeated.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@calls_server
def list_videos(client: SoundstageClient, states: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Lists your videos, newest first."""
    wanted = [pb.State.Value(f"STATE_{state.upper()}") for state in states]
    for video in islice(client.list(states=wanted, page_size=min(limit, 200)), limit):
        click.echo(json_text(video, indent=None) if as_json else video_line(video))


@main.command()
@click.argument("video")
@click.option("--reason", default="", help="Why, for the log.")
@calls_server
def cancel(client: SoundstageClient, video: str, reason: str) -> None:
    """Asks VIDEO to stop."""
    stopped = client.cancel(video, reason=reason)
    click.echo(f"{stopped.name} {state_name(stopped)}")


@main.command()
@click.argument("video")
@calls_server
def delete(client: SoundstageClient, video: str) -> None:
    """Removes VIDEO, which must have ended, with its files."""
    client.delete(video)


def alone(command: Callable[..., None]) -> Callable[..., None]:
    """What a group does when none of its commands is named."""

    @wraps(command)
    def run(**options: object) -> None:
        if click.get_current_context().invoked_subcommand is None:
            command(**options)

    return run


@main.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@alone
@calls_server
def models(client: SoundstageClient, as_json: bool) -> None:
    """Lists the models that can be asked for; the first is the default. The commands are for the model store."""
    for model in client.models():
        click.echo(MessageToJson(model, indent=None) if as_json else model_text(model))


def _add_store_command(name: str, does: str) -> None:
    @models.command(name, short_help=does, **PASSED_ON)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def run(arguments: tuple[str, ...]) -> None:
        command = _for_operators("deploy.models.__main__")
        raise SystemExit(command([name, *arguments], program="soundstage models"))


_add_store_command("publish", "Uploads a model to S3, and has its engines built on a cluster.")
_add_store_command("list", "Lists what is in the model store.")
_add_store_command("verify", "Reads every object of a model.")
_add_store_command("fetch", "Brings models from the store into a folder.")
_add_store_command("prune", "Deletes old revisions and their engines from the model store.")


@main.command()
@click.argument("prompt")
@click.option("--model", default="")
@calls_server
def analyze(client: SoundstageClient, prompt: str, model: str) -> None:
    """Says how well a model is likely to understand PROMPT."""
    answer = client.analyze(prompt, model=model)
    click.echo(f"{answer.score:.0%}")
    for finding in answer.findings:
        part = f" ({finding.part!r})" if finding.part else ""
        click.echo(f"{'+' if finding.positive else '-'} {finding.aspect}: {finding.message}{part}")
    for suggestion in answer.suggestions:
        click.echo(f"try: {suggestion}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@calls_server
def quota(client: SoundstageClient, as_json: bool) -> None:
    """Shows who you are to the server, your limits, and the credits left."""
    answer = client.quota()
    click.echo(MessageToJson(answer) if as_json else quota_text(answer))


@main.command(**PASSED_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def doctor(arguments: tuple[str, ...]) -> None:
    """Checks stores, values and a cluster before an install."""
    _for_operators("deploy.doctor.__main__").main(args=list(arguments), prog_name="soundstage doctor")


def _for_operators(module: str) -> Any:  # noqa: ANN401  a command of click, or a function
    try:
        # By name and only here: the client itself knows nothing of databases and clusters, nor has their packages.
        return import_module(module).main
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed here; this needs: pip install 'soundstage[ops]'"
        raise ProblemForPeople(message, 2) from error


def _spec_arguments(options: dict[str, Any]) -> dict[str, Any]:
    renamed = {
        "negative": "negative_prompt",
        "steps": "num_inference_steps",
        "guidance": "guidance_scale",
        "audio": "audio_intent",
    }
    lora = _lora(options.pop("lora"), options.pop("lora_sha256"), options.pop("lora_bytes"))
    return {renamed.get(name, name): value for name, value in options.items()} | {"lora": lora}


def _lora(where: str | None, sha256: str | None, size_bytes: int | None) -> Path | artifact_pb2.Artifact | None:
    """Of a URI the server wants to know that caller and store mean the same bytes."""
    if where is None or "://" not in where:
        if sha256 is not None or size_bytes is not None:
            raise click.UsageError("--lora-sha256 and --lora-bytes belong to a URI in --lora")
        if where is not None and not Path(where).is_file():
            raise click.UsageError(f"--lora: file {where} does not exist")
        return None if where is None else Path(where)
    if sha256 is None or size_bytes is None:
        raise click.UsageError("--lora with a URI needs --lora-sha256 and --lora-bytes")
    media_type = "application/vnd.safetensors"
    return artifact_pb2.Artifact(uri=where, media_type=media_type, size_bytes=size_bytes, sha256=sha256)


def _follow(client: SoundstageClient, video: str | pb.Video) -> pb.Video:
    with ProgressDisplay(Console(stderr=True)) as display:
        return client.wait(video, on_event=lambda event: display.update(event.video))


def _follow_or_cancel(client: SoundstageClient, video: pb.Video) -> pb.Video:
    try:
        return _follow(client, video)
    except KeyboardInterrupt:
        client.cancel(video, reason="Ctrl-C")
        raise ProblemForPeople(f"{video.name} cancelled", 130) from None


def _raise_unless_succeeded(video: pb.Video) -> None:
    if video.state != pb.STATE_SUCCEEDED:
        raise ProblemForPeople(failure_of(video), 1)


if __name__ == "__main__":
    main()
