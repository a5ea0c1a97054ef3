"""Deletes revisions that are no longer wanted, with their engines, and what uploads left that were killed.

It goes on beside whoever publishes: it marks a revision, looks whether anything was written to it since it was chosen,
and deletes the manifest first. Who publishes looks for the mark in the end. See docs/decisions/0033.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from deploy.models.engines import engines_of
from deploy.models.manifest import ModelUri
from libs.artifacts import S3Store, Stored
from libs.errors import FailedPrecondition

__all__ = ["Doomed", "Wish", "doomed", "prune"]


@dataclass(frozen=True)
class Wish:
    keep: int = 3
    """The newest revisions of each model that stay."""
    in_use: Collection[ModelUri] = ()
    """These stay, too."""
    min_age: timedelta = timedelta(hours=24)
    """What was written to within it is let be: it may be on its way. Longer than an upload takes."""


@dataclass
class _Folder:
    """What `upload` writes: of a model, or a build of engines."""

    uri: ModelUri
    objects: list[Stored] = field(default_factory=list)

    @property
    def is_marked(self) -> bool:
        """An earlier prune was interrupted."""
        return any(one.key == self.uri.pruned_key for one in self.objects)

    @property
    def is_whole(self) -> bool:
        return self.published is not None and not self.is_marked

    @property
    def published(self) -> datetime | None:
        return next((one.modified for one in self.objects if one.key == self.uri.manifest_key), None)

    @property
    def newest(self) -> datetime | None:
        """When it was written to last. The mark is not of it."""
        return max((one.modified for one in self.objects if one.key != self.uri.pruned_key), default=None)


@dataclass
class _Revision:
    """A model, which may be gone, and all engines that were built from it."""

    model: _Folder
    builds: dict[str, _Folder] = field(default_factory=dict)
    records: list[Stored] = field(default_factory=list)

    def objects(self) -> list[Stored]:
        return [*self.model.objects, *(one for build in self.builds.values() for one in build.objects), *self.records]


@dataclass(frozen=True)
class Doomed:
    uri: ModelUri
    why: str
    size_bytes: int
    folders: tuple[_Folder, ...]
    """The model's before those of its engines."""
    records: tuple[str, ...] = ()
    """Keys, which name builds as long as they are there."""


def doomed(bucket: str, store: S3Store, wish: Wish) -> list[Doomed]:
    """What `prune` would delete. Raises FailedPrecondition MODEL_MISSING for a model in use that is not whole."""
    revisions = _revisions(bucket, store)
    kept = _kept(revisions, wish)
    found = []
    for key, revision in sorted(revisions.items()):
        if key in kept:
            found += _leftovers(revision, store, wish)
        elif revision.model.is_marked or _is_old(revision.objects(), wish):
            found.append(_all_of(revision, wish))
    return found


def prune(one: Doomed, store: S3Store) -> bool:
    """Whether it was deleted. If anything was written to it since it was chosen, it is let be."""
    model, *builds = one.folders
    if not _delete(model, store):
        return False
    store.delete(one.records)
    for build in builds:
        _delete(build, store)
    return True


def _revisions(bucket: str, store: S3Store) -> dict[tuple[str, str], _Revision]:
    """By name and revision. Objects that neither `publish` nor a Job of engines wrote are none of our business."""
    found: dict[tuple[str, str], _Revision] = {}
    for stored in (*store.walk("models"), *store.walk("engines")):
        root, *parts = stored.key.split("/")
        if len(parts) < 3 or (uri := _uri(bucket, parts[0], parts[1])) is None:
            continue
        revision = found.setdefault((uri.name, uri.revision), _Revision(_Folder(uri)))
        if root == "models":
            revision.model.objects.append(stored)
        elif parts[5:] == ["engines.json"]:
            revision.records.append(stored)
        elif len(parts) > 7:
            build = ModelUri(bucket, parts[5], parts[6], "/".join((root, *parts[:5])))
            revision.builds.setdefault(build.prefix, _Folder(build)).objects.append(stored)
    return found


def _uri(bucket: str, name: str, revision: str) -> ModelUri | None:
    try:
        return ModelUri.parse(f"s3://{bucket}/models/{name}/{revision}")
    except ValueError:
        return None


def _kept(revisions: dict[tuple[str, str], _Revision], wish: Wish) -> set[tuple[str, str]]:
    whole = defaultdict[str, list[tuple[datetime, str]]](list)
    for (name, revision), one in revisions.items():
        if one.model.is_whole and one.model.published is not None:
            whole[name].append((one.model.published, revision))
    for uri in wish.in_use:
        if uri.revision not in {revision for _, revision in whole[uri.name]}:
            raise FailedPrecondition(
                f"{uri} is said to be in use, and is not whole in the store; see `list`. Nothing was deleted",
                reason="MODEL_MISSING",
                uri=str(uri),
            )
    newest = {(name, revision) for name, all_of in whole.items() for _, revision in sorted(all_of)[-wish.keep :]}
    return newest | {(uri.name, uri.revision) for uri in wish.in_use}


def _all_of(revision: _Revision, wish: Wish) -> Doomed:
    model = revision.model
    if model.is_marked:
        why = "a prune of it was interrupted"
    elif model.published is not None:
        why = f"not among the newest {wish.keep}, published {model.published.isoformat(timespec='seconds')}"
    else:
        why = "its upload did not end" if model.objects else "engines of a model that is not there"
    folders = (model, *revision.builds.values())
    return Doomed(model.uri, why, _size(revision.objects()), folders, tuple(one.key for one in revision.records))


def _leftovers(revision: _Revision, store: S3Store, wish: Wish) -> list[Doomed]:
    """Builds of a model that stays, which no record names."""
    named = {record.files.prefix for record in engines_of(store, revision.model.uri)} if revision.builds else set()
    return [
        Doomed(build.uri, "engines that no record names", _size(build.objects), (build,))
        for prefix, build in revision.builds.items()
        if prefix not in named and (build.is_marked or _is_old(build.objects, wish))
    ]


def _is_old(objects: list[Stored], wish: Wish) -> bool:
    return all(datetime.now(UTC) - one.modified >= wish.min_age for one in objects)


def _size(objects: list[Stored]) -> int:
    return sum(one.size_bytes for one in objects)


def _delete(folder: _Folder, store: S3Store) -> bool:
    """The manifest first, and again at the end: whoever wrote it meanwhile is told to publish once more."""
    uri = folder.uri
    store.put(uri.pruned_key, b"", "text/plain")
    now = _Folder(uri, list(store.walk(uri.prefix)))
    if now.newest != folder.newest:
        store.delete([uri.pruned_key])
        return False
    store.delete([uri.manifest_key])
    store.delete(one.key for one in now.objects if one.key not in (uri.manifest_key, uri.pruned_key))
    store.delete([uri.manifest_key])
    store.delete([uri.pruned_key])
    return True
