"""Settings of a service that uses Triton, to be mixed into its own class of settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

from libs.triton.pods import TritonOptions

__all__ = ["TritonSettings"]


class TritonSettings(BaseSettings):
    triton_addresses: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Where networks run: model -> host:port of the tritonservers that hold it, as a JSON object; `*` is every model
    that is not named. A model without any: in this process."""

    triton_call_seconds: float = Field(default=120.0, gt=0)
    """Deadline of one call to one Triton pod, its queue there included."""

    triton_attempts: int = Field(default=4, ge=1, le=20)
    """Calls made for one inference, in turn to the pods, before the video's stage fails with UNAVAILABLE."""

    triton_shared_memory: bool = True
    """Tensors go through shared memory to a pod on a loopback address, where it can map it; else through gRPC."""

    @property
    def triton_options(self) -> TritonOptions:
        return TritonOptions(self.triton_call_seconds, self.triton_attempts, self.triton_shared_memory)
