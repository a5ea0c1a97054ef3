"""Named arrays as one safetensors artifact. No pickle: reading one can execute nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from libs.artifacts.ref import Ref
from libs.artifacts.store import Store
from libs.errors import FailedPrecondition

__all__ = ["TENSORS_MEDIA_TYPE", "get_tensors", "put_tensors", "to_safetensors"]

TENSORS_MEDIA_TYPE = "application/vnd.safetensors"


def put_tensors(store: Store, key: str, tensors: Mapping[str, np.ndarray]) -> Ref:
    """Write ``tensors``; equal arrays give equal bytes, because names are written in sorted order."""
    return store.put(key, to_safetensors(tensors), TENSORS_MEDIA_TYPE)


def to_safetensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """What `put_tensors` writes."""
    return save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})


def get_tensors(store: Store, ref: Ref) -> dict[str, np.ndarray]:
    """The arrays of ``ref``; FailedPrecondition ARTIFACT_ALTERED when its bytes are no safetensors file."""
    data = store.get(ref)
    try:
        return load(data)
    except SafetensorError as error:
        raise FailedPrecondition(
            f"artifact {ref.uri} is not a safetensors file ({error}); pass the reference the previous stage returned",
            reason="ARTIFACT_ALTERED",
            uri=ref.uri,
        ) from error
