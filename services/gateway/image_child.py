"""Run as a script by `images.py`: image bytes on standard input, clean PNG bytes on standard output.

Usage: python -I image_child.py PNG|JPEG. Exit status 0: done; 3: cannot be read; 4: too many pixels; 5: too small.
Imports nothing of this project, so that it starts fast and works isolated from it.
"""

from __future__ import annotations

import io
import resource
import sys
import warnings

MAX_PIXELS = 50_000_000
MIN_SIDE = 16
LONGEST_SIDE = 2048
"""Larger pictures are scaled down: no model needs more for a first frame."""
MEMORY_BYTES = 1 << 30
CPU_SECONDS = 15
UNREADABLE, TOO_LARGE, TOO_SMALL = 3, 4, 5


def main(file_format: str) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        return _clean(sys.stdin.buffer.read(), file_format)
    except Exception:  # noqa: BLE001 - whatever a decoder stumbles over, the answer is the same
        return UNREADABLE


def _clean(data: bytes, file_format: str) -> int:
    from PIL import Image, ImageOps

    warnings.simplefilter("error", Image.DecompressionBombWarning)
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        image = Image.open(io.BytesIO(data), formats=[file_format])
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return TOO_LARGE
    if image.width * image.height > MAX_PIXELS:
        return TOO_LARGE
    if min(image.size) < MIN_SIDE:
        return TOO_SMALL
    image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))  # JPEG only: decodes large ones at a fraction of their size
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits a pixel; converted as it is, everything above 255 would be white
        upright = upright.point(lambda value: value * (1 / 257)).convert("L")
    upright.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    # A new picture takes over pixels only: no EXIF, no text, no colour profile. Transparent parts become black.
    plain = Image.new("RGB", upright.size)
    rgba = upright.convert("RGBA")
    plain.paste(rgba, mask=rgba.getchannel("A"))
    plain.save(sys.stdout.buffer, format="PNG", compress_level=3)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
