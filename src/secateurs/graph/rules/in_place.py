"""Writes into views: what a view was given, the tensor that it is a view of has too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from secateurs.graph.labels import ANY, FIXED
from secateurs.graph.rules.joining import ANYTHING, dense
from secateurs.graph.rules.reorder import order_of
from secateurs.graph.rules.slicing import bounds

if TYPE_CHECKING:
    from torch import Tensor

    from secateurs.graph.labels import Lab
    from secateurs.graph.propagate import Op, Propagation

aten = torch.ops.aten


def write_through(p: Propagation, tensor: Tensor) -> None:
    """A view was written: carry its labels back to the tensor that it is a view of."""
    op, base = p.parents[id(tensor)]
    lab, old = p.get(tensor), p.get(base)
    here = p.op
    axes = _undo(p, op, lab, old, base)
    p.op = here
    if all(a is b for a, b in zip(axes, old.axes, strict=True)) and lab.zero == old.zero:
        return
    p.set(base, tuple(axes), zero=lab.zero and old.zero)
    if id(base) in p.parents:
        write_through(p, base)


def _undo(p: Propagation, op: Op, lab: Lab, old: Lab, base: Tensor) -> list[Any]:
    """The base's axes after its view became `lab`."""
    axes = list(old.axes)
    if op.func in (aten.slice.Tensor, aten.select.int):
        dim = (op.args[1] if len(op.args) > 1 else 0) % base.dim()
        view = list(lab.axes) if op.func is aten.slice.Tensor else [*lab.axes[:dim], None, *lab.axes[dim:]]
        for d, axis in enumerate(view):
            if d == dim and not (op.func is aten.slice.Tensor and op.out.shape[d] == base.shape[d]):
                axes[d] = _patched(p, op, axes[d], axis, base.shape[d])
            elif axes[d] is ANY:
                axes[d] = p.fresh(axis)
            elif axis is not axes[d] and axis is not ANY:
                axes[d] = p.meet(axes[d], axis) if base.shape[d] > 1 else axes[d]
        return axes
    if op.func in (
        aten.permute.default,
        aten.transpose.int,
        aten.t.default,
        aten.unsqueeze.default,
        aten.alias.default,
        aten.detach.default,
    ):
        return _moved_back(op, lab, axes)
    if any(isinstance(a, np.ndarray) for a in lab.axes) and any(
        a is not b for a, b in zip(lab.axes, old.axes, strict=False)
    ):
        p.guard_all(base, "it is written through a view")
        for axis in lab.axes:
            p.guard(axis, "it is written through a view")
        return [None] * len(axes)
    return axes


def _moved_back(op: Op, lab: Lab, axes: list[Any]) -> list[Any]:
    n = len(axes)
    if op.func is aten.unsqueeze.default:
        dim = op.args[1] % (n + 1)
        return [a for d, a in enumerate(lab.axes) if d != dim]
    if op.func in (aten.alias.default, aten.detach.default):
        return list(lab.axes)
    for d, source in enumerate(order_of(op, n)):
        axes[source] = lab.axes[d]
    return axes


def _patched(p: Propagation, op: Op, base_axis: Any, axis: Any, size: int) -> Any:
    """One dimension of the base after a run of its indices was written."""
    if base_axis is None and not isinstance(axis, np.ndarray):
        return None
    labels = dense(p, base_axis, size).copy()
    if op.func is aten.select.int:
        labels[op.args[2]] = FIXED
    else:
        start, stop, step = bounds(op, size)
        part = labels[start:stop:step]
        new = dense(p, axis, part.size)
        labels[start:stop:step] = np.where(
            part == ANYTHING, new, p.meet(part, new) if (part >= 0).any() else np.where(new == ANYTHING, part, new)
        )
    return labels if (labels >= 0).any() or (labels == ANYTHING).any() else None
