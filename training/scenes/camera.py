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

from libs.families.diorama.camera import CAMERAS, FPS, PAN_WIDTH, Camera, Windows, windows
from training.scenes.base import SIDE_POSITION, Canvas, Clip, Field, SceneSpec, limit

TAKES: tuple[Camera, ...] = CAMERAS
"""Of a large picture. Its still one stands in the middle, as near as a panning one."""
MOVES: tuple[Camera, ...] = tuple(take for take in TAKES if take != "still")
OVERSCAN = 1 / PAN_WIDTH


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
    """Where the window of a take is in each frame; a source stays in the third of the picture that it stands in."""
    return Window(*seen_of(spec, canvas.num_frames, canvas.fps).T)


def seen_of(spec: SceneSpec, num_frames: int, fps: float = FPS, *, take: bool = True) -> Windows:
    """The same as (T, 3). Without ``take`` a still camera sees all of the scene, as it does alone."""
    place = SIDE_POSITION[spec.side]
    if spec.camera != "still" or not take:
        return windows(spec.camera, num_frames, place, fps)
    pans = [windows(pan, num_frames, place, fps) for pan in MOVES if pan.startswith("pan")]
    return np.asarray(np.mean(pans, axis=0))


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
