"""Find the layers whose weights can be solved for, and the value at which each is compared with the dense network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.network import Network
from secateurs.recover.replay import Recording, Ref, Step
from secateurs.surgery.plan import Plan
from secateurs.surgery.tensors import select

aten = torch.ops.aten
_CONV, _LINEAR, _MM, _ADDMM = aten.convolution.default, aten.linear.default, aten.mm.default, aten.addmm.default
_VIEWS = {
    aten.t.default, aten.transpose.int, aten.permute.default, aten.view.default, aten._unsafe_view.default,  # noqa: SLF001
    aten.slice.Tensor, aten.split.Tensor, aten.split_with_sizes.default, aten.detach.default, aten.alias.default,
    aten.select.int, aten.unsqueeze.default, aten.squeeze.dim,
}  # fmt: skip
_SAME_ROWS = {aten.view.default, aten._unsafe_view.default, aten.detach.default, aten.alias.default}  # noqa: SLF001
_ADDS = {aten.add.Tensor, aten.add_.Tensor}
_MULS = {aten.mul.Tensor, aten.mul_.Tensor}
_NORMS = {
    aten.native_batch_norm.default, aten._native_batch_norm_legit_no_training.default,  # noqa: SLF001
    aten._native_batch_norm_legit.default, aten.cudnn_batch_norm.default, aten.miopen_batch_norm.default,  # noqa: SLF001
}  # fmt: skip
_CLAMPS = {aten.relu.default: (0.0, None), aten.relu_.default: (0.0, None)}
_HARDTANH = {aten.hardtanh.default, aten.hardtanh_.default}


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or linear layer whose weight is a parameter that no other operator reads.

    at: its step; x: its input value; name: its parameter. place, made: the value that is compared, after norms and
    sums, and the step that computes it. axis: the channel dimension of that value. clamp: the range of a following
    activation. keep: the dense layer's outputs that remain. factors: steps and values that scale the output up to
    `place`.
    """

    name: str
    at: int
    x: int
    weight: int
    place: int
    made: int
    axis: int
    keep: Tensor
    clamp: tuple[float | None, float | None] | None
    factors: tuple[tuple[int, int | None], ...]
    bias: tuple[int, int] | None


def find_layers(recording: Recording, dense: Recording, model: nn.Module, plan: Plan) -> list[Layer]:
    """Return the solvable layers of the small network, in order of execution."""
    # the first name of a tied parameter, as plans have it
    names = {id(t): n for n, t in Network.of(model).tensors.items() if isinstance(t, nn.Parameter)}
    found: list[Layer] = []
    for at, step in enumerate(recording.steps):
        operands = _operands(step)
        if operands is None:
            continue
        x, weight, bias = operands
        root = root_of(recording, weight)
        name = names.get(id(recording.outside.get(root))) if root is not None else None
        if root is None or name is None or not recording.outside[root].is_floating_point():
            continue
        keep = _kept_outputs(recording, dense, at, weight, root, plan.dims(name))
        if keep is not None:
            found.append(_placed(recording, at, x, weight, bias, name, keep))
    return found


def _operands(step: Step) -> tuple[int, int, int | None] | None:
    """Return the value numbers of input, weight and bias of a layer's operator."""
    args: tuple[Any, ...] = step.args
    if step.func in (_CONV, _LINEAR):
        x, weight, bias = args[0], args[1], args[2] if len(args) > 2 else None
    elif step.func is _MM:
        (x, weight), bias = args[:2], None
    elif step.func is _ADDMM:
        bias, x, weight = args[:3]
    else:
        return None
    return x.value, weight.value, bias.value if isinstance(bias, Ref) else None


def root_of(recording: Recording, value: int) -> int | None:
    """Return the parameter or input that a value is a view of, if no other operator reads it on the way."""
    while value not in recording.outside:
        made = recording.made_by.get(value)
        if made is None or recording.steps[made].func not in _VIEWS or len(recording.used_by.get(value, ())) != 1:
            return None
        value = recording.steps[made].reads[0]
    return value if len(recording.used_by[value]) == 1 else None


def follow(recording: Recording, value: int, base: Tensor) -> Tensor:
    """Apply the views between a root and a value to another tensor of the root's shape."""
    if value in recording.outside:
        return base
    step = recording.steps[recording.made_by[value]]
    inner = follow(recording, step.reads[0], base)
    return step.run({step.reads[0]: inner})[step.outs.index(value)]


def matrix(step: Step, weight: Tensor) -> Tensor:
    """Return the weight as a view [groups, outputs, columns]; columns are input channels × kernel positions."""
    if step.func is _CONV:
        transposed, groups = step.args[6], step.args[8]
        if transposed:  # [in, out / groups, *kernel]
            split = weight.unflatten(0, (groups, -1)).transpose(1, 2)
            return split.reshape(groups, split.shape[1], -1)
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    return (weight if step.func is _LINEAR else weight.t())[None]


def add_to(step: Step, weight: Tensor, delta: Tensor) -> None:
    """Add [groups, outputs, columns] to a weight, in place."""
    if step.func is _CONV and step.args[6]:
        groups = step.args[8]
        change = delta.unflatten(2, (weight.shape[0] // groups, -1)).transpose(1, 2)
        weight.add_(change.reshape(weight.shape).to(weight.dtype))
    elif step.func is _CONV:
        weight.add_(delta.reshape(weight.shape).to(weight.dtype))
    else:
        (weight if step.func is _LINEAR else weight.t()).add_(delta[0].to(weight.dtype))


def _kept_outputs(
    recording: Recording, dense: Recording, at: int, weight: int, root: int, dims: Mapping[int, Any]
) -> Tensor | None:
    """Return the outputs of the dense layer that the small one still has, from the labels of its weight's entries."""
    whole = dense.outside.get(root)
    if whole is None:
        return None
    labels = torch.arange(whole.numel()).view(whole.shape)
    left = select(labels, dims) if dims else labels
    before = matrix(dense.steps[at], follow(dense, weight, labels))
    after = matrix(recording.steps[at], follow(recording, weight, left))
    position = torch.full((whole.numel(),), -1)
    position[before.flatten()] = torch.arange(before.numel())
    rows = position[after] // before.shape[2]
    return rows[:, :, 0].flatten() if bool((rows == rows[:, :, :1]).all()) else None


def _placed(recording: Recording, at: int, x: int, weight: int, bias: int | None, name: str, keep: Tensor) -> Layer:
    """Follow the output through norms, scales and sums, as long as no other operator reads it."""
    conv = recording.steps[at].func is _CONV
    axis = 1 if conv else -1
    value, made = recording.steps[at].outs[0], at
    factors: list[tuple[int, int | None]] = []
    home = None if bias is None or root_of(recording, bias) is None else (bias, 0)
    while True:
        users = recording.used_by.get(value, [])
        if len(users) != 1 or value in recording.outputs:
            break
        step = recording.steps[users[0]]
        factor = _factor(recording, step, value, axis, conv=conv)
        if factor is _STOP:
            break
        if factor is not None:
            factors.append((users[0], factor))
            if step.func in _NORMS and home is None and isinstance(step.args[2], Ref):
                shift = step.args[2].value
                home = (shift, len(factors)) if root_of(recording, shift) is not None else None
        value, made = step.outs[0], users[0]
    clamp = _clamp(recording, value)
    return Layer(name, at, x, weight, value, made, axis, keep, clamp, tuple(factors), home)


_STOP = -2


def _factor(recording: Recording, step: Step, value: int, axis: int, *, conv: bool) -> int | None:
    """Classify an operator after a layer: -1 for a norm, a number that scales it, None for no change, or `_STOP`."""
    args = step.args
    if step.func in _NORMS and step.reads[0] == value and not (len(args) == 8 and args[5] is True):
        return -1
    same = recording.shapes[step.outs[0]] == recording.shapes[value]
    if step.func in _ADDS and same and step.kwargs.get("alpha", 1) == 1:
        return None
    if step.func in _SAME_ROWS and (same or (not conv and _last(recording, step.outs[0]) == _last(recording, value))):
        return None
    if step.func in _MULS and same and isinstance(args[1], Ref) and args[1].value in recording.outside:
        shape = recording.shapes[args[1].value]
        full = (1,) * (len(recording.shapes[value]) - len(shape)) + shape
        if all(size == 1 for d, size in enumerate(full) if d != axis % len(full)):
            return args[1].value
    return _STOP


def _last(recording: Recording, value: int) -> int:
    return recording.shapes[value][-1]


def _clamp(recording: Recording, value: int) -> tuple[float | None, float | None] | None:
    """Return the range to which the only reader of a value clamps it, or None."""
    users = recording.used_by.get(value, [])
    if len(users) != 1 or value in recording.outputs:
        return None
    step = recording.steps[users[0]]
    if step.func in _HARDTANH:
        low, high = (*step.args[1:], *(-1.0, 1.0)[len(step.args) - 1 :])[:2]
        return float(low), float(high)
    return _CLAMPS.get(step.func)


def scale_of(layer: Layer, recording: Recording, upto: int | None = None) -> Tensor:
    """Return the factor from the layer's output to the place where it is compared, [outputs] in float64."""
    total = torch.ones(len(layer.keep), dtype=torch.float64)
    for at, value in layer.factors[:upto]:
        step = recording.steps[at]
        if value is not None and value >= 0:
            total = total * recording.outside[value].detach().double().cpu().flatten()
            continue
        args = step.args
        scale = (recording.outside[args[4].value].detach().double().cpu() + args[-1]).rsqrt()
        gamma = recording.outside[args[1].value].detach().double().cpu() if isinstance(args[1], Ref) else 1.0
        total = total * scale * gamma
    return total
