"""Reads a first frame that a stranger sent: PNG or JPEG and nothing else, within limits, all of it or an error."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from libs.errors import FieldViolation, InvalidRequest

__all__ = ["ImageLimits", "read_image"]

_FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG"}
_MEBI = 1 << 20
_MEGA = 1_000_000


@dataclass(frozen=True)
class ImageLimits:
    max_bytes: int = 32 * _MEBI
    max_pixels: int = 50 * _MEGA


def read_image(data: bytes, media_type: str, limits: ImageLimits) -> NDArray[np.uint8]:
    """Decode to (H, W, 3) uint8 RGB, upright as its EXIF orientation says, over black where it is transparent.

    Raises InvalidRequest for field ``image``: IMAGE_UNSUPPORTED (another media type), IMAGE_TOO_LARGE (found before
    anything is decompressed) or IMAGE_UNREADABLE (not what the media type says, or cut off).
    """
    if media_type not in _FORMATS:
        raise _refused("IMAGE_UNSUPPORTED", f"media type {media_type!r} is not supported: send image/png or image/jpeg")
    if len(data) > limits.max_bytes:
        raise _refused("IMAGE_TOO_LARGE", f"has {len(data)} bytes: send at most {limits.max_bytes // _MEBI} MiB")
    try:
        with Image.open(io.BytesIO(data), formats=[_FORMATS[media_type]]) as image:
            _check_pixels(image, limits)
            return np.array(_rgb(ImageOps.exif_transpose(image)))
    # An error above twice Pillow's own limit, below that a warning, which may be set to raise.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _refused("IMAGE_TOO_LARGE", f"send at most {limits.max_pixels // _MEGA} million pixels") from error
    # Pillow's decoders raise all of these on bytes that are wrong.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError) as error:
        raise _refused("IMAGE_UNREADABLE", f"cannot be read as {media_type}: send a whole, valid file") from error


def _check_pixels(image: Image.Image, limits: ImageLimits) -> None:
    if image.width * image.height > limits.max_pixels:
        raise _refused(
            "IMAGE_TOO_LARGE",
            f"is {image.width}x{image.height}: send at most {limits.max_pixels // _MEGA} million pixels",
        )


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits a pixel: Pillow's own conversion would clip them to 255 instead of scaling.
        return Image.fromarray((np.asarray(image).astype(np.float64) / 257.0).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _refused(reason: str, what: str) -> InvalidRequest:
    return InvalidRequest(FieldViolation("image", what), reason=reason)
