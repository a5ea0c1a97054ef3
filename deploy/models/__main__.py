"""`soundstage models`, or python -m deploy.models: publishes models to S3, fetches them, deletes old ones.

publish FOLDER --bucket BUCKET     prints the model's URI; again is harmless, and goes on with what was interrupted
… --build-engines --release NAME   then builds its TensorRT engines on the GPUs of a cluster
list --bucket BUCKET               models that are whole, and the engines built from them
verify URI …                       reads every object; exit code 1 when one is damaged
fetch URI … --cache DIR --into DIR every file into the cache, hashed; a link for each model in the other folder
prune --bucket BUCKET              shows which old revisions and engines would be deleted; --yes deletes them
… --values FILE --in-use URI …     but for the newest --keep of each model, and what values or URIs name

Where the store is, say SOUNDSTAGE_MODELS_S3_ENDPOINT, …_S3_ACCESS_KEY, …_S3_SECRET_KEY, …_S3_REGION, …_S3_SECURE,
…_S3_CA (PEM file: who signed its certificate).
Exit codes: 1 it cannot be done as things are, 2 change the command, 3 the store does not answer: again may work.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from deploy.models.cache import Cache
from deploy.models.engines import engines_of
from deploy.models.fetch import Effort, fetch, link
from deploy.models.manifest import ModelUri
from deploy.models.prune import Wish, doomed, prune
from deploy.models.publish import publish, revisions, verify
from deploy.models.settings import ModelStoreSettings
from libs.artifacts import S3Store
from libs.errors import SoundstageError, Unavailable

API_SECONDS = 10.0
"""For an answer of Kubernetes' API."""
READY = ".ready"
"""Written into the models folder by `fetch --hold`, when everything is there."""


def main(words: list[str] | None = None, *, program: str = "python -m deploy.models") -> int:
    arguments = parse(words, program=program)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # As the first process of a container it would otherwise not be heard. Files begun are gone on with.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return COMMANDS[arguments.command](arguments, ModelStoreSettings())
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 3
    except (SoundstageError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)


def _publish(arguments: argparse.Namespace, settings: ModelStoreSettings) -> int:
    if arguments.build_engines and not arguments.release:
        raise ValueError("--build-engines: say which release builds them, with --release NAME")
    store = settings.open(arguments.bucket)
    done = publish(arguments.folder, arguments.bucket, store, parallel=arguments.parallel, mend=arguments.mend)
    what = "published" if done.is_new else "was there already"
    print(f"{done.uploaded} files uploaded, {what}", file=sys.stderr)
    print(done.uri, flush=True)
    return _build_engines(arguments, done.uri, store) if arguments.build_engines else 0


def _build_engines(arguments: argparse.Namespace, uri: ModelUri, store: S3Store) -> int:
    # Here, since the images of the services have neither of them.
    from deploy.doctor.kubeconfig import connect
    from deploy.models.engine_jobs import EngineJobs

    file = arguments.kubeconfig.expanduser()
    api = connect(file, context=arguments.context, namespace=arguments.namespace, seconds=API_SECONDS)
    jobs = EngineJobs(api, arguments.release, poll_seconds=arguments.poll_seconds)
    outcomes = jobs.follow(jobs.start(uri), arguments.engines_deadline_seconds, _tell)
    for record in engines_of(store, uri):
        _tell(f"in the store: {record}")
    for outcome in outcomes:
        if outcome.state != "complete":
            _tell(f"{outcome.job} is {outcome.state}: {outcome.said}")
    states = {outcome.state for outcome in outcomes}
    return 1 if "failed" in states else 3 * ("unfinished" in states)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _list(arguments: argparse.Namespace, settings: ModelStoreSettings) -> int:
    store = settings.open(arguments.bucket)
    for one in revisions(arguments.bucket, store):
        print(f"{one.uri}  {one.size_bytes / 1e6:.1f} MB  {one.published}")
        for record in engines_of(store, one.uri):
            print(f"  engines: {record}")
    return 0


def _verify(arguments: argparse.Namespace, settings: ModelStoreSettings) -> int:
    problems = []
    for uri in arguments.uris:
        found = verify(uri, settings.open(uri.bucket), parallel=arguments.parallel)
        problems += found
        print("\n".join(f"{uri}: {one}; publish it again with --mend" for one in found) or f"{uri} is whole")
    return int(bool(problems))


def _fetch(arguments: argparse.Namespace, settings: ModelStoreSettings) -> int:
    names = [uri.name for uri in arguments.uris]
    if len(set(names)) < len(names):
        raise ValueError("each model once: a models folder holds one revision of each")
    cache = Cache(arguments.cache, arguments.cache_gib << 30)
    effort = Effort(arguments.parallel, arguments.deadline_seconds)
    began = time.monotonic()
    with ExitStack() as held:
        for uri in arguments.uris:
            fetched = held.enter_context(
                fetch(uri, settings.open(uri.bucket), cache, effort, only=tuple(arguments.only))
            )
            shown = link(fetched.folder, arguments.into)
            print(
                f"{shown}: {fetched.files} files are right, {fetched.loaded} of them loaded "
                f"({fetched.loaded_bytes / 1e6:.1f} MB), after {time.monotonic() - began:.1f} s",
                flush=True,
            )
        if arguments.hold:
            (arguments.into / READY).touch()
            while True:
                signal.pause()
    return 0


def _prune(arguments: argparse.Namespace, settings: ModelStoreSettings) -> int:
    store = settings.open(arguments.bucket)
    wish = Wish(arguments.keep, _in_use(arguments), timedelta(hours=arguments.min_age_hours))
    deleted, deleted_bytes = 0, 0
    found = doomed(arguments.bucket, store, wish)
    for one in found:
        engines = f", with {len(one.records)} engines" if one.records else ""
        is_gone = arguments.yes and prune(one, store)
        what = "deleted" if is_gone else "let be, as somebody writes to it" if arguments.yes else "would be deleted"
        print(f"{one.uri}: {what}: {one.why}{engines}, {one.size_bytes / 1e6:.1f} MB", flush=True)
        deleted += is_gone
        deleted_bytes += is_gone * one.size_bytes
    if arguments.yes:
        _tell(f"{deleted} of {len(found)} deleted, {deleted_bytes / 1e6:.1f} MB")
    else:
        _tell(f"nothing was deleted; --yes deletes these {len(found)}" if found else "there is nothing to delete")
    return 0


def _in_use(arguments: argparse.Namespace) -> list[ModelUri]:
    """Of this bucket. Each file of values may be of a release of its own."""
    named = list(arguments.in_use)
    if arguments.values:
        # Here, since the images of the services have it not.
        from deploy.doctor.values import Values

        texts = [text for file in arguments.values for text in Values([file]).at("models.fetch") or ()]
        named += [ModelUri.parse(text) for text in texts]
    elsewhere = sorted(str(uri) for uri in named if uri.bucket != arguments.bucket)
    if elsewhere:
        _tell(f"not in bucket {arguments.bucket}: {', '.join(elsewhere)}")
    return [uri for uri in named if uri.bucket == arguments.bucket]


COMMANDS = {"publish": _publish, "list": _list, "verify": _verify, "fetch": _fetch, "prune": _prune}


def parse(words: list[str] | None = None, *, program: str = "python -m deploy.models") -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        command = commands.add_parser(name)
        if name not in ("list", "prune"):
            command.add_argument("--parallel", type=_between(1, 16), default=4, help="files at once")
        if name in ("publish", "list", "prune"):
            command.add_argument("--bucket", required=True)
        else:
            command.add_argument("uris", nargs="+", type=_uri, metavar="URI", help="s3://bucket/models/name/revision")
        if name == "publish":
            command.add_argument("folder", type=Path, help="in diffusers' layout, with soundstage.json")
            command.add_argument("--mend", action="store_true", help="upload also what is there")
            _add_engine_options(command)
        if name == "fetch":
            _add_fetch_options(command)
        if name == "prune":
            _add_prune_options(command)
    return parser.parse_args(words)


def _add_engine_options(command: argparse.ArgumentParser) -> None:
    kubeconfig = Path(os.environ.get("KUBECONFIG") or "~/.kube/config")
    command.add_argument("--build-engines", action="store_true", help="on a cluster, by Jobs like those of the chart")
    command.add_argument("--release", default="", help="of the chart, whose Jobs say how")
    command.add_argument("--namespace", default="", help="of the release; default: that of the context")
    command.add_argument("--kubeconfig", type=Path, default=kubeconfig, help="one file; default: KUBECONFIG")
    command.add_argument("--context", default="", help="of the kubeconfig; default: its current one")
    command.add_argument("--engines-deadline-seconds", type=float, default=14400.0, help="until all Jobs have ended")
    command.add_argument("--poll-seconds", type=float, default=5.0, help="between two looks at a Job")


def _add_fetch_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--cache", type=Path, required=True, help="folder that processes of this node may share")
    command.add_argument("--into", type=Path, required=True, help="the services' models_dir")
    command.add_argument("--deadline-seconds", type=float, default=1800.0, help="for each model")
    command.add_argument("--cache-gib", type=_between(0, 1 << 20), default=0, help="evict down to it; 0: never")
    command.add_argument("--only", action="append", default=[], help="this file alone; may be repeated")
    command.add_argument("--hold", action="store_true", help="stay, so that nothing of it is evicted, until SIGTERM")


def _add_prune_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--yes", action="store_true", help="delete; without it nothing is")
    command.add_argument("--keep", type=_between(1, 1 << 20), default=3, help="the newest revisions of each model")
    command.add_argument("--in-use", type=_uri, action="append", default=[], metavar="URI", help="keep it, too")
    command.add_argument(
        "--values", type=_file, action="append", default=[], help="of a release: keep its models.fetch"
    )
    age = "let be what was written to within it; longer than an upload takes"
    command.add_argument("--min-age-hours", type=_between(0, 1 << 20), default=24, help=age)


class _between:  # noqa: N801 (argparse prints the name)
    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most

    def __call__(self, text: str) -> int:
        number = int(text)
        if not self._least <= number <= self._most:
            raise argparse.ArgumentTypeError(f"must be {self._least} to {self._most}")
        return number


def _file(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"file {text} does not exist")
    return Path(text)


def _uri(text: str) -> ModelUri:
    try:
        return ModelUri.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
