"""Engines in the model store: a repository for Triton, under a key that says what it was built from and runs on.

    engines/<model>/<revision of the model>/<GPU>/tensorrt-<version>/<variant>/
        engines.json                   the record: which build counts; written last, and once
        <model>/<hash>/…               a build, as `deploy.models.publish` uploads a model

Builds of TensorRT differ from one to the next, so two Jobs upload two hashes, and the record says whose counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deploy.models.manifest import Manifest, ModelUri
from deploy.models.publish import entries_of, upload
from libs.artifacts import Ref, S3Store
from libs.errors import FailedPrecondition

__all__ = ["EngineKey", "EngineRecord", "engines_of", "find_engines", "publish_engines"]

_RECORD, _RECORD_TYPE, _MOST_RECORD_BYTES = "engines.json", "application/json", 64 << 10
_PARALLEL = 4


@dataclass(frozen=True)
class EngineKey:
    """Engines that are right for each other's place have the same key."""

    model: ModelUri
    gpu: str
    """As CUDA names it: "NVIDIA H100 80GB HBM3"."""
    tensorrt: str
    variant: str
    """What else the builder was told, as a part of a key: "bfloat16-x1-b1"."""

    @property
    def root(self) -> str:
        return f"{_above(self.model)}/{_slug(self.gpu)}/tensorrt-{_slug(self.tensorrt)}/{self.variant}"

    def build(self, revision: str) -> ModelUri:
        return ModelUri(self.model.bucket, self.model.name, revision, self.root)


class EngineRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    model: str
    """URI of the model."""
    gpu: str
    compute_capability: str
    tensorrt: str
    variant: str
    revision: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the build."""
    built: datetime
    build_seconds: float = Field(ge=0)

    @property
    def key(self) -> EngineKey:
        return EngineKey(ModelUri.parse(self.model), self.gpu, self.tensorrt, self.variant)

    @property
    def files(self) -> ModelUri:
        return self.key.build(self.revision)

    def __str__(self) -> str:
        return f"{self.gpu}, TensorRT {self.tensorrt}, {self.variant}, built in {self.build_seconds:.0f} s"


def find_engines(store: S3Store, key: EngineKey) -> EngineRecord | None:
    """Raises FailedPrecondition ENGINES_ALTERED for a record that is of something else, or Unavailable."""
    record = _read(store, f"s3://{key.model.bucket}/{key.root}/{_RECORD}")
    if record is not None and record.key != key:
        raise FailedPrecondition(
            f"{key.root}/{_RECORD} is of {record.model} for {record}: delete this object and build again",
            reason="ENGINES_ALTERED",
        )
    return record


def engines_of(store: S3Store, model: ModelUri) -> list[EngineRecord]:
    """All that were built from ``model``, by key."""
    keys = sorted(one.key for one in store.walk(_above(model)) if one.key.endswith(f"/{_RECORD}"))
    return [record for key in keys if (record := _read(store, store.uri_of(key)))]


def publish_engines(folder: Path, record: EngineRecord, store: S3Store) -> tuple[EngineRecord, bool]:
    """The record that counts, and whether it is of ``folder``; of two at once one wins, and the other's files go.

    The revision of ``record`` need not be right yet.
    """
    manifest = Manifest(name=record.key.model.name, files=entries_of(folder, _PARALLEL))
    ours = record.model_copy(update={"revision": manifest.revision})
    upload(folder, manifest, ours.files, store, parallel=_PARALLEL)
    if store.put_new(f"{ours.key.root}/{_RECORD}", ours.model_dump_json(indent=1).encode(), _RECORD_TYPE):
        return ours, True
    # It may still be ours: a request that is sent twice finds what it wrote itself.
    first = find_engines(store, ours.key) or ours
    if first.revision != ours.revision:
        store.delete_prefix(ours.files.prefix)
    return first, first.revision == ours.revision


def _above(model: ModelUri) -> str:
    return f"engines/{model.name}/{model.revision}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")


def _read(store: S3Store, uri: str) -> EngineRecord | None:
    # Its hash is nowhere written; that of what it points to is in it.
    ref = Ref(uri, _RECORD_TYPE, _MOST_RECORD_BYTES, "0" * 64)
    try:
        data = b"".join(store.stream(ref))
    except FailedPrecondition as error:
        if error.reason != "ARTIFACT_MISSING":
            raise
        return None
    try:
        return EngineRecord.model_validate_json(data)
    except ValueError as error:
        raise FailedPrecondition(f"{uri} is no record of engines: delete it", reason="ENGINES_ALTERED") from error
