"""Uploads a model folder. Files first, the manifest last: until it is there, no such model exists.

Who publishes looks once more in the end, since `prune` may have deleted meanwhile what was there at first.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deploy.models.manifest import MANIFEST_TYPE, Entry, Manifest, ModelUri, read_manifest, refused
from libs.artifacts import S3Store
from libs.catalog import read_card
from libs.errors import FailedPrecondition, Unavailable

__all__ = ["Published", "Revision", "entries_of", "manifest_of", "publish", "revisions", "upload", "verify"]

_CARD = "soundstage.json"


@dataclass(frozen=True)
class Published:
    uri: ModelUri
    uploaded: int
    """Files. The others were there from an upload before."""
    is_new: bool


@dataclass(frozen=True)
class Revision:
    uri: ModelUri
    size_bytes: int
    published: str
    """UTC."""


def manifest_of(folder: Path, parallel: int) -> Manifest:
    """Raises ValueError that says what to do about every file that cannot be published."""
    name = read_card(folder / _CARD).name
    if _is_uuid(name):
        raise ValueError(f"{name}: a model named by a UUID looks like a video to the collector of the artifact store")
    return Manifest(name=name, files=entries_of(folder, parallel))


def entries_of(folder: Path, parallel: int) -> tuple[Entry, ...]:
    """Every file of ``folder``, by path. Raises ValueError as `manifest_of`."""
    files, problems = [], []
    for path in _files(folder.resolve()):
        why = _leads_out(path, folder) or refused(path.relative_to(folder.resolve()).as_posix())
        problems += [why] if why else []
        files.append(path)
    if problems:
        raise ValueError("\n".join(problems))
    with ThreadPoolExecutor(parallel) as pool:
        entries = list(pool.map(lambda path: _entry(path, folder.resolve()), files))
    return tuple(sorted(entries, key=lambda entry: entry.path))


def publish(folder: Path, bucket: str, store: S3Store, *, parallel: int, mend: bool = False) -> Published:
    """With ``mend`` every file is uploaded, also those that are there with their size."""
    manifest = manifest_of(folder, parallel)
    return upload(
        folder, manifest, ModelUri(bucket, manifest.name, manifest.revision), store, parallel=parallel, mend=mend
    )


def upload(
    folder: Path, manifest: Manifest, uri: ModelUri, store: S3Store, *, parallel: int, mend: bool = False
) -> Published:
    """``folder``, of which ``manifest`` is, as ``uri``. Raises Unavailable MODEL_PRUNED: then again will do."""
    lacking = _lacking(store, uri, manifest)
    wanted = manifest.files if mend else lacking
    with ThreadPoolExecutor(parallel) as pool:
        uploads = [pool.submit(_upload, store, uri, entry, folder) for entry in wanted]
        try:
            for upload in uploads:
                upload.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    # Whoever was first wrote the same bytes: the revision is their hash.
    is_new = store.put_new(uri.manifest_key, manifest.to_bytes(), MANIFEST_TYPE)
    if not is_new:
        read_manifest(store, uri)
        # Its time is that of the last publishing: `prune` takes the newest for wanted, and lets be what has changed.
        store.put(uri.manifest_key, manifest.to_bytes(), MANIFEST_TYPE)
    if _is_being_pruned(store, uri) or _lacking(store, uri, manifest):
        raise Unavailable(
            f"{uri} was being deleted meanwhile: publish it again; and if nobody prunes, first run `prune --yes` "
            "again, which was interrupted",
            reason="MODEL_PRUNED",
        )
    return Published(uri, len(wanted), is_new)


def revisions(bucket: str, store: S3Store) -> list[Revision]:
    """Those that are whole, by name, the newest first."""
    sizes: dict[str, int] = {}
    whole: dict[str, str] = {}
    pruned = set[str]()
    for stored in store.walk("models"):
        prefix = "/".join(stored.key.split("/")[:3])
        sizes[prefix] = sizes.get(prefix, 0) + stored.size_bytes
        if stored.key == f"{prefix}/manifest.json":
            whole[prefix] = stored.modified.isoformat(timespec="seconds")
        if stored.key == f"{prefix}/pruned":
            pruned.add(prefix)
    found = [
        Revision(ModelUri.parse(f"s3://{bucket}/{one}"), sizes[one], when)
        for one, when in whole.items()
        if one not in pruned
    ]
    return sorted(sorted(found, key=lambda one: one.published, reverse=True), key=lambda one: one.uri.name)


def verify(uri: ModelUri, store: S3Store, *, parallel: int) -> list[str]:
    """Reads every object; what is wrong with which."""
    manifest = read_manifest(store, uri)
    with ThreadPoolExecutor(parallel) as pool:
        found = pool.map(lambda entry: _problem(store, uri, entry), manifest.files)
        return [problem for problem in found if problem]


def _lacking(store: S3Store, uri: ModelUri, manifest: Manifest) -> tuple[Entry, ...]:
    there = {stored.key: stored.size_bytes for stored in store.walk(uri.prefix)}
    return tuple(entry for entry in manifest.files if there.get(uri.key(entry.path)) != entry.size_bytes)


def _is_being_pruned(store: S3Store, uri: ModelUri) -> bool:
    return any(stored.key == uri.pruned_key for stored in store.walk(uri.prefix))


def _problem(store: S3Store, uri: ModelUri, entry: Entry) -> str:
    digest, size_bytes = hashlib.sha256(), 0
    try:
        for chunk in store.stream(uri.ref(entry)):
            digest.update(chunk)
            size_bytes += len(chunk)
    except FailedPrecondition as error:
        if error.reason != "ARTIFACT_MISSING":
            raise
        return f"{entry.path} is missing"
    same = (size_bytes, digest.hexdigest()) == (entry.size_bytes, entry.sha256)
    return "" if same else f"{entry.path} is damaged"


def _files(folder: Path) -> Iterator[Path]:
    """Without hidden ones: what is in .git or .cache is no part of a model."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def _leads_out(path: Path, folder: Path) -> str:
    """A link could publish what is no part of the model. One to a file of the model is published as that file."""
    if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(folder.resolve())):
        return f"{path}: a link to a folder, to nothing, or out of the model: copy what it means with `cp -rL`"
    return "" if path.is_file() else f"{path}: no file: delete it"


def _entry(path: Path, folder: Path) -> Entry:
    with path.open("rb") as file:
        sha256, size_bytes = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    return Entry(path=path.relative_to(folder).as_posix(), size_bytes=size_bytes, sha256=sha256)


def _upload(store: S3Store, uri: ModelUri, entry: Entry, folder: Path) -> None:
    ref = store.put_file(uri.key(entry.path), folder / entry.path, "application/octet-stream")
    if (ref.size_bytes, ref.sha256) != (entry.size_bytes, entry.sha256):
        store.delete([uri.key(entry.path)])  # a later publish would take it for the file, if it is as long
        raise ValueError(f"{folder / entry.path} changed meanwhile: publish again when nobody writes to it")


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
