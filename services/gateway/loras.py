"""LoRAs that callers send or name: refused at the edge where that can be seen without the model's weights.

Whether one fits the model is for the denoiser to say, who has them.
"""

from __future__ import annotations

import asyncio

from safetensors import SafetensorError, deserialize

from libs.artifacts import Ref, Store
from libs.errors import FailedPrecondition, FieldViolation, InvalidRequest
from services.gateway.video import LoraRequest

FILE, ARTIFACT = "spec.lora.file", "spec.lora.artifact"
SHARED = "_loras"
"""Folder of the store for all tenants' use; no tenant can have this name."""


async def check_lora(store: Store, tenant: str, asked: LoraRequest) -> None:
    """Raises InvalidRequest: LORA_UNUSABLE for a file that is no LoRA in safetensors, LORA_UNKNOWN for one that is not
    there, or not for this tenant."""
    if asked.artifact is None:
        await asyncio.to_thread(_check_file, asked.file)
    else:
        await asyncio.to_thread(_check_artifact, store, tenant, asked.artifact)


def _check_file(data: bytes) -> None:
    try:
        names = [name for name, _ in deserialize(data)]  # type: ignore[no-untyped-call]  # its stub has no types
    except SafetensorError as error:
        raise _refused(
            FILE, f"it is no safetensors file ({error}); pickled ones (.ckpt, .pt, .bin) are not taken", "LORA_UNUSABLE"
        ) from error
    if not any("lora" in name for name in names):
        raise _refused(FILE, "none of its tensors has lora in its name; give a LoRA, not a model", "LORA_UNUSABLE")


def _check_artifact(store: Store, tenant: str, ref: Ref) -> None:
    """Another tenant's is answered as one that is not there."""
    try:
        key = store.key_of(ref)
    except FailedPrecondition:
        key = ""
    folder = key.rpartition("/")[0]
    mine = folder.partition("/")[0] in (tenant, SHARED)
    sizes = [stored.size_bytes for stored in store.walk(folder) if stored.key == key] if mine else []
    if not sizes:
        raise _refused(
            ARTIFACT,
            f"there is no {ref.uri} for you; give one of your videos' while its files are kept, or one below "
            f"{SHARED}/, or send the file",
            "LORA_UNKNOWN",
        )
    if sizes[0] != ref.size_bytes:
        raise _refused(ARTIFACT, f"it has {sizes[0]} bytes, not {ref.size_bytes}; give its own size", "LORA_UNKNOWN")


def _refused(field: str, why: str, reason: str) -> InvalidRequest:
    return InvalidRequest(FieldViolation(field, why), reason=reason)
