"""What latents look like: a linear map from a latent pixel to the mean colour there, fitted to the model's own decoder.

Decoding takes longer than a step; this takes a matrix product. The fit decodes a few small clips of smooth and rough
noise, with the seed below, in a thread of its own that rests most of the time: the steps go on beside it. Afterwards
nothing of the decoder is kept.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from libs.errors import FailedPrecondition

__all__ = ["BUSY_SHARE", "Colours", "fitted"]

_log = logging.getLogger(__name__)

Decode = Callable[[Mapping[str, NDArray[np.float32]], int], Iterator[NDArray[np.uint8]]]
"""As `DecodePipeline`: normalised latents by name, number of frames -> chunks (t, H, W, 3)."""

BUSY_SHARE = 0.2
"""Of the time that the fit takes, how much it computes: what steps of a first video may be slowed down by."""
SIDE, BORDER = 6, 1
"""Latent pixels of a clip, each way; of those at the border the decoder sees no neighbours, so they are left out."""
RIDGE = 1e-4
"""Keeps the map small in directions in which the clips hardly differ; latents have a variance of about 1."""
STRIP_HEIGHT = 96
"""Pixels up to which a strip is enlarged, by a whole number."""


class Colours:
    """Of one model. Thread-safe; draws nothing until the fit is done, or where the decoder's weights are not there."""

    def __init__(self, channels: int, temporal_ratio: int, load_decode: Callable[[], Decode]) -> None:
        """``load_decode`` may raise FailedPrecondition: there are no weights."""
        self._channels, self._temporal_ratio, self._load_decode = channels, temporal_ratio, load_decode
        self._lock = threading.Lock()
        self._fit: threading.Thread | None = None
        self._map: Tensor | None = None

    def begin(self) -> None:
        """Map the decoder's weights and start to fit, if nobody has.

        The weights in this thread: no step of this video runs meanwhile, whose numbers a load in another thread could
        change (diffusers sets the default type of all threads for as long).
        """
        with self._lock:
            if self._fit is None:
                self._fit = threading.Thread(target=self._run, args=(self._loaded(),), name="colours")
                self._fit.start()

    def wait(self, timeout_seconds: float) -> bool:
        """Whether the fit is over, however it ended. Nobody at work on a video waits for it."""
        self.begin()
        assert self._fit is not None
        self._fit.join(timeout_seconds)
        return not self._fit.is_alive()

    def strip(self, latents: Tensor) -> NDArray[np.uint8] | None:
        """Normalised latents (1, C, F, h, w) -> begin, middle and end side by side, (k h, 3 k w, 3); None: not yet."""
        if self._map is None:
            return None
        last = latents.shape[2] - 1
        shown = latents[0, :, [0, last // 2, last]].float()
        colours = torch.einsum("cfhw,cd->fdhw", shown, self._map[:-1]) + self._map[-1].view(1, 3, 1, 1)
        times = max(STRIP_HEIGHT // colours.shape[2], 1)
        large = interpolate(colours, scale_factor=times, mode="bilinear") if times > 1 else colours
        frames = large.clamp(0.0, 255.0).round().to(torch.uint8).permute(2, 0, 3, 1)
        return np.ascontiguousarray(frames.flatten(1, 2).numpy())

    def _loaded(self) -> Decode | None:
        try:
            return self._load_decode()
        except FailedPrecondition as error:
            _log.warning("no previews of this model: its decoder cannot be loaded here", extra={"cause": str(error)})
            return None

    def _run(self, decode: Decode | None) -> None:
        if decode is not None:
            self._map = fitted(decode, self._channels, self._temporal_ratio, BUSY_SHARE)


@torch.inference_mode()
def fitted(decode: Decode, channels: int, temporal_ratio: int, busy_share: float = 1.0) -> Tensor | None:
    """(C + 1, 3) float32: latent pixel and a 1 -> mean red, green and blue there, 0 to 255. Least squares.

    None: the process is about to end.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    pixels, colours = [], []
    for _ in range(8 + channels // 4):
        began = time.perf_counter()
        latents = _clip(channels, generator)
        frames = np.concatenate(list(decode({"latents": latents.numpy()}, 1 + temporal_ratio)))
        pixels.append(_inner(latents[0]))
        colours.append(_inner(_means(torch.from_numpy(frames).float())))
        if busy_share < 1 and not _rested((time.perf_counter() - began) * (1 / busy_share - 1)):
            return None
    given = torch.cat([torch.cat(pixels), torch.ones(sum(map(len, pixels)), 1)], dim=1).double()
    ridge = torch.full((channels + 1,), RIDGE * len(given), dtype=torch.float64)
    ridge[-1] = 0.0
    solved: Tensor = torch.linalg.solve(
        given.T @ given + torch.diag(ridge), given.T @ torch.cat(colours).double()
    ).float()
    return solved


def _rested(seconds: float) -> bool:
    """False as soon as the process ends, which waits for this thread."""
    main = threading.main_thread()
    main.join(seconds)
    return main.is_alive()


def _clip(channels: int, generator: torch.Generator) -> Tensor:
    """(1, C, 2, h, w) of variance about 1: what is the same everywhere, what is smooth, what is rough."""
    sizes = (1, 1, 1), (1, 2, 2), (2, 3, 3), (2, SIDE, SIDE)
    fields = [
        interpolate(torch.randn(1, channels, *size, generator=generator), (2, SIDE, SIDE), mode="trilinear")
        for size in sizes
    ]
    clip: Tensor = torch.stack(fields).sum(0) / len(sizes) ** 0.5
    return clip


def _means(frames: Tensor) -> Tensor:
    """(1 + r, H, W, 3) -> (3, 2, h, w): the first latent frame is one frame, the second holds the others."""
    latent_frames = torch.stack([frames[0], frames[1:].mean(0)]).permute(0, 3, 1, 2)
    return interpolate(latent_frames, (SIDE, SIDE), mode="area").transpose(0, 1)


def _inner(video: Tensor) -> Tensor:
    """(channels, F, h, w) -> (pixels away from the border, channels)."""
    return video[:, :, BORDER:-BORDER, BORDER:-BORDER].flatten(1).T
