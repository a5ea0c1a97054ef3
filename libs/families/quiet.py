"""A service's stderr is JSON lines: a library's errors go to the process's own handlers, its progress bars nowhere."""

from __future__ import annotations

from typing import Any

__all__ = ["quieten"]


def quieten(logging: Any) -> None:  # noqa: ANN401  # diffusers' or transformers' `utils.logging`, which have no types
    """Both libraries' module has these four functions."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    logging.disable_default_handler()
    logging.enable_propagation()
