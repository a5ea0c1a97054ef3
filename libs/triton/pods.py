"""One pod: its client, how its tensors travel, and whether it rests after a failure."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput, KeepAliveOptions
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from libs.errors import FailedPrecondition
from libs.triton.failures import failure_of
from libs.triton.shared import Region, Regions, layout

__all__ = ["Expected", "More", "Pod", "Request", "TritonOptions"]

LOOPBACK = ("127.", "localhost:", "[::1]:")
ROUND_ROBIN = ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')
"""For an address that names several pods."""
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 20_000, 10_000
FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 1.0, 30.0
MOST_MESSAGE_BYTES = (1 << 31) - (1 << 20)
"""Protobuf's limit, names and shapes apart."""
MOST_DOUBLINGS = 10
"""Beyond the longest rest; a power of a pod's failures of a night would be no float any more."""
_log = logging.getLogger(__name__)

Expected = Mapping[str, tuple[tuple[int, ...], "np.dtype[Any]"]]
"""Outputs by name: shape and type."""
More = Callable[[], Mapping[str, NDArray[Any]]]
"""Makes inputs that are only sent when the model asks for them. May take a while, and may raise."""


@dataclass(frozen=True)
class TritonOptions:
    call_seconds: float = 120.0
    """Deadline of one call to one pod, its queue there included."""
    attempts: int = 4
    """Calls made for one inference before the last failure is told."""
    shared_memory: bool = True
    """Through shared memory to pods on this machine (addresses of loopback), where they can map it."""


@dataclass(frozen=True)
class Request:
    model: str
    inputs: Mapping[str, NDArray[Any]]
    outputs: Expected
    priority: int
    seconds: float
    more: More | None = None


class Pod:
    def __init__(self, address: str, options: TritonOptions) -> None:
        self.address = address
        self._client = InferenceServerClient(
            address,
            keepalive_options=KeepAliveOptions(KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS),
            channel_args=None if address.startswith(LOOPBACK) else [ROUND_ROBIN],
        )
        self._regions = Regions(self._client)
        self._shares = options.shared_memory and address.startswith(LOOPBACK)
        self._failures = 0
        self.rests_until = 0.0

    async def infer(self, request: Request) -> dict[str, NDArray[Any]]:
        """Raises InferenceServerException; FailedPrecondition TRITON_TOO_LARGE for what cannot be sent; and what
        ``request.more`` raises."""
        try:
            return await self._infer(request)
        except InferenceServerException as error:
            if request.more is None or not failure_of(error, self.address, request.model).more_wanted:
                raise
        further = await asyncio.to_thread(request.more)
        # Rare, and large: not worth a region, which would stay.
        return await self._through_grpc(replace(request, inputs={**request.inputs, **further}))

    async def _infer(self, request: Request) -> dict[str, NDArray[Any]]:
        region = await self._region(request) if self._shares else None
        if region is None:
            return await self._through_grpc(request)
        try:
            outputs = await self._through_memory(request, region)
        except BaseException:
            self._regions.retire(region)  # an abandoned call may write to it yet
            raise
        self._regions.give_back(region)
        return outputs

    def succeeded(self) -> None:
        self._failures, self.rests_until = 0, 0.0

    def rest(self, now: float) -> None:
        """Longer with each failure in a row, and never as long as another's, so that pods are not all tried at once."""
        longer = FIRST_REST_SECONDS * 2 ** min(self._failures, MOST_DOUBLINGS)
        seconds = min(longer, LONGEST_REST_SECONDS) * random.uniform(0.5, 1.0)
        self._failures += 1
        self.rests_until = now + seconds

    def forget_memory(self) -> None:
        """The pod started anew."""
        self._regions.retire_all()

    async def close(self) -> None:
        await self._regions.close()
        await self._client.close()

    async def _region(self, request: Request) -> Region | None:
        """None, from then on, for a pod that turns out not to share this machine's memory."""
        _, size = layout(_sizes(request))
        try:
            return await self._regions.take(size)
        except InferenceServerException as error:
            if str(error.status()) in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"):
                raise
            _log.info("Triton at %s cannot map this machine's shared memory: tensors go through gRPC", self.address)
            self._shares = False
            return None

    async def _through_grpc(self, request: Request) -> dict[str, NDArray[Any]]:
        self._expect_room(request)
        inputs = [_input(name, array) for name, array in request.inputs.items()]
        for given, array in zip(inputs, request.inputs.values(), strict=True):
            given.set_data_from_numpy(array)
        result = await self._call(request, inputs, [InferRequestedOutput(name) for name in request.outputs])
        # A copy, as through memory: what lies in the message cannot be written to.
        return {name: np.array(result.as_numpy(name)) for name in request.outputs}

    def _expect_room(self, request: Request) -> None:
        """Beyond the limit the server works for minutes, and then cannot answer."""
        sizes = _sizes(request)
        largest = max(sum(size for name, size in sizes.items() if name.startswith(way)) for way in ("in ", "out "))
        if largest > MOST_MESSAGE_BYTES:
            raise FailedPrecondition(
                f"a call of {request.model!r} has {largest >> 20} MiB of tensors, and a message of gRPC takes "
                f"{MOST_MESSAGE_BYTES >> 20}: ask for a smaller or shorter video, or run Triton on the caller's "
                "machine with more /dev/shm, where they go through shared memory",
                reason="TRITON_TOO_LARGE",
                pod=self.address,
                model=request.model,
            )

    async def _through_memory(self, request: Request, region: Region) -> dict[str, NDArray[Any]]:
        sizes = _sizes(request)
        offsets, _ = layout(sizes)
        inputs = [_input(name, array) for name, array in request.inputs.items()]
        for given, (name, array) in zip(inputs, request.inputs.items(), strict=True):
            region.write(array, offsets["in " + name])
            given.set_shared_memory(region.name, array.nbytes, offsets["in " + name])
        outputs = [InferRequestedOutput(name) for name in request.outputs]
        for asked, name in zip(outputs, request.outputs, strict=True):
            asked.set_shared_memory(region.name, sizes["out " + name], offsets["out " + name])
        await self._call(request, inputs, outputs)
        return {name: region.read(*expected, offsets["out " + name]) for name, expected in request.outputs.items()}

    async def _call(self, request: Request, inputs: list[InferInput], outputs: list[InferRequestedOutput]) -> Any:  # noqa: ANN401  # untyped library
        return await self._client.infer(
            request.model,
            inputs,
            outputs=outputs,
            priority=request.priority,
            timeout=int(request.seconds * 1_000_000),
            client_timeout=request.seconds,
        )


def _input(name: str, array: NDArray[Any]) -> InferInput:
    return InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))


def _sizes(request: Request) -> dict[str, int]:
    """Bytes of each tensor; an input and an output may have the same name."""
    inputs = {"in " + name: array.nbytes for name, array in request.inputs.items()}
    outputs = {"out " + name: int(np.prod(shape)) * dtype.itemsize for name, (shape, dtype) in request.outputs.items()}
    return inputs | outputs
