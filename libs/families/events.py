"""The two blocks around a step of any loop of diffusers: the clock, and the listener."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from libs.families.colours import Colours
from libs.families.modular import BlockState, Components, ComponentSpec, InputParam, ModularPipelineBlocks
from libs.families.resting import rest
from libs.families.resuming import copied
from libs.families.step import Step
from libs.families.step_cache import StepCache
from libs.families.stopping import LoopStopped

__all__ = ["StepBegins", "StepEnds"]


class StepBegins(ModularPipelineBlocks):
    """First in a loop."""

    @property
    def description(self) -> str:
        return "Step within the loop that notes when it began, and from which latents"

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("latents", required=True)]

    def __call__(
        self,
        components: Components,
        block_state: BlockState,
        i: int,  # noqa: ARG002  # the loop passes both by name
        t: Tensor,  # noqa: ARG002
    ) -> tuple[Components, BlockState]:
        block_state.step_began = time.perf_counter()
        block_state.latents_before = block_state.latents
        block_state.left_out_before = _left_out(components)
        return components, block_state


class StepEnds(ModularPipelineBlocks):
    """Last in a loop: tells of the step. What the listener raises ends the loop."""

    @property
    def description(self) -> str:
        return "Step within the loop that calls `on_step` with a `Step`"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return [ComponentSpec("colours", Colours)]

    @property
    def inputs(self) -> list[InputParam]:
        return [
            InputParam("on_step", required=True),
            InputParam("preview_every_steps", default=0, type_hint=int, description="0: no previews"),
            InputParam("generator", required=True),
            InputParam("resume", description="LoopState of an earlier run to go on from"),
        ]

    def __call__(
        self,
        components: Components,
        block_state: BlockState,
        i: int,
        t: Tensor,  # noqa: ARG002  # the loop passes both by name
    ) -> tuple[Components, BlockState]:
        seconds = time.perf_counter() - block_state.step_began
        every = block_state.preview_every_steps
        due = every > 0 and (i + 1) % every == 0
        preview = self.preview(components, block_state, i) if due else None
        sound = self.sound(block_state) if due else None
        state = partial(copied, i + 1, components, block_state)
        cached = _left_out(components) > block_state.left_out_before
        rest()
        try:
            block_state.on_step(Step(i + 1, len(block_state.timesteps), seconds, preview, state, sound, cached))
        except Exception as error:
            raise LoopStopped(error) from error
        return components, block_state

    def preview(self, components: Components, block_state: BlockState, i: int) -> NDArray[np.uint8] | None:
        """Step ``i``'s estimate of the clean picture, see `Step.preview`; None: it cannot be drawn, or not yet."""
        strip: NDArray[np.uint8] | None = components.colours.strip(self.clean(components, block_state, i))
        return strip

    def sound(self, block_state: BlockState) -> dict[str, NDArray[np.float32]] | None:  # noqa: ARG002
        """The estimate of the clean sound, see `Step.sound`; None: the family makes none with the picture."""
        return None

    def clean(self, components: Components, block_state: BlockState, i: int) -> Tensor:
        """Step ``i``'s estimate of the clean latents, normalised, (1, C, F, h, w): x_0 = x_t - sigma v."""
        clean: Tensor = block_state.latents_before - components.scheduler.sigmas[i] * block_state.noise_pred
        return clean


def _left_out(components: Components) -> int:
    """Transformer calls of this run that its feature caches have left out so far."""
    parts = (getattr(components, name, None) for name in ("transformer", "transformer_2"))
    return sum(part.memory.left_out for part in parts if isinstance(part, StepCache))
