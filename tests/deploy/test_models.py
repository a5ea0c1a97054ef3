"""The model store with a real S3 server: what is interrupted, damaged or done twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from deploy.models.__main__ import main
from deploy.models.cache import Cache, Deadline
from deploy.models.fetch import Effort, fetch, link
from deploy.models.manifest import Entry, Manifest, ModelUri, read_manifest
from deploy.models.publish import publish, revisions, verify
from deploy.models.settings import ModelStoreSettings
from libs.artifacts import S3Store
from libs.catalog import Catalog
from libs.errors import FailedPrecondition, ResourceExhausted, Unavailable
from tests.support.forwarder import Forwarder, forwarding
from tests.support.s3 import S3Server

ROOT = Path(__file__).resolve().parents[2]
DIORAMA = ROOT / "models/diorama"
SHARD = "transformer/diffusion_pytorch_model.safetensors"
EFFORT = Effort(parallel=4, deadline_seconds=60)
LARGE = 40 << 20
"""More than two parts of an upload."""


@pytest.fixture
def bucket() -> str:
    return f"t-{uuid.uuid4().hex[:16]}"


@pytest.fixture
def store(s3_server: S3Server, bucket: str) -> S3Store:
    return opened(s3_server.endpoint, s3_server, bucket)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with a card, a file of several parts, two equal files and an empty one."""
    folder = tmp_path / "source/little"
    (folder / "vae").mkdir(parents=True)
    card = json.loads((DIORAMA / "soundstage.json").read_text()) | {"name": "little"}
    (folder / "soundstage.json").write_text(json.dumps(card))
    (folder / "vae/large.safetensors").write_bytes(os.urandom(1 << 20) * (LARGE >> 20))
    for name in ("one.txt", "other.txt"):
        (folder / "vae" / name).write_text("equal")
    (folder / "empty.txt").touch()
    return folder


@pytest.fixture
def forwarder(s3_server: S3Server) -> Iterator[Forwarder]:
    with forwarding(s3_server.endpoint) as forwarder:
        yield forwarder


def opened(endpoint: str, server: S3Server, bucket: str) -> S3Store:
    settings = ModelStoreSettings(
        s3_endpoint=endpoint,
        s3_secure=False,
        s3_access_key=SecretStr(server.access_key),
        s3_secret_key=SecretStr(server.secret_key),
    )
    return settings.open(bucket)


def fetched(uri: ModelUri, store: S3Store, cache: Path, effort: Effort = EFFORT) -> tuple[Path, int]:
    with fetch(uri, store, Cache(cache), effort) as result:
        return result.folder, result.loaded


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "deploy.models", *map(str, words)]


def environment(server: S3Server) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{ROOT / 'libs/protos'}",
        "SOUNDSTAGE_MODELS_S3_ENDPOINT": server.endpoint,
        "SOUNDSTAGE_MODELS_S3_SECURE": "false",
        "SOUNDSTAGE_MODELS_S3_ACCESS_KEY": server.access_key,
        "SOUNDSTAGE_MODELS_S3_SECRET_KEY": server.secret_key,
    }


def start(server: S3Server, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*words),
        env=environment(server),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(server: S3Server, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        env=environment(server),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_diorama_goes_there_and_comes_back_by_commands(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    first = run(s3_server, "publish", DIORAMA, "--bucket", bucket)
    assert first.returncode == 0, first.stderr
    uri = first.stdout.strip()
    again = run(s3_server, "publish", DIORAMA, "--bucket", bucket)
    assert (again.stdout.strip(), again.stderr.strip()) == (uri, "0 files uploaded, was there already")
    assert run(s3_server, "list", "--bucket", bucket).stdout.startswith(f"{uri}  ")
    assert run(s3_server, "verify", uri).stdout == f"{uri} is whole\n"
    result = run(s3_server, "fetch", uri, "--cache", tmp_path / "cache", "--into", tmp_path / "models")
    assert result.returncode == 0, result.stderr
    card = Catalog.read(tmp_path / "models").get("diorama")
    assert contents(card.path) == contents(DIORAMA)
    again = run(s3_server, "fetch", uri, "--cache", tmp_path / "cache", "--into", tmp_path / "models")
    assert "0 of them loaded" in again.stdout


def test_publishing_again_uploads_nothing_and_a_change_is_another_revision(
    store: S3Store, bucket: str, folder: Path
) -> None:
    first = publish(folder, bucket, store, parallel=4)
    again = publish(folder, bucket, store, parallel=4)
    assert (first.uploaded, first.is_new) == (5, True)
    assert (again.uri, again.uploaded, again.is_new) == (first.uri, 0, False)
    (folder / "empty.txt").write_text("not empty")
    assert publish(folder, bucket, store, parallel=4).uri != first.uri
    assert len(revisions(bucket, store)) == 2


def test_a_killed_upload_is_not_there_and_is_gone_on_with(
    s3_server: S3Server, store: S3Store, bucket: str, folder: Path
) -> None:
    for number in range(40):
        (folder / f"{number}.txt").write_text(str(number))
    store.put("other", b"", "text/plain")  # makes the bucket
    process = start(s3_server, "publish", folder, "--bucket", bucket, "--parallel", 1)
    try:
        wait_until(lambda: len(list(store.walk("models"))) > 3)
    finally:
        process.kill()
    process.communicate()
    there = len(list(store.walk("models")))
    assert 3 < there < 45
    assert revisions(bucket, store) == []
    done = publish(folder, bucket, store, parallel=4)
    assert (done.uploaded, done.is_new) == (45 - there, True)
    assert verify(done.uri, store, parallel=4) == []


def test_of_two_publishers_one_wrote_it(store: S3Store, bucket: str, folder: Path) -> None:
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(publish(folder, bucket, store, parallel=2))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.is_new for one in results) == [False, False, True]
    assert len({one.uri for one in results}) == 1


@pytest.mark.parametrize("name", ["vae/model.bin", "model.pt", "pickle.PKL", "a.ckpt"])
def test_pickles_are_refused(store: S3Store, bucket: str, folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="safe_serialization=True"):
        publish(folder, bucket, store, parallel=4)


def test_links_that_lead_out_are_refused(store: S3Store, bucket: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "inside").symlink_to("empty.txt")
    assert publish(folder, bucket, store, parallel=4).uploaded == 6
    for target in (tmp_path / "secret", tmp_path / "nothing", folder / "vae"):
        (folder / "out").symlink_to(target)
        with pytest.raises(ValueError, match="cp -rL"):
            publish(folder, bucket, store, parallel=4)
        (folder / "out").unlink()


def test_hidden_files_stay_at_home_and_names_must_be_plain(store: S3Store, bucket: str, folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git/config.bin").write_text("secret")
    assert publish(folder, bucket, store, parallel=4).uploaded == 5
    (folder / "a name").touch()
    with pytest.raises(ValueError, match="rename it"):
        publish(folder, bucket, store, parallel=4)


def test_a_manifest_cannot_lead_out_of_the_cache() -> None:
    for paths in (["../a"], ["/a"], ["a//b"], ["a", "a/b"], ["b", "a"], ["a", "a"], ["a.bin"]):
        with pytest.raises(ValueError, match="Value error"):
            Manifest(name="m", files=tuple(Entry(path=path, size_bytes=0, sha256="0" * 64) for path in paths))


def test_what_is_damaged_lacking_or_strange_in_the_cache_is_mended(
    store: S3Store, bucket: str, folder: Path, tmp_path: Path
) -> None:
    uri = publish(folder, bucket, store, parallel=4).uri
    where, loaded = fetched(uri, store, tmp_path / "cache")
    assert (contents(where), loaded) == (contents(folder), 5)
    with (where / "vae/large.safetensors").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    (where / "vae/one.txt").unlink()
    (where / "vae/other.txt").unlink()
    (where / "vae/other.txt").symlink_to(folder / "vae/other.txt")
    (where / "strange.txt").touch()
    assert fetched(uri, store, tmp_path / "cache") == (where, 3)
    assert contents(where) == contents(folder)
    assert not (where / "vae/other.txt").is_symlink()
    assert not (where.parent / "parts").exists()


def test_damaged_objects_are_never_taken_and_can_be_mended(
    store: S3Store, bucket: str, folder: Path, tmp_path: Path
) -> None:
    uri = publish(folder, bucket, store, parallel=4).uri
    for path, damage in (("vae/one.txt", b"EQUAL"), ("vae/other.txt", b"eq")):
        # A cache of its own: when one file fails, the next may have been loaded already.
        cache = tmp_path / damage.decode()
        store.put(uri.key(path), damage, "text/plain")
        with pytest.raises(FailedPrecondition, match=rf"{path} .* is damaged in the store: publish .* --mend"):
            fetched(uri, store, cache, Effort(parallel=1, deadline_seconds=60))
        assert not (cache / uri.revision / "little" / path).exists()
        store.put(uri.key(path), b"equal", "text/plain")
    store.put(uri.key("vae/one.txt"), b"EQUAL", "text/plain")
    store.delete([uri.key("empty.txt")])
    assert verify(uri, store, parallel=4) == ["empty.txt is missing", "vae/one.txt is damaged"]
    with pytest.raises(FailedPrecondition, match=r"empty.txt .* is not in the store"):
        fetched(uri, store, tmp_path / "other", Effort(parallel=1, deadline_seconds=60))
    assert publish(folder, bucket, store, parallel=4, mend=True).uploaded == 5
    assert contents(fetched(uri, store, tmp_path / "cache")[0]) == contents(folder)


def test_another_manifest_under_the_revision_is_refused(
    store: S3Store, bucket: str, folder: Path, tmp_path: Path
) -> None:
    uri = publish(folder, bucket, store, parallel=4).uri
    manifest = read_manifest(store, uri)
    fewer = Manifest(name="little", files=manifest.files[:2])
    store.put(uri.manifest_key, fewer.to_bytes(), "application/json")
    with pytest.raises(FailedPrecondition, match="not what was published"):
        fetched(uri, store, tmp_path / "cache")


def test_a_model_that_is_not_there_is_said_at_once(store: S3Store, bucket: str, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="not in the store"):
        fetched(ModelUri(bucket, "little", "0" * 64), store, tmp_path / "cache")


def test_a_killed_fetch_is_gone_on_with_in_the_middle_of_a_file(
    s3_server: S3Server, store: S3Store, bucket: str, folder: Path, tmp_path: Path
) -> None:
    uri = publish(folder, bucket, store, parallel=4).uri
    cache = tmp_path / "cache"
    process = start(s3_server, "fetch", uri, "--cache", cache, "--into", tmp_path / "models", "--parallel", 1)
    parts = cache / uri.revision / "parts"
    try:
        wait_until(lambda: any(path.stat().st_size > 1 << 20 for path in parts.glob("*")))
    finally:
        process.kill()
    process.communicate()
    (part,) = parts.glob("*")
    begun = part.stat().st_size
    assert 0 < begun < LARGE
    assert not (tmp_path / "models/little").exists()
    offsets = []
    whole = store.stream

    def watched(ref: object, offset: int = 0) -> Iterator[bytes]:
        offsets.append(offset)
        return whole(ref, offset)  # type: ignore[arg-type]

    store.stream = watched  # type: ignore[method-assign]
    assert contents(fetched(uri, store, cache)[0]) == contents(folder)
    assert begun in offsets


def test_a_wrong_beginning_is_thrown_away(store: S3Store, bucket: str, folder: Path, tmp_path: Path) -> None:
    uri = publish(folder, bucket, store, parallel=4).uri
    where, _ = fetched(uri, store, tmp_path / "cache")
    (where / "vae/large.safetensors").unlink()
    parts = where.parent / "parts"
    parts.mkdir()
    entry = next(one for one in read_manifest(store, uri).files if one.size_bytes == LARGE)
    name = hashlib.sha256(f"{entry.sha256} {entry.path}".encode()).hexdigest()
    (parts / name).write_bytes(b"wrong" * 1000)
    assert contents(fetched(uri, store, tmp_path / "cache")[0]) == contents(folder)


def test_two_fetchers_load_each_file_once(
    s3_server: S3Server, store: S3Store, bucket: str, folder: Path, tmp_path: Path
) -> None:
    uri = publish(folder, bucket, store, parallel=4).uri
    words = ("fetch", uri, "--cache", tmp_path / "cache", "--into")
    processes = [start(s3_server, *words, tmp_path / f"models-{number}") for number in range(2)]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(line.partition("right, ")[2].split()[0] for line in said) == ["0", "5"]
    for number in range(2):
        assert contents(Catalog.read(tmp_path / f"models-{number}").get("little").path) == contents(folder)


def test_cut_connections_are_outlived(
    s3_server: S3Server, forwarder: Forwarder, store: S3Store, bucket: str, folder: Path, tmp_path: Path
) -> None:
    uri = publish(folder, bucket, store, parallel=4).uri
    shaky = opened(f"127.0.0.1:{forwarder.port}", s3_server, bucket)
    stop = threading.Event()

    def cut() -> None:
        for _ in range(8):
            if stop.wait(0.05):
                return
            forwarder.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        assert contents(fetched(uri, shaky, tmp_path / "cache")[0]) == contents(folder)
    finally:
        stop.set()
        thread.join()


def test_a_store_that_is_away_ends_at_the_deadline(
    s3_server: S3Server, forwarder: Forwarder, bucket: str, tmp_path: Path
) -> None:
    forwarder.broken = b""
    away = opened(f"127.0.0.1:{forwarder.port}", s3_server, bucket)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        fetched(ModelUri(bucket, "little", "0" * 64), away, tmp_path / "cache", Effort(deadline_seconds=2))
    assert time.monotonic() - began < 12


def test_a_fetch_waits_for_another_one_until_its_deadline(
    store: S3Store, bucket: str, folder: Path, tmp_path: Path
) -> None:
    uri = publish(folder, bucket, store, parallel=4).uri
    with (
        Cache(tmp_path / "cache").loading(uri, Deadline(1)),
        pytest.raises(Unavailable, match="another process"),
    ):
        fetched(uri, store, tmp_path / "cache", Effort(deadline_seconds=1))


def test_what_is_used_is_not_evicted_and_the_rest_goes_oldest_first(
    s3_server: S3Server, store: S3Store, bucket: str, folder: Path, tmp_path: Path
) -> None:
    """The oldest is held by a process, as by a pod's; when that is killed, it goes too."""
    cache = tmp_path / "cache"
    uris = []
    for number in range(4):
        (folder / "empty.txt").write_text(str(number))
        uris.append(publish(folder, bucket, store, parallel=4).uri)
    models = tmp_path / "models"
    holder = start(s3_server, "fetch", uris[0], "--cache", cache, "--into", models, "--hold")
    try:
        wait_until((models / ".ready").exists)
        for uri in uris[1:3]:
            fetched(uri, store, cache)
        for number, uri in enumerate(uris[:3]):
            os.utime(cache / uri.revision / "used", (number, number))
        most = Cache(cache, most_bytes=LARGE * 7 // 2)
        with fetch(uris[3], store, most, EFFORT):
            there = [(cache / uri.revision).exists() for uri in uris]
        assert there == [True, False, True, True]
        assert contents(models / "little") != {}
        holder.send_signal(signal.SIGTERM)
        assert holder.wait(20) == 128 + signal.SIGTERM
        shutil.rmtree(cache / uris[3].revision)
        with fetch(uris[3], store, Cache(cache, most_bytes=LARGE * 5 // 2), EFFORT):
            there = [(cache / uri.revision).exists() for uri in uris]
        assert there == [False, False, True, True]
    finally:
        holder.kill()
        holder.communicate()


def test_a_full_disk_is_said_before_anything_is_loaded(
    store: S3Store, bucket: str, folder: Path, tmp_path: Path
) -> None:
    uri = publish(folder, bucket, store, parallel=4).uri
    cache = Cache(tmp_path / "cache")
    cache.free_bytes = lambda: 1000  # type: ignore[method-assign]
    with pytest.raises(ResourceExhausted, match="1000 are free"), fetch(uri, store, cache, EFFORT):
        pass
    assert not (tmp_path / "cache" / uri.revision / "little").exists()


def test_only_the_card(store: S3Store, bucket: str, folder: Path, tmp_path: Path) -> None:
    """What the gateway fetches; a service on the same node loads the rest."""
    uri = publish(folder, bucket, store, parallel=4).uri
    with fetch(uri, store, Cache(tmp_path / "cache"), EFFORT, only=("soundstage.json",)) as result:
        link(result.folder, tmp_path / "models")
    assert list(contents(result.folder)) == ["soundstage.json"]
    assert Catalog.read(tmp_path / "models").names() == ("little",)
    assert fetched(uri, store, tmp_path / "cache")[1] == 4


def test_a_link_moves_to_a_new_revision_and_never_over_a_folder(tmp_path: Path) -> None:
    for revision in ("a", "b"):
        (tmp_path / revision / "little").mkdir(parents=True)
        assert link(tmp_path / revision / "little", tmp_path / "models").resolve().parent.name == revision
    (tmp_path / "other/little").mkdir(parents=True)
    with pytest.raises(ValueError, match="no link"):
        link(tmp_path / "a/little", tmp_path / "other")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fetch", "s3://bucket/little", "--cache", "c", "--into", "i"), "as publish and list print it"),
        (("publish", "nowhere", "--bucket", "bucket"), "nowhere"),
        (("verify", f"s3://bucket/models/a/{'0' * 64}", "--parallel", "99"), "1 to 16"),
        (("prune", "--bucket", "bucket", "--values", "nowhere.yaml"), "--values: file nowhere.yaml does not exist"),
    ],
)
def test_wrong_commands_say_what_to_do(s3_server: S3Server, words: tuple[str, ...], said: str) -> None:
    result = run(s3_server, *words)
    assert result.returncode in (1, 2)
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_command_within_a_process_leaves_its_signals_alone(tmp_path: Path) -> None:
    """As `soundstage models` runs it."""
    before = signal.getsignal(signal.SIGTERM)
    assert main(["publish", str(tmp_path), "--bucket", "b", "--build-engines"]) == 2
    assert signal.getsignal(signal.SIGTERM) is before
