"""What a checkpoint must agree in with the attempt that goes on from it: request, weights, versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from services.denoiser.denoise import DenoiseJob

__all__ = ["BLOCK", "BLOCKS", "digest_of_file", "fingerprint_of"]

BLOCK, BLOCKS = 1 << 16, 16
"""Bytes of a block, and blocks looked at in a file, the first and the last among them: training changes all of them."""
HEADER_LENGTH_BYTES = 8
READ = (".json", ".safetensors")
"""Files of a model folder that what it computes depends on."""


def fingerprint_of(job: DenoiseJob, model_dir: Path, cache_threshold: float) -> str:
    """Equal for attempts whose latents are equal: the same request, LoRA, model and versions of what computes."""
    paths = sorted(path for path in model_dir.rglob("*.*") if path.suffix in READ)
    files = [(str(path.relative_to(model_dir)), digest_of_file(path)) for path in paths]
    request = [job.width, job.height, job.num_frames, job.fps, job.num_inference_steps, job.guidance_scale, job.seed]
    versions = version("diffusers"), version("torch")
    facts = [job.model, files, job.conditioning.sha256, request, cache_threshold, versions]
    facts += job.lora.facts if job.lora else ()
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """Of its size, the header of a safetensors file, and blocks spread over the rest: 1 MiB of 28 GB."""
    size = path.stat().st_size
    hashed = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        begin = 0
        if path.suffix == ".safetensors":
            header = _header(file, size)
            hashed.update(header)
            begin = len(header)
        for offset in _offsets(begin, size):
            file.seek(offset)
            hashed.update(file.read(BLOCK))
    return hashed.hexdigest()


def _header(file: BinaryIO, size: int) -> bytes:
    """With its length, in 8 bytes, little-endian, before it."""
    length = file.read(HEADER_LENGTH_BYTES)
    return length + file.read(min(int.from_bytes(length, "little"), size))


def _offsets(begin: int, size: int) -> Iterator[int]:
    """Where blocks begin; all that there are in a file that has few."""
    left = size - begin
    if left <= BLOCK * BLOCKS:
        yield from range(begin, size, BLOCK)
    else:
        yield from (begin + index * (left - BLOCK) // (BLOCKS - 1) for index in range(BLOCKS))
