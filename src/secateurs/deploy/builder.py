"""Build runnable programs of pruned versions of one network: export it once, then exchange only its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from torch import nn

from secateurs.deploy.device import Device
from secateurs.deploy.onnx_form import to_onnx
from secateurs.deploy.runtimes import Program, onnx_program, openvino_program, prepared
from secateurs.running.compare import output_of, relative_error

CLOSE = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 1e-1}
"""Largest difference allowed between outputs of the exported and the eager network, relative to the largest."""


@final
class Builder:
    """Builds programs of a dense network and of pruned versions of it, for one device.

    Runtimes that read ONNX need an export, which takes seconds. A pruned network has the nodes of the dense one with
    smaller tensors, so its tensors are put into the dense export. If the outputs then differ from those of the pruned
    network (a width was exported as a constant), it is exported by itself.
    """

    def __init__(self, device: Device, model: nn.Module, example_inputs: Any) -> None:
        """Export the dense network, if the runtime needs it."""
        self.device = device
        self._example, self._call = example_inputs, device.inputs(example_inputs)
        self._load = {"onnxruntime": onnx_program, "openvino": openvino_program}.get(device.runtime)
        self._dense: Any = None
        self.exports = 0
        if self._load:
            self._dense = self._export(model)

    def program(self, model: nn.Module) -> Program:
        """Return a program of the dense network or of a pruned version of it."""
        if self._load is None:
            return self.device.compile(model, self._example)
        copy, call = prepared(model, self._call, self.device.setting, "cpu")
        with self.device.running():
            expected = output_of(copy, call)
            if program := self._tried(exchanged(self._dense, copy), call, expected):
                return program
            self.exports += 1
            return self._load(to_onnx(copy, call), call, self.device.setting)

    def _export(self, model: nn.Module) -> Any:
        self.exports += 1
        copy, call = prepared(model, self._call, self.device.setting, "cpu")
        return to_onnx(copy, call, optimize=False)

    def _tried(self, swapped: Any, call: Any, expected: Any) -> Program | None:
        """Return the program of an exchanged model, or None if its outputs are not those of the eager network."""
        assert self._load is not None  # noqa: S101 (for the type checker: only called where there is one)
        import onnxscript

        try:
            optimised = onnxscript.optimizer.optimize(swapped)
            program = self._load(optimised, call, self.device.setting)
            found = program.outputs()
        except Exception:  # noqa: BLE001 (whatever does not fit together is exported in full instead)
            return None
        return program if relative_error(found, expected) <= CLOSE[self.device.dtype] else None


def exchanged(dense: Any, model: nn.Module) -> Any:
    """Return a copy of an ONNX model with the tensors and group counts of a module."""
    import onnx

    tensors: Mapping[str, Any] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    modules = dict(model.named_modules())
    copy = onnx.ModelProto()
    copy.CopyFrom(dense)
    for initialiser in copy.graph.initializer:
        tensor = tensors.get(initialiser.name)
        if tensor is not None and list(initialiser.dims) != list(tensor.shape):
            array = np.ascontiguousarray(tensor.detach().cpu().numpy())
            initialiser.CopyFrom(onnx.numpy_helper.from_array(array, initialiser.name))
    for node in copy.graph.node:
        owner = modules.get(node.input[1].rpartition(".")[0]) if len(node.input) > 1 else None
        for attribute in node.attribute:
            if attribute.name == "group" and isinstance(getattr(owner, "groups", None), int):
                attribute.i = owner.groups  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    _free_channels(copy.graph)
    del copy.graph.value_info[:]
    return copy


def _free_channels(graph: Any) -> None:
    """Set dimension 1 of constant Reshape targets to -1 (inferred): after a flatten it counts channels."""
    import onnx

    makers = {output: node for node in graph.node for output in node.output}
    initialisers = {i.name: i for i in graph.initializer}
    for place, node in enumerate(graph.node):
        sizes = _constant(node.input[1], makers, initialisers) if node.op_type == "Reshape" else None
        if sizes is not None and len(sizes) > 1 and min(sizes) > 0:
            name = f"free_channels_{place}"
            target = np.array([sizes[0], -1, *sizes[2:]], np.int64)
            graph.initializer.append(onnx.numpy_helper.from_array(target, name))
            node.input[1] = name


def _constant(name: str, makers: Mapping[str, Any], initialisers: Mapping[str, Any]) -> list[int] | None:
    """Return the integers of a constant value: an initialiser, a Constant, or a Concat of these; else None."""
    import onnx

    if name in initialisers:
        return onnx.numpy_helper.to_array(initialisers[name]).ravel().tolist()
    node = makers.get(name)
    if node is not None and node.op_type == "Constant":
        value = onnx.helper.get_attribute_value(node.attribute[0])
        array = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.array(value)
        return array.ravel().tolist()
    if node is not None and node.op_type == "Concat":
        parts = [_constant(part, makers, initialisers) for part in node.input]
        return None if None in parts else [size for part in parts if part is not None for size in part]
    return None
