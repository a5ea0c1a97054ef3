"""Which client a model gets."""

from __future__ import annotations

import pytest

from libs.triton import TritonOptions, TritonPools


async def test_a_model_has_the_pods_that_hold_it() -> None:
    addresses = {"a": ["one:1", "two:1"], "b": ["one:1", "two:1"], "*": ["three:1"]}
    async with TritonPools(addresses, TritonOptions()) as pools:
        assert pools.of("a") is pools.of("b")
        assert pools.of("c") is pools.of("d") is not pools.of("a")


async def test_a_model_that_no_pod_holds_has_none() -> None:
    async with TritonPools({"a": ["one:1"]}, TritonOptions()) as pools:
        assert pools.of("b") is None


async def test_a_pool_without_pods_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one address"):
        async with TritonPools({"a": []}, TritonOptions()):
            pass
