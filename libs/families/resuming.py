"""The state of a loop between two steps: copied, as plain arrays, and put back into a loop that begins anew.

Whatever schedulers keep of earlier steps (UniPC's and DPM++'s outputs and samples, their counters) is found in their
attributes, so that no scheduler needs code of its own. Names say of what kind a value was:
``scheduler/model_outputs/0/float32``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from libs.families.modular import BlockState, Components
from libs.families.step import STEPS_DONE, LoopState, steps_done

__all__ = ["Resumable", "copied"]

CARRIED = ("latents", "audio_latents")
"""What loops hand from step to step in their block state."""
HOLDERS = ("scheduler", "audio_scheduler", "transformer", "transformer_2")
"""Whose attributes change from step to step; of transformers the memory of their caches."""
NUMBERS: Mapping[str, type] = {"bool": bool, "int": int, "float": float}
NOTHING, GENERATOR = "none", "generator"


class Resumable:
    """Mixed into a loop of diffusers: steps that were done before are not done again."""

    def loop_step(
        self, components: Components, state: BlockState, *, i: int, t: Tensor
    ) -> tuple[Components, BlockState]:
        done = steps_done(state.resume) if state.resume else 0
        if i >= done:
            return super().loop_step(components, state, i=i, t=t)  # type: ignore[misc,no-any-return]  # diffusers' loop
        if i == done - 1:
            _put_back(state.resume, components, state)
        return components, state


def copied(steps: int, components: Components, state: BlockState) -> dict[str, NDArray[Any]]:
    """The state after so many steps."""
    kept: dict[str, Any] = {name: getattr(state, name) for name in CARRIED if hasattr(state, name)}
    for name in HOLDERS:
        kept |= {f"{name}/{attribute}": value for attribute, value in _attributes(name, components, state).items()}
    kept[GENERATOR] = state.generator.get_state()
    return {STEPS_DONE: np.array([steps]), **{key: array for name in kept for key, array in _flat(name, kept[name])}}


def _put_back(loop: LoopState, components: Components, state: BlockState) -> None:
    values = _nested(loop)
    for name in CARRIED:
        if name in values:
            setattr(state, name, values[name])
    for name in HOLDERS:
        _attributes(name, components, state).update(values.get(name, {}))
    state.generator.set_state(values[GENERATOR])


def _attributes(name: str, components: Components, state: BlockState) -> dict[str, Any]:
    """The very ones: what is changed here is changed there."""
    holder = getattr(components, name, None) or getattr(state, name, None)
    if isinstance(holder, nn.Module):
        holder = getattr(holder, "memory", None)
    return vars(holder) if holder is not None else {}


def _flat(name: str, value: object) -> Iterator[tuple[str, NDArray[Any]]]:
    """Numbers, tensors, None, and lists of those; what else a scheduler holds (its config) never changes."""
    match value:
        case None:
            yield f"{name}/{NOTHING}", np.zeros(1, np.uint8)
        case Tensor():
            kind = str(value.dtype).removeprefix("torch.")
            # A copy: the loop goes on. numpy has no bfloat16; float32 holds all its values.
            wide = value.float() if value.dtype == torch.bfloat16 else value.clone()
            yield f"{name}/{kind}", np.atleast_1d(wide.numpy())
            if not value.ndim:
                yield f"{name}/scalar", np.zeros(1, np.uint8)
        case bool() | int() | float():
            yield f"{name}/{type(value).__name__}", np.array([value])
        case list():
            for index, item in enumerate(value):
                yield from _flat(f"{name}/{index}", item)


def _nested(loop: LoopState) -> dict[str, Any]:
    """The inverse of `_flat`, of all names."""
    leaves: dict[str, dict[str, NDArray[Any]]] = defaultdict(dict)
    for key, array in loop.items():
        name, _, kind = key.rpartition("/")
        leaves[name][kind] = array
    tree: dict[str, Any] = {}
    for name, kinds in leaves.items():
        *folders, last = name.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[last] = _value(kinds)
    for name in HOLDERS:
        if name in tree:
            tree[name] = {key: _listed(value) for key, value in tree[name].items()}
    return tree


def _value(kinds: Mapping[str, NDArray[Any]]) -> Any:  # noqa: ANN401  # whatever was kept
    scalar = "scalar" in kinds
    ((kind, array),) = ((kind, array) for kind, array in kinds.items() if kind != "scalar")
    if kind == NOTHING:
        return None
    if kind in NUMBERS:
        return NUMBERS[kind](array[0])
    tensor = torch.from_numpy(array.copy()).to(getattr(torch, kind))
    return tensor[0] if scalar else tensor


def _listed(value: Any) -> Any:  # noqa: ANN401  # whatever was kept
    return [value[str(index)] for index in range(len(value))] if isinstance(value, dict) else value
