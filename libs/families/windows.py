"""A long video decoded in windows: which latent frames go along with those whose picture is wanted, and how many."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

__all__ = ["Margin", "margin_of", "windows", "with_defaults"]

Margin: TypeAlias = tuple[int, int]
"""Latent frames before and after a window that its picture depends on."""


def margin_of(convolutions: Sequence[int], before: int, after: int) -> Margin:
    """Of a decoder that groups time as 1, 2^k, 2^k … frames a latent frame.

    ``convolutions``: how many in time there are at each rate; the rate doubles from one to the next. Each sees
    ``before`` frames back and ``after`` ahead. Counted are the frames at both ends of a window that its border changes.
    """
    left = right = 0
    for index, count in enumerate(convolutions):
        if index:  # the first of a window is not doubled, as the first of a video is not
            left, right = 2 * left - 1, 2 * right
        left, right = left + count * before, right + count * after
    held = 2 ** (len(convolutions) - 1)
    return -(-(left + held - 1) // held), -(-right // held)


def windows(total: int, wanted: int, margin: Margin) -> Iterator[tuple[int, int, int, int]]:
    """(first, begin, end, last) of each call: latents ``first`` to ``last`` go in, the picture of ``begin`` to ``end``
    is kept; all ends are exclusive. None holds more than ``wanted`` and both margins; where a video's ends need no
    margin, more is kept.
    """
    before, after = margin
    end = 0
    while end < total:
        begin = end
        first = max(begin - before, 0)
        last = min(first + before + wanted + after, total)
        end = last if last == total else last - after
        yield first, begin, end, last


def with_defaults(kind: Callable[..., object], config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` and what it leaves to the constructor: configs older than a parameter do not name it."""
    parameters = inspect.signature(kind).parameters.values()
    defaults = {item.name: item.default for item in parameters if item.default is not item.empty}
    return {**defaults, **config}
