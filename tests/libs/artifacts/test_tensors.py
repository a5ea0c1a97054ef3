from __future__ import annotations

import numpy as np
import pytest
from soundstage.artifact.v1 import artifact_pb2

from libs.artifacts import (
    AttemptPrefix,
    MemoryStore,
    get_tensors,
    prefix_from_proto,
    put_tensors,
    ref_from_proto,
    ref_to_proto,
)
from libs.errors import FailedPrecondition


def test_arrays_come_back_as_they_went() -> None:
    store = MemoryStore()
    arrays = {
        "latents": np.random.default_rng(0).standard_normal((1, 4, 3, 2), dtype=np.float32),
        "mask": np.array([[True, False]]),
        "turned": np.arange(6, dtype=np.int64).reshape(2, 3).T,
        "half": np.ones(3, np.float16),
    }
    back = get_tensors(store, put_tensors(store, "a/b", arrays))
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_order_of_names_does_not_change_the_bytes() -> None:
    store, a, b = MemoryStore(), np.zeros(2, np.float32), np.ones(2, np.float32)
    assert put_tensors(store, "x", {"a": a, "b": b}) == put_tensors(store, "x", {"b": b, "a": a})


@pytest.mark.parametrize("data", [b"", b"no tensors", b"\xff" * 64])
def test_other_bytes_are_refused(data: bytes) -> None:
    store = MemoryStore()
    with pytest.raises(FailedPrecondition) as caught:
        get_tensors(store, store.put("a/b", data, "text/plain"))
    assert caught.value.reason == "ARTIFACT_ALTERED"


def test_references_survive_protobuf() -> None:
    ref = MemoryStore().put("a/b", b"x", "text/plain")
    assert ref_from_proto(ref_to_proto(ref)) == ref


def test_prefix_of_an_attempt() -> None:
    prefix = prefix_from_proto(artifact_pb2.Attempt(tenant="acme", video_id="-v", attempt="t1"), "encoder")
    assert prefix == AttemptPrefix("acme", "-v", "encoder", "t1")
    assert prefix.key("a.safetensors") == "acme/-v/encoder/t1/a.safetensors"
    with pytest.raises(ValueError, match="artifact key"):
        prefix.key("../t2/a")
