"""What the engine-building Job of a GPU pool does, and what its Triton pods do before they start."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deploy.models.cache import Cache, Deadline
from deploy.models.engines import EngineKey, EngineRecord, engines_of, find_engines, publish_engines
from deploy.models.fetch import Effort, fetch, link
from deploy.models.manifest import ModelUri
from deploy.models.patience import patiently
from deploy.triton.build_tensorrt import check_repository, remove_exports
from deploy.triton.engine import EngineError, Machine
from libs.artifacts import S3Store
from libs.errors import Unavailable

__all__ = ["BUILDER", "Build", "EngineJob", "missing_engines"]

BUILDER = 1
"""To be raised when what the builder writes changes: engines in the store then count as those of another builder."""
POLL_SECONDS = 5.0
Builder = Callable[..., object]
"""`build_tensorrt`, or what stands in for it: (model folder, repository, dtype=, instances=)."""


@dataclass(frozen=True)
class Build:
    dtype: str = "bfloat16"
    instances: int = 1

    @property
    def variant(self) -> str:
        return f"{self.dtype}-x{self.instances}-b{BUILDER}"


@dataclass(frozen=True)
class EngineJob:
    """For the machine ``here``. Waits for the store end at ``deadline``; nothing interrupts a build."""

    store: S3Store
    here: Machine
    build: Build
    deadline: Deadline

    def key(self, model: ModelUri) -> EngineKey:
        return EngineKey(model, self.here.gpu, self.here.tensorrt, self.build.variant)

    def run(self, model: ModelUri, builder: Builder, work: Path) -> tuple[EngineRecord, str]:
        """Builds and publishes what is not in the store yet; the second says what was done. Raises EngineError."""
        if there := patiently(lambda: find_engines(self.store, self.key(model)), self.deadline):
            return there, "were there already"
        repository = work / "repository" / model.name
        began = time.monotonic()
        with fetch(model, self.store, Cache(work / "models"), Effort(deadline_seconds=self.deadline.left())) as fetched:
            builder(fetched.folder, repository, dtype=self.build.dtype, instances=self.build.instances)
        _check(repository, self.here)
        remove_exports(repository)
        record = self._record(model, time.monotonic() - began)
        counts, is_ours = patiently(lambda: publish_engines(repository, record, self.store), self.deadline)
        return counts, "built and published" if is_ours else "built, but another Job was first: its engines count"

    def fetch(self, model: ModelUri, cache: Path, into: Path) -> list[Path]:
        """Links to the networks' folders in ``into``, for Triton. Waits for engines that are still being built."""
        record = self._awaited(model)
        with fetch(record.files, self.store, Cache(cache), Effort(deadline_seconds=self.deadline.left())) as fetched:
            _check(fetched.folder, self.here)
            return [link(folder, into) for folder in sorted(fetched.folder.iterdir())]

    def _awaited(self, model: ModelUri) -> EngineRecord:
        while True:
            if there := patiently(lambda: find_engines(self.store, self.key(model)), self.deadline):
                return there
            if self.deadline.left() <= POLL_SECONDS:
                raise Unavailable(missing_engines(self.store, self.key(model)), reason="ENGINES_MISSING")
            time.sleep(POLL_SECONDS)

    def _record(self, model: ModelUri, seconds: float) -> EngineRecord:
        return EngineRecord(
            model=str(model),
            gpu=self.here.gpu,
            compute_capability=self.here.compute_capability,
            tensorrt=self.here.tensorrt,
            variant=self.build.variant,
            revision="0" * 64,
            built=datetime.now(UTC),
            build_seconds=seconds,
        )


def missing_engines(store: S3Store, key: EngineKey) -> str:
    there = "; ".join(map(str, engines_of(store, key.model))) or "none at all"
    return (
        f"the store has no engines of {key.model} for {key.gpu} with TensorRT {key.tensorrt} ({key.variant}). It has: "
        f"{there}. The Job of this pool builds them, see its log; `soundstage models publish --build-engines` starts "
        "another one"
    )


def _check(repository: Path, here: Machine) -> None:
    if not list(repository.glob("*/1/manifest.json")):
        raise EngineError(f"no engine is in {repository}: the model's family has no network for Triton")
    check_repository(repository, here)
