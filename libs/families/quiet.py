"""Other libraries' own logging, brought under ours."""

from __future__ import annotations

from libs.families.modular import Module

__all__ = ["quieten"]


def quieten(logging: Module) -> None:
    """A service's stderr is JSON lines: a library's errors go to the process's own handlers, its bars nowhere."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    logging.disable_default_handler()
    logging.enable_propagation()
