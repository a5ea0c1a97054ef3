"""What a published model is: its files with size and SHA-256. The hash over this list is the revision.

So a URI says which bytes are meant, whoever may write to the bucket: nothing else has that hash.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from libs.artifacts import Ref, S3Store, checked_key
from libs.errors import FailedPrecondition

__all__ = ["MANIFEST_TYPE", "Entry", "Manifest", "ModelUri", "read_manifest", "refused"]

MANIFEST_TYPE = "application/json"
_MOST_MANIFEST_BYTES = 16 << 20
_NAME, _REVISION = r"[a-z0-9][a-z0-9._-]{0,62}", r"[0-9a-f]{64}"
_URI = re.compile(rf"s3://(?P<bucket>[a-z0-9][a-z0-9.-]+)/models/(?P<name>{_NAME})/(?P<revision>{_REVISION})")
_PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")


@dataclass(frozen=True)
class ModelUri:
    """`s3://bucket/models/name/revision`."""

    bucket: str
    name: str
    revision: str
    root: str = "models"
    """Where it lies in the bucket. Models are under "models"; what is made of them (engines) has other roots."""

    @classmethod
    def parse(cls, text: str) -> Self:
        match = _URI.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} must be s3://bucket/models/name/revision, as publish and list print it")
        return cls(**match.groupdict())

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def prefix(self) -> str:
        return f"{self.root}/{self.name}/{self.revision}"

    @property
    def manifest_key(self) -> str:
        return f"{self.prefix}/manifest.json"

    @property
    def pruned_key(self) -> str:
        """There while `prune` deletes the rest."""
        return f"{self.prefix}/pruned"

    def key(self, path: str) -> str:
        """Of the model's file ``path``: in a folder, so that none can take the manifest's place."""
        return f"{self.prefix}/files/{path}"

    def ref(self, entry: Entry) -> Ref:
        uri = f"s3://{self.bucket}/{self.key(entry.path)}"
        return Ref(uri, "application/octet-stream", entry.size_bytes, entry.sha256)


def refused(path: str) -> str:
    """Why a file of this path is not published, with what to do; empty for one that may be."""
    if path.lower().endswith(_PICKLES):
        return (
            f"{path}: a pickle can run code when it is loaded: save the model with `safe_serialization=True`, which "
            "writes .safetensors, and delete this file"
        )
    try:
        checked_key(path)
    except ValueError:
        return f"{path}: rename it to letters, digits and . _ - with no . at the beginning"
    return ""


def _allowed(path: str) -> str:
    if why := refused(path):
        raise ValueError(why)
    return path


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, AfterValidator(_allowed)]
    """Below the model's folder, with `/`."""
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str = Field(pattern=f"^{_NAME}$")
    files: tuple[Entry, ...] = Field(min_length=1)
    """By path."""

    @model_validator(mode="after")
    def _makes_a_folder(self) -> Self:
        paths = [entry.path for entry in self.files]
        folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
        if paths != sorted(set(paths)) or folders & set(paths):
            raise ValueError("paths must be sorted, each once, and none the folder of another")
        return self

    def to_bytes(self) -> bytes:
        """Equal for equal models."""
        return json.dumps(self.model_dump(), sort_keys=True, indent=1).encode()

    @property
    def revision(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()


def read_manifest(store: S3Store, uri: ModelUri) -> Manifest:
    """Raises FailedPrecondition MODEL_MISSING or MODEL_ALTERED, or Unavailable."""
    ref = Ref(f"s3://{uri.bucket}/{uri.manifest_key}", MANIFEST_TYPE, _MOST_MANIFEST_BYTES, uri.revision)
    try:
        data = b"".join(store.stream(ref))
    except FailedPrecondition as error:
        if error.reason != "ARTIFACT_MISSING":
            raise
        raise FailedPrecondition(
            f"{uri} is not in the store, or its upload did not end; see `list`; `publish` goes on with it",
            reason="MODEL_MISSING",
            uri=str(uri),
        ) from error
    if hashlib.sha256(data).hexdigest() != uri.revision:
        raise FailedPrecondition(
            f"the manifest of {uri} is not what was published: delete the object {uri.manifest_key} and publish again",
            reason="MODEL_ALTERED",
            uri=str(uri),
        )
    manifest = Manifest.model_validate_json(data)
    if manifest.name != uri.name:
        raise ValueError(f"the manifest of {uri} is of {manifest.name!r}")
    return manifest
