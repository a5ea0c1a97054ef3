"""Modular Diffusers as families use it. diffusers is untyped; its names that we build on are typed here, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, InputParam, OutputParam

__all__ = [
    "AutoPipelineBlocks",
    "BlockState",
    "ClassifierFreeGuidance",
    "ComponentSpec",
    "Components",
    "InputParam",
    "LoopSequentialPipelineBlocks",
    "ModularPipelineBlocks",
    "Module",
    "OutputParam",
    "PipelineState",
    "SchedulerMixin",
    "SequentialPipelineBlocks",
    "WanDenoiseLoopWrapper",
]

Components: TypeAlias = Any
"""A `ModularPipeline`: the components that its blocks expect are its attributes."""
PipelineState: TypeAlias = Any
"""What blocks hand to each other, by name."""
BlockState: TypeAlias = Any
"""What a block, or the blocks of a loop, see of it, as attributes."""
Module: TypeAlias = Any
"""A model, tokenizer or scheduler of diffusers or transformers."""

if TYPE_CHECKING:

    class ModularPipelineBlocks:
        model_name: ClassVar[str]
        sub_blocks: Mapping[str, ModularPipelineBlocks]

        @property
        def expected_components(self) -> list[ComponentSpec]: ...
        @property
        def expected_configs(self) -> list[Any]: ...
        @property
        def inputs(self) -> list[InputParam]: ...
        @property
        def intermediate_outputs(self) -> list[OutputParam]: ...

        def get_block_state(self, state: PipelineState) -> BlockState: ...
        def set_block_state(self, state: PipelineState, block_state: BlockState) -> None: ...

    class SequentialPipelineBlocks(ModularPipelineBlocks):
        block_classes: ClassVar[Sequence[type[Any]]]
        block_names: ClassVar[Sequence[str]]

        def init_pipeline(self) -> Components: ...

        def get_execution_blocks(self, **inputs: object) -> ModularPipelineBlocks: ...

    class LoopSequentialPipelineBlocks(ModularPipelineBlocks):
        def set_progress_bar_config(self, *, disable: bool) -> None: ...

    class AutoPipelineBlocks(ModularPipelineBlocks):
        block_classes: ClassVar[Sequence[type[Any]]]
        block_names: ClassVar[Sequence[str]]
        block_trigger_inputs: ClassVar[Sequence[str | None]]

    class ClassifierFreeGuidance:
        def __init__(self, guidance_scale: float) -> None: ...
        @property
        def num_conditions(self) -> int: ...
        def prepare_inputs(self, data: dict[str, Any]) -> list[BlockState]: ...
        def prepare_inputs_from_block_state(
            self, data: BlockState, input_fields: dict[str, Any]
        ) -> list[BlockState]: ...
        def forward(self, pred_cond: Any, pred_uncond: Any = None) -> Any: ...  # noqa: ANN401

    class SchedulerMixin: ...

    class WanDenoiseLoopWrapper(LoopSequentialPipelineBlocks):
        block_classes: ClassVar[Sequence[type[Any]]]
        block_names: ClassVar[Sequence[str]]

else:
    from diffusers.guiders import ClassifierFreeGuidance
    from diffusers.modular_pipelines.modular_pipeline import (
        AutoPipelineBlocks,
        LoopSequentialPipelineBlocks,
        ModularPipelineBlocks,
        SequentialPipelineBlocks,
    )
    from diffusers.modular_pipelines.wan.denoise import WanDenoiseLoopWrapper
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
