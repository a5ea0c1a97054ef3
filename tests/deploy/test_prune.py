"""Cleaning the model store up, on a real S3 server, also in the middle of a publishing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from deploy.models.engines import EngineKey, EngineRecord, find_engines, publish_engines
from deploy.models.manifest import ModelUri
from deploy.models.prune import Doomed, Wish, doomed, prune
from deploy.models.publish import publish, revisions, verify
from deploy.models.settings import ModelStoreSettings
from libs.artifacts import S3Store
from libs.errors import FailedPrecondition, Unavailable
from tests.support.s3 import S3Server

ROOT = Path(__file__).resolve().parents[2]
CARD = json.loads((ROOT / "models/diorama/soundstage.json").read_text())
AT_ONCE = timedelta()
A_TICK = 1.1
"""The server's times are whole seconds."""


@pytest.fixture
def bucket() -> str:
    return f"p-{uuid.uuid4().hex[:16]}"


@pytest.fixture
def variables(s3_server: S3Server) -> dict[str, str]:
    return {
        "SOUNDSTAGE_MODELS_S3_ENDPOINT": s3_server.endpoint,
        "SOUNDSTAGE_MODELS_S3_SECURE": "false",
        "SOUNDSTAGE_MODELS_S3_ACCESS_KEY": s3_server.access_key,
        "SOUNDSTAGE_MODELS_S3_SECRET_KEY": s3_server.secret_key,
    }


@pytest.fixture
def opened(s3_server: S3Server, bucket: str) -> Callable[[], S3Store]:
    """A store of its own for each who takes part."""
    settings = ModelStoreSettings(
        s3_endpoint=s3_server.endpoint,
        s3_secure=False,
        s3_access_key=SecretStr(s3_server.access_key),
        s3_secret_key=SecretStr(s3_server.secret_key),
    )
    return lambda: settings.open(bucket)


@pytest.fixture
def store(opened: Callable[[], S3Store]) -> S3Store:
    return opened()


@pytest.fixture
def published(bucket: str, store: S3Store, tmp_path: Path) -> Callable[..., list[ModelUri]]:
    """Revisions of a model of three files, the oldest first."""

    def publish_all(count: int, name: str = "little") -> list[ModelUri]:
        return [
            publish(written(tmp_path / name, name, number), bucket, store, parallel=2).uri
            for number in range(count)
            if number == 0 or time.sleep(A_TICK) is None
        ]

    return publish_all


def written(folder: Path, name: str, number: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "soundstage.json").write_text(json.dumps(CARD | {"name": name}))
    (folder / "weights.safetensors").write_text(f"weights {number}")
    (folder / "same.txt").write_text("in every revision")
    return folder


def engines_for(model: ModelUri, store: S3Store, folder: Path, gpu: str = "NVIDIA L4") -> EngineRecord:
    folder.mkdir(exist_ok=True)
    (folder / "model.plan").write_text(f"a plan {uuid.uuid4()}")
    record = EngineRecord(
        model=str(model),
        gpu=gpu,
        compute_capability="8.9",
        tensorrt="10.5.0",
        variant="bfloat16-x1-b1",
        revision="0" * 64,
        built=datetime.now(UTC),
        build_seconds=1.0,
    )
    return publish_engines(folder, record, store)[0]


def keys(store: S3Store, below: str = "") -> set[str]:
    return {stored.key for stored in store.walk(below)}


def old(bucket: str, store: S3Store, keep: int = 1, in_use: Iterable[ModelUri] = ()) -> list[Doomed]:
    return doomed(bucket, store, Wish(keep, tuple(in_use), AT_ONCE))


def run(variables: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.models", "prune", *map(str, words)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'libs/protos'}", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_newest_and_those_in_use_stay_and_the_rest_goes_with_its_engines(
    bucket: str, store: S3Store, published: Callable[..., list[ModelUri]], variables: dict[str, str], tmp_path: Path
) -> None:
    first, second, third, fourth = published(4)
    (other,) = published(1, "other")
    records = [engines_for(uri, store, tmp_path / "engines") for uri in (first, second, fourth)]
    video = f"acme/{uuid.uuid4()}/encode/1/conditioning"
    store.put(video, b"of a video", "text/plain")
    (tmp_path / "values.yaml").write_text(f"models:\n  fetch: ['{first}', 's3://elsewhere/{first.prefix}']\n")
    words = ("--bucket", bucket, "--keep", 1, "--values", tmp_path / "values.yaml", "--in-use", third)

    young = run(variables, *words)
    assert (young.returncode, young.stdout) == (0, "")
    assert f"not in bucket {bucket}: s3://elsewhere" in young.stderr
    before = keys(store)
    dry = run(variables, *words, "--min-age-hours", 0)
    assert (dry.returncode, keys(store)) == (0, before)
    assert dry.stdout.startswith(f"{second}: would be deleted: not among the newest 1")
    assert "with 1 engines" in dry.stdout
    assert "--yes deletes these 1" in dry.stderr
    done = run(variables, *words, "--min-age-hours", 0, "--yes")
    assert (done.returncode, done.stdout) == (0, dry.stdout.replace("would be deleted", "deleted"))
    assert {key for key in before if second.revision in key} == before - keys(store)
    assert [verify(uri, store, parallel=2) for uri in (first, third, fourth, other)] == [[], [], [], []]
    assert [find_engines(store, record.key) for record in records] == [records[0], None, records[2]]
    assert video in keys(store)


def test_nothing_is_deleted_when_a_model_in_use_is_not_in_the_store(
    bucket: str, store: S3Store, published: Callable[..., list[ModelUri]], variables: dict[str, str]
) -> None:
    first, _ = published(2)
    before = keys(store)
    wrong = ModelUri(bucket, "little", "0" * 64)
    done = run(variables, "--bucket", bucket, "--keep", 1, "--min-age-hours", 0, "--yes", "--in-use", wrong)
    assert done.returncode == 1
    assert "is said to be in use" in done.stderr
    assert keys(store) == before
    assert [one.uri for one in old(bucket, store)] == [first]


def test_publishing_again_makes_a_revision_the_newest(
    bucket: str, store: S3Store, published: Callable[..., list[ModelUri]], tmp_path: Path
) -> None:
    first, second = published(2)
    time.sleep(A_TICK)
    assert publish(written(tmp_path / "little", "little", 0), bucket, store, parallel=2).uri == first
    assert [one.uri for one in old(bucket, store)] == [second]


def test_what_a_killed_upload_left_goes_when_it_is_old(
    bucket: str, store: S3Store, published: Callable[..., list[ModelUri]], tmp_path: Path
) -> None:
    (model,) = published(1)
    record = engines_for(model, store, tmp_path / "engines")
    stray = ModelUri(bucket, "little", "1" * 64)
    build = record.key.build("2" * 64)
    orphan = EngineKey(ModelUri(bucket, "little", "3" * 64), "NVIDIA L4", "10.5.0", "bfloat16-x1-b1").build("4" * 64)
    for half in (stray, build, orphan):
        store.put(half.key("weights.safetensors"), b"half of it", "text/plain")
    store.put("models/notes.txt", b"somebody's", "text/plain")
    store.put("engines/little/notes.txt", b"somebody's", "text/plain")
    assert doomed(bucket, store, Wish(keep=1)) == []
    why = {one.uri.revision: one.why for one in old(bucket, store)}
    assert why == {
        stray.revision: "its upload did not end",
        build.revision: "engines that no record names",
        "3" * 64: "engines of a model that is not there",
    }
    assert all(prune(one, store) for one in old(bucket, store))
    assert old(bucket, store) == []
    assert not any(half.revision in key for half in (stray, build, orphan) for key in keys(store))
    assert {"models/notes.txt", "engines/little/notes.txt"} < keys(store)
    assert verify(model, store, parallel=2) == []
    assert find_engines(store, record.key) == record


def test_engines_that_are_young_keep_their_model(
    bucket: str, store: S3Store, published: Callable[..., list[ModelUri]], tmp_path: Path
) -> None:
    first, _ = published(2)
    time.sleep(3 * A_TICK)
    wish = Wish(keep=1, min_age=timedelta(seconds=3))
    assert [one.uri for one in doomed(bucket, store, wish)] == [first]
    engines_for(first, store, tmp_path / "engines")
    assert doomed(bucket, store, wish) == []


def test_what_is_published_after_it_was_chosen_stays(
    bucket: str, store: S3Store, published: Callable[..., list[ModelUri]], tmp_path: Path
) -> None:
    first, _ = published(2)
    (chosen,) = old(bucket, store)
    time.sleep(A_TICK)
    publish(written(tmp_path / "little", "little", 0), bucket, store, parallel=2)
    assert not prune(chosen, store)
    assert verify(first, store, parallel=2) == []
    assert first.pruned_key not in keys(store)


def test_who_published_over_a_deletion_is_told_and_mends_it(
    bucket: str, opened: Callable[[], S3Store], published: Callable[..., list[ModelUri]], tmp_path: Path
) -> None:
    """Every file was there when the publisher looked, and none is when it writes the manifest."""
    first, _ = published(2)
    pruner, publisher = opened(), opened()
    (chosen,) = old(bucket, pruner)
    write = publisher.put_new

    def too_late(key: str, data: bytes, media_type: str) -> bool:
        assert prune(chosen, pruner)
        return write(key, data, media_type)

    publisher.put_new = too_late  # type: ignore[method-assign]
    folder = written(tmp_path / "little", "little", 0)
    with pytest.raises(Unavailable, match="publish it again"):
        publish(folder, bucket, publisher, parallel=2)
    assert publish(folder, bucket, opened(), parallel=2).uploaded == 3
    assert verify(first, pruner, parallel=2) == []


def test_who_publishes_in_the_middle_of_a_deletion_is_told_and_nothing_is_half_there(
    bucket: str, opened: Callable[[], S3Store], published: Callable[..., list[ModelUri]], tmp_path: Path
) -> None:
    """The manifest is gone already, the files are not: the publisher finds them all and writes the manifest."""
    first, _ = published(2)
    pruner, publisher = opened(), opened()
    (chosen,) = old(bucket, pruner)
    folder = written(tmp_path / "little", "little", 0)
    delete, told = pruner.delete, []

    def with_a_publisher(doomed_keys: Iterable[str]) -> int:
        count = delete(doomed_keys)
        if not told:
            with pytest.raises(Unavailable) as error:
                publish(folder, bucket, publisher, parallel=2)
            told.append(error.value.reason)
            assert {first.manifest_key, first.pruned_key, first.key("same.txt")} < keys(publisher)
        return count

    pruner.delete = with_a_publisher  # type: ignore[method-assign]
    assert prune(chosen, pruner)
    assert told == ["MODEL_PRUNED"]
    assert keys(publisher, first.prefix) == set()
    assert publish(folder, bucket, publisher, parallel=2).uploaded == 3
    assert verify(first, publisher, parallel=2) == []


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_an_interrupted_prune_is_gone_on_with(
    bucket: str, opened: Callable[[], S3Store], published: Callable[..., list[ModelUri]], tmp_path: Path, before: int
) -> None:
    """``before``: after so many deletions. What is half deleted is not listed, and is no choice for anybody."""
    first, second = published(2)
    killed, store = opened(), opened()
    (chosen,) = old(bucket, killed)
    delete, left = killed.delete, [before]

    def dies(doomed_keys: Iterable[str]) -> int:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return delete(doomed_keys)

    killed.delete = dies  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        prune(chosen, killed)
    assert [one.uri for one in revisions(bucket, store)] == [second]
    folder = written(tmp_path / "little", "little", 0)
    with pytest.raises(Unavailable, match="prune --yes"):
        publish(folder, bucket, store, parallel=2)
    with pytest.raises(FailedPrecondition, match="not whole"):
        old(bucket, store, in_use=[first])
    (again,) = doomed(bucket, store, Wish(keep=1))
    assert (again.uri, again.why) == (first, "a prune of it was interrupted")
    assert prune(again, store)
    assert keys(store, first.prefix) == set()
    publish(folder, bucket, store, parallel=2)
    assert verify(first, store, parallel=2) == []
