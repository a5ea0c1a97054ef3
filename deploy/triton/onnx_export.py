"""A network as ONNX, checked against torch with onnxruntime."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from libs.families.modular import Module
from libs.families.networks import Linear, Network, Product, TensorSpec, cast, rounded, shape_of

__all__ = ["Exportable", "compare", "example_inputs", "export"]

OPSET = 20
ROWS = 2
FLOAT = 1
"""`onnx.TensorProto.FLOAT`."""


class Exportable(nn.Module):
    """Inputs by position and outputs of the types on the wire, whatever the network works in."""

    def __init__(self, network: Network, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self._network, self.module, self._dtype = network, cast(module, dtype), dtype

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        specs = self._network.inputs
        given = {spec.name: rounded(tensor, spec, self._dtype) for spec, tensor in zip(specs, inputs, strict=True)}
        outputs = self._network.forward(self.module, given)
        return tuple(
            output.to(getattr(torch, spec.dtype)) for spec, output in zip(self._network.outputs, outputs, strict=True)
        )


def example_inputs(
    network: Network, config: Mapping[str, Any], names: Mapping[str, int], rows: int = ROWS
) -> list[Tensor]:
    """Noise, masks of ones, and timesteps, all from one seed. ``names``: the dimensions that vary."""
    generator = torch.Generator().manual_seed(0)
    return [_example(spec, (rows, *shape_of(spec, names, config)), generator) for spec in network.inputs]


def export(
    network: Network,
    module: nn.Module,
    path: Path,
    inputs: list[Tensor],
    dtype: torch.dtype,
) -> None:
    """Write ``path``; rows and every dimension that differs from call to call stay free."""
    exportable = Exportable(network, module, dtype).eval()
    with (
        warnings.catch_warnings(),
        torch.inference_mode(),
        network.tracing(),
        patch.object(Tensor, "unflatten", _unflatten),
        patch.object(Tensor, "repeat_interleave", _repeat_interleave),
        patch.object(Tensor, "squeeze", _squeeze),
        patch.object(Tensor, "movedim", _movedim),
    ):
        # The TorchScript exporter, which torch calls old: the new one fixes dimensions that it meets in a product.
        warnings.simplefilter("ignore")
        torch.onnx.register_custom_op_symbolic("aten::rms_norm", _rms_norm, OPSET)  # type: ignore[attr-defined]
        torch.onnx.export(
            exportable,
            tuple(inputs),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[spec.name for spec in network.inputs],
            output_names=[spec.name for spec in network.outputs],
            dynamic_axes={spec.name: _free_axes(spec) for spec in (*network.inputs, *network.outputs)},
        )


def _unflatten(states: Tensor, dim: int, sizes: tuple[int, ...]) -> Tensor:
    """As torch's own, whose sizes become constants in a trace."""
    dim %= states.ndim
    shape = [states.shape[index] for index in range(states.ndim)]
    return states.reshape(*shape[:dim], *sizes, *shape[dim + 1 :])


def _squeeze(states: Tensor, dim: int) -> Tensor:
    """As torch's own, which leaves a dimension that is not 1; the exporter writes both, one of them wrong."""
    return states.select(dim, 0) if states.shape[dim] == 1 else states


def _repeat_interleave(states: Tensor, repeats: int, dim: int, output_size: int | None = None) -> Tensor:  # noqa: ARG001
    """As torch's own, after which the exporter has the rank of other tensors wrong."""
    dim %= states.ndim
    shape = [states.shape[index] for index in range(states.ndim)]
    return torch.stack([states] * repeats, dim=dim + 1).reshape(*shape[:dim], shape[dim] * repeats, *shape[dim + 1 :])


def _movedim(states: Tensor, source: int, destination: int) -> Tensor:
    """As torch's own, which the exporter writes wrongly for dimensions counted from the end."""
    order = list(range(states.ndim))
    order.insert(destination % states.ndim, order.pop(source))
    return states.permute(order)


def _rms_norm(graph: Module, states: Module, _shape: Module, gain: Module, epsilon: Module) -> Module:
    """Over the last dimension, as it is used here; summed in float32, as torch does. The exporter does not know it."""
    wide = graph.op("Cast", states, to_i=FLOAT)
    last = graph.op("Constant", value_t=torch.tensor([-1]))
    mean = graph.op("ReduceMean", graph.op("Mul", wide, wide), last, keepdims_i=1)
    root = graph.op("Sqrt", graph.op("Add", mean, graph.op("Cast", epsilon, to_i=FLOAT)))
    return graph.op("Mul", graph.op("CastLike", graph.op("Div", wide, root), states), gain)


def compare(network: Network, module: nn.Module, path: Path, inputs: list[Tensor], dtype: torch.dtype) -> float:
    """Largest difference of the outputs of ONNX from torch's, in standard deviations of torch's."""
    import onnxruntime

    with torch.inference_mode():
        expected = Exportable(network, module, dtype).eval()(*inputs)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {spec.name: tensor.numpy() for spec, tensor in zip(network.inputs, inputs, strict=True)}
    made: list[NDArray[Any]] = session.run([spec.name for spec in network.outputs], feed)
    return max(
        float(np.abs(one - other.numpy()).max() / other.std().item()) for one, other in zip(made, expected, strict=True)
    )


def _example(spec: TensorSpec, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if spec.dtype == "int64":
        return torch.ones(shape, dtype=torch.int64)
    if spec.keep:  # a timestep
        return torch.rand(shape, generator=generator) * 1000
    return torch.randn(shape, generator=generator)


def _free_axes(spec: TensorSpec) -> dict[int, str]:
    """Dimensions of the graph that keep a name."""
    names = {0: "rows"}
    for index, dim in enumerate(spec.dims, 1):
        match dim:
            case Linear(name):
                names[index] = f"{name}_out"
            case Product(factors):
                names[index] = "_by_".join(factors)
            case str():
                names[index] = dim
    return names
