"""A camera that pans or moves closer, before any scene: a window that wanders over a picture rendered larger.

One large picture gives a take by each camera: takes of one scene differ in what the camera does and in nothing else.

The scene is rendered `OVERSCAN` times as large, so that the window is about as sharp as a still picture. What stands at
x in the large picture is seen at (x - left) / width of the window, and heard there too: constant-power panning turns
with the window, and a source twice as near is twice as loud.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from training.scenes.base import SIDE_POSITION, Camera, Canvas, Clip, Field, SceneSpec, limit

MOVES: tuple[Camera, ...] = ("pan left", "pan right", "push in")
TAKES: tuple[Camera, ...] = ("still", *MOVES)
"""Of a large picture. Its still one stands in the middle, as near as a panning one."""

OVERSCAN = 1.3
PAN_WIDTH = 1 / OVERSCAN
"""Width of a panning window in the large picture."""
PAN_WAY = 0.18
"""How far it moves, in the large picture: nearly a quarter of what is seen, and the middle of a source stays in it."""
PAN_TOP = (1 - PAN_WIDTH) / 2
MOST_ZOOM = 1.4
ZOOM_HEIGHT = 0.6
"""y that a camera moves towards; across, it moves towards the scene's source."""
SECONDS = 5.0
"""Duration of a whole move; in a shorter clip a part of it is seen, a longer one takes its own duration for it."""


@dataclass(frozen=True)
class Window:
    """What is seen of the large picture, as shares of its sides, each (T,)."""

    left: Field
    top: Field
    width: Field

    def seen_at(self, x: float | Field, frame: int | slice = slice(None)) -> Field:
        """Where in the window something at x is, 0 (left) to 1 (right), beyond them if it is out of the picture."""
        return (x - self.left[frame]) / self.width[frame]


def large(size: int) -> int:
    """Side of the picture to render for a clip of ``size`` pixels; even, as every scene needs."""
    return 2 * round(size * OVERSCAN / 2)


def move(clip: Clip, spec: SceneSpec, canvas: Canvas) -> Clip:
    """What the camera of ``spec`` sees and hears of ``clip``: frames `large` (canvas.size) wide become canvas.size."""
    window = window_of(spec, canvas)
    source = SIDE_POSITION[spec.side]
    turned = canvas.frame_envelope(window.seen_at(source) - source)
    nearer = canvas.frame_envelope(window.width[0] / window.width)
    events = [replace(event, position=float(window.seen_at(event.position, event.frame))) for event in clip.events]
    return Clip(_cut(clip.frames, window, canvas.size), limit(_turn(clip.sound, turned) * nearer), events)


def window_of(spec: SceneSpec, canvas: Canvas) -> Window:
    """Where the window is in each frame; a source stays in the third of the picture that it stands in."""
    seconds = canvas.num_frames / canvas.fps
    gone = canvas.seconds / max(seconds, SECONDS)
    source = SIDE_POSITION[spec.side]
    if spec.camera == "push in":
        width = MOST_ZOOM**-gone
        return Window(source * (1 - width), ZOOM_HEIGHT * (1 - width), width)
    gone = gone + max(0.0, 1 - seconds / SECONDS) / 2
    if spec.camera == "still":
        gone = np.full_like(gone, 0.5)
    room = 1 - PAN_WIDTH - PAN_WAY
    first = room * (source - SIDE_POSITION["left"]) / (SIDE_POSITION["right"] - SIDE_POSITION["left"])
    left = first + PAN_WAY * (gone if spec.camera == "pan right" else 1 - gone)
    return Window(left, np.full_like(left, PAN_TOP), np.full_like(left, PAN_WIDTH))


def _cut(frames: Field, window: Window, size: int) -> Field:
    """Resamples each window to ``size`` pixels, bicubic: (T, S, S, 3) -> (T, size, size, 3)."""
    cut = np.empty((len(frames), size, size, 3), np.float32)
    for index, frame in enumerate(frames):
        left, top, width = (float(side[index]) * frame.shape[0] for side in (window.left, window.top, window.width))
        picture = Image.fromarray((frame * 255 + 0.5).astype(np.uint8))  # bytes: resampled twice as fast as floats
        box = (left, top, left + width, top + width)
        cut[index] = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box))
    return cut / 255


def _turn(sound: Field, shift: Field) -> Field:
    """Moves every source by ``shift`` of the picture's width to the right, (2, N).

    Constant-power panning puts a source at an angle between the channels: turning both channels by an angle moves all
    sources alike and leaves a sound from everywhere, alike in both channels but not the same, where it is.
    """
    angle = shift * (np.pi / 2)
    left, right = sound
    return np.stack(
        [left * np.cos(angle) - right * np.sin(angle), left * np.sin(angle) + right * np.cos(angle)]
    ).astype(np.float32)
