"""Diorama's camera: what a prompt says of it, and which part of the scene each frame then shows.

A model that is only told in words to pan has to move all it draws by fractions of a token; told where in the scene each
latent lies (`positions.py`), it draws what stands there. After CameraCtrl (He et al. 2024), whose model is told the ray
of each pixel. A scene goes on beyond what a moving camera sees of it at any moment, so that window is smaller.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = [
    "CAMERAS",
    "FPS",
    "MOST_ZOOM",
    "PAN_WAY",
    "PAN_WIDTH",
    "SECONDS",
    "Camera",
    "CameraReader",
    "Windows",
    "latent_windows",
    "windows",
]

Camera = Literal["still", "pan left", "pan right", "push in"]
CAMERAS: tuple[Camera, ...] = get_args(Camera)

FPS = 12
PAN_WIDTH = 1 / 1.3
"""Of a panning window, as a share of the scene's side."""
PAN_WAY = 0.18
"""How far it moves: nearly a quarter of what is seen, and the middle of what stands at a side stays in the picture."""
PAN_TOP = (1 - PAN_WIDTH) / 2
MOST_ZOOM = 1.4
ZOOM_HEIGHT = 0.6
"""y that a camera moves towards."""
SECONDS = 5.0
"""Duration of a whole move; in a shorter clip a part of it is seen, a longer one takes its own duration for it."""

Windows = NDArray[np.float32]
"""(T, 3): left, top and width (and height) of what is seen, as shares of the scene's sides."""


def windows(camera: Camera, num_frames: int, place: float = 0.5, fps: float = FPS) -> Windows:
    """What each frame shows. ``place``: x of what a camera moves towards, or pans past, 0.25 to 0.75."""
    if camera == "still":
        return np.tile(np.array([0.0, 0.0, 1.0], np.float32), (num_frames, 1))
    seconds = num_frames / fps
    gone = np.arange(num_frames) / fps / max(seconds, SECONDS)
    if camera == "push in":
        width = MOST_ZOOM**-gone
        left, top = place * (1 - width), ZOOM_HEIGHT * (1 - width)
    else:
        gone = gone + max(0.0, 1 - seconds / SECONDS) / 2
        room = 1 - PAN_WIDTH - PAN_WAY
        left = room * (2 * place - 0.5) + PAN_WAY * (gone if camera == "pan right" else 1 - gone)
        top, width = np.full_like(gone, PAN_TOP), np.full_like(gone, PAN_WIDTH)
    return np.stack([left, top, width], axis=1).astype(np.float32)


def latent_windows(seen: Windows) -> Windows:
    """Windows of 1 + 4 (F - 1) frames -> (F, 3), of latent frames: the first frame's, then means of four."""
    return np.concatenate([seen[:1], seen[1:].reshape(-1, 4, 3).mean(axis=1)])


class CameraReader(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Tells from the text encoder's states which move a prompt asks for; still where it says nothing of one.

    A few queries attend to the tokens: "left" of a pan and "left" of a thing are told apart by what stands around them.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, text_channels: int = 384, width: int = 64, queries: int = 4) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read = nn.Linear(text_channels, width)
        self.ask = nn.Linear(width, queries)
        self.tell = nn.Linear(queries * width, len(CAMERAS))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (B, L, 384) with their mean in front, mask (B, L), 1 = token -> logits (B, 4), as in `CAMERAS`."""
        hidden = torch.nn.functional.silu(self.read(states))
        scores = self.ask(hidden).masked_fill(mask[..., None] == 0, -torch.inf)
        pooled = torch.einsum("blq,blw->bqw", scores.softmax(dim=1), hidden)
        logits: Tensor = self.tell(pooled.flatten(1))
        return logits
