"""How a listener ends the denoise loop."""

from __future__ import annotations

__all__ = ["LoopStopped"]


class LoopStopped(BaseException):
    """Carries what the listener raised through diffusers to the pipeline's caller.

    Not an ``Exception``: diffusers logs every one of those, with its traceback, at each level of blocks that it passes,
    and a cancelled video is nothing to log an error for.
    """

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause
