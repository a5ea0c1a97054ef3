"""Makes a first frame safe: whatever bytes came, what goes on is a plain PNG of moderate size without metadata.

The bytes are hostile until proven otherwise. They are only ever decoded in a child process (`image_child.py`) with
limits on memory, CPU time and wall time, and only by Pillow's PNG and JPEG readers. The size is taken from the header
and checked before a pixel is decoded.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from libs.errors import FieldViolation, InvalidRequest, Unavailable

FIELD = "spec.image"
MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
TIMEOUT_SECONDS = 20.0
MAX_AT_ONCE = 2
"""Children at once: one may take most of `image_child.MEMORY_BYTES`."""

WHY = {
    3: "it cannot be read: the file is damaged or is not what it says; save it again as PNG or JPEG",
    4: "it has more than 50 megapixels; scale it down",
    5: "it is smaller than 16x16 pixels; give a larger picture",
}
"""What the child's exit statuses mean; see `image_child.py`."""


class Images:
    """Cleans first frames, `MAX_AT_ONCE` at a time."""

    def __init__(self, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._timeout_seconds = timeout_seconds
        self._at_once = asyncio.Semaphore(MAX_AT_ONCE)

    async def clean(self, data: bytes) -> bytes:
        """PNG or JPEG bytes in; PNG bytes out (RGB, upright, no metadata, longest side at most 2,048 pixels).

        Raises InvalidRequest on `spec.image`, reason IMAGE_UNUSABLE; Unavailable when too many images wait.
        """
        file_format = _sniff(data)
        try:
            async with asyncio.timeout(self._timeout_seconds * 2):
                async with self._at_once:
                    return await self._decode(data, file_format)
        except TimeoutError as error:
            raise Unavailable("too many images wait to be read; try again", reason="IMAGES_BUSY") from error

    async def _decode(self, data: bytes, file_format: str) -> bytes:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(Path(__file__).with_name("image_child.py")),
            file_format,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={},
        )
        try:
            async with asyncio.timeout(self._timeout_seconds):
                output, _ = await child.communicate(data)
        except TimeoutError:
            raise _refused("it takes too long to read; scale it down") from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode != 0:
            raise _refused(WHY.get(child.returncode or 0, WHY[3]))
        return output


def _sniff(data: bytes) -> str:
    for magic, file_format in MAGIC.items():
        if data.startswith(magic):
            return file_format
    raise _refused("it is neither PNG nor JPEG; send the bytes of such a file")


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(FieldViolation(FIELD, why), reason="IMAGE_UNUSABLE")
