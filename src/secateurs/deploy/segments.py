"""Segments: a convolution or matrix product together with the operators that runtimes fuse into its kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.deploy.device import Device
from secateurs.deploy.runtimes import Program, onnx_program, openvino_program
from secateurs.graph import Graph
from secateurs.running.hooks import hooked
from secateurs.running.nested import as_call
from secateurs.running.untouched import untouched
from secateurs.types import Ints

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
KERNELS = {
    *("conv", "gemm", "convolution", "groupconvolution", "fullyconnected", "matmul", "fusedconv", "fusedgemm"),
    *("fully connected", "batch matrix multiply"),
}
"""Node types that execute a segment, as the runtimes call them; layout conversions are not counted."""


@final
@dataclass(frozen=True)
class Segment:
    """One convolution or matrix product: channels in and out, groups, and everything else that its time depends on.

    size: rows and columns of the input (of a matrix product: rows). depthwise: every channel is its own group.
    """

    cin: int
    cout: int
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    batch: int = 1

    @property
    def family(self) -> str:
        """All settings but the widths, as the key of a table.

        >>> Segment(8, 16, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1)).family
        'conv 3x3 stride 1x1 padding 1x1 dilation 1x1 on 1x14x14'
        """
        size = "x".join(map(str, (self.batch, *self.size)))
        if not self.kernel:
            return f"matmul on {size}"
        words = [f"{name} {'x'.join(map(str, getattr(self, name)))}" for name in ("stride", "padding", "dilation")]
        kind = "depthwise" if self.depthwise else "conv" if self.groups == 1 else f"conv in {self.groups} groups"
        return " ".join([kind, "x".join(map(str, self.kernel)), *words, "on", size])

    @property
    def depthwise(self) -> bool:
        """True if every channel is a group of its own."""
        return self.groups > 1 and self.groups == self.cin

    def at(self, cin: int, cout: int) -> Segment:
        """Return the segment with other widths."""
        groups = cin if self.depthwise else self.groups
        return replace(self, cin=cin, cout=cin if self.depthwise else cout, groups=groups)

    def module(self) -> nn.Module:
        """Return a layer of this kind, in eval mode."""
        if not self.kernel:
            return nn.Linear(self.cin, self.cout).eval()
        kind: Any = CONVOLUTIONS[len(self.kernel)]  # each class takes tuples of another length
        made: nn.Module = kind(self.cin, self.cout, self.kernel, self.stride, self.padding, self.dilation, self.groups)
        return made.eval()

    def example(self) -> Tensor:
        """Return an input for it."""
        return torch.zeros(self.batch, self.cin, *self.size) if self.kernel else torch.zeros(*self.size, self.cin)

    def program(self, device: Device) -> Program:
        """Compile it for a device; for ONNX runtimes as a single node, without torch's exporter."""
        load = {"onnxruntime": onnx_program, "openvino": openvino_program}.get(device.runtime)
        if load is None:
            return device.compile(self.module(), self.example())
        return load(self._onnx(), ((self.example(),), {}), device.setting)

    def _onnx(self) -> Any:
        from onnx import TensorProto, helper, numpy_helper

        module = self.module()
        weights = [
            numpy_helper.from_array(np.ascontiguousarray(value.detach().numpy()), name)
            for name, value in module.named_parameters()
        ]
        if self.kernel:
            node = helper.make_node(
                "Conv",
                ["x", "weight", "bias"],
                ["y"],
                kernel_shape=self.kernel,
                strides=self.stride,
                pads=[*self.padding, *self.padding],
                dilations=self.dilation,
                group=self.groups,
            )
        else:
            node = helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], transB=1)
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(self.example().shape))
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph([node], "segment", [x], [y], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@final
class Abreast(nn.Module):
    """Layers of many segments in one network, each with an input and an output of its own."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        """Make the layers."""
        super().__init__()
        self.layers = nn.ModuleList(segment.module() for segment in segments)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run each layer on its own input."""
        return tuple(layer(x) for layer, x in zip(self.layers, inputs, strict=True))


@final
@dataclass(frozen=True, eq=False)
class Placed:
    """A segment of a network: its module, and its widths as linear functions of the groups' widths.

    cin = inward[-1] + inward[:-1] · widths, and cout alike.
    """

    module: str
    segment: Segment
    inward: Ints
    outward: Ints

    def widths(self, widths: Ints) -> tuple[Ints, Ints]:
        """(cin, cout) for units kept per group [..., G]."""
        kept = np.asarray(widths, np.int64)
        return kept @ self.inward[:-1] + self.inward[-1], kept @ self.outward[:-1] + self.outward[-1]


def find_segments(graph: Graph, model: nn.Module, example_inputs: Any) -> tuple[Placed, ...]:
    """Return every convolution and linear layer that runs on the example inputs, in order of execution."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    kinds = (nn.Linear, *CONVOLUTIONS.values())
    args, kwargs = as_call(example_inputs)

    def watch(name: str) -> Any:
        def see(x: Tensor) -> Tensor:
            shapes.setdefault(name, []).append(tuple(x.shape))
            return x

        return see

    layers = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    with untouched(model) as stack, torch.no_grad():
        for name in layers:
            stack.enter_context(hooked(model, (name, "input"), watch(name)))
        model(*args, **kwargs)
    found: list[Placed] = []
    for name, calls in shapes.items():
        inward, outward = _links(graph, name, layers[name])
        found += [Placed(name, _segment(layers[name], shape), inward, outward) for shape in calls]
    return tuple(found)


def _segment(layer: nn.Module, shape: tuple[int, ...]) -> Segment:
    if isinstance(layer, nn.Linear):
        return Segment(layer.in_features, layer.out_features, (int(np.prod(shape[:-1])),))
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))  # noqa: S101 (the only other kinds that are found)
    dims = len(layer.kernel_size)
    kernel, stride, dilation = (tuple(v) for v in (layer.kernel_size, layer.stride, layer.dilation))
    padding = (
        tuple(int(p) for p in layer.padding)
        if not isinstance(layer.padding, str)
        else tuple(d * (k - 1) // 2 if layer.padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True))
    )
    batch = shape[0] if len(shape) == dims + 2 else 1
    size = shape[-dims:]
    return Segment(layer.in_channels, layer.out_channels, size, kernel, stride, padding, dilation, layer.groups, batch)


def _links(graph: Graph, name: str, layer: nn.Module) -> tuple[Ints, Ints]:
    """Return the input and output channels per unit of each group, and (last) those that belong to no group."""
    links = np.zeros((2, len(graph.groups) + 1), np.int64)
    weight = f"{name}.weight"
    grouped = getattr(layer, "groups", 1)
    for g, group in enumerate(graph.groups):
        for s in group.slices:
            if s.tensor == weight and s.dim in (0, 1):
                links[1 - s.dim, g] += s.index.shape[1]
    # A grouped convolution's weight has the inputs of one group only, so that its inputs follow from its outputs.
    if grouped > 1:
        links[0] = links[1] * _width(layer, "in") // _width(layer, "out")
    whole = graph.widths
    links[0, -1] = _width(layer, "in") - whole @ links[0, :-1]
    links[1, -1] = _width(layer, "out") - whole @ links[1, :-1]
    return links[0], links[1]


def _width(layer: nn.Module, side: str) -> int:
    """Input ("in") or output ("out") channels of a convolution, features of a linear layer."""
    return int(getattr(layer, f"{side}_channels", 0) or getattr(layer, f"{side}_features"))
