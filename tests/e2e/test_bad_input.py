"""Bad input is refused at the edge with the field and what to change, and nothing is created."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Any

import grpc
import pytest

from client import SoundstageRpcError
from tests.e2e.studio import Studio

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def zip_bomb() -> bytes:
    """100 MB of zeros in a zip archive."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("picture.png", bytes(100_000_000))
    return data.getvalue()


def png_bomb() -> bytes:
    """A PNG that says it has 50,000 x 50,000 pixels and would decode to 2.5 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(50_001 * 500), 9)) + chunk(b"IEND", b"")


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "empty prompt": ({"prompt": ""}, "spec.prompt", "INVALID_FIELD"),
    "blank prompt": ({"prompt": " \t\n"}, "spec.prompt", "INVALID_FIELD"),
    "10,000 words": ({"prompt": "waves " * 10_000}, "spec.prompt", "INVALID_FIELD"),
    "0 s": ({"duration": 0}, "spec.duration", "INVALID_FIELD"),
    "1,000 s": ({"duration": 1000}, "spec.duration", "INVALID_FIELD"),
    "longer than the model can": ({"duration": 60}, "spec.duration", "INVALID_FIELD"),
    "zip bomb": ({"image": zip_bomb()}, "spec.image", "IMAGE_UNUSABLE"),
    "png bomb": ({"image": png_bomb()}, "spec.image", "IMAGE_UNUSABLE"),
    "text file": ({"image": b"Dear sir or madam,\n" * 50}, "spec.image", "IMAGE_UNUSABLE"),
    "cut PNG": ({"image": png_bomb()[:40]}, "spec.image", "IMAGE_UNUSABLE"),
    "unknown model": ({"model": "sora"}, "spec.model", "MODEL_UNKNOWN"),
    "too many steps": ({"num_inference_steps": 101}, "spec.num_inference_steps", "INVALID_FIELD"),
    "odd size": ({"width": 250}, "spec.width", "INVALID_FIELD"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_nothing_is_created(studio: Studio, name: str) -> None:
    fields, field, reason = BAD[name]
    before = {video.name for video in studio.client.list()}, studio.stored()
    with pytest.raises(SoundstageRpcError) as refused:
        studio.order(**fields)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.reason == reason
    assert [violation.field for violation in refused.value.violations] == [field]
    assert all(len(violation.description) > 10 for violation in refused.value.violations)
    assert ({video.name for video in studio.client.list()}, studio.stored()) == before
