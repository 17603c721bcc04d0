"""Writes into views: the labels of a view that was written are also those of the tensor that it is a view of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from secateurs.graph.labels import ANY, FIXED
from secateurs.graph.rules.joining import ANYTHING, dense
from secateurs.graph.rules.reorder import order_of
from secateurs.graph.rules.reshape import segments
from secateurs.graph.rules.slicing import bounds

if TYPE_CHECKING:
    from torch import Tensor

    from secateurs.graph.labels import Lab
    from secateurs.graph.propagate import Op, Propagation

aten = torch.ops.aten


_SPLITS = frozenset({"split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk"})


def write_through(p: Propagation, tensor: Tensor) -> None:
    """Carry the labels of a view that was written back to the tensor that it is a view of."""
    op, base = p.parents[id(tensor)]
    lab, old = p.get(tensor), p.get(base)
    here = p.op
    axes = _undo(p, op, tensor, lab, old, base)
    p.op = here
    if all(a is b for a, b in zip(axes, old.axes, strict=True)) and lab.zero == old.zero:
        return
    p.set(base, tuple(axes), zero=lab.zero and old.zero)
    if id(base) in p.parents:
        write_through(p, base)


def silence_through(p: Propagation, tensor: Tensor, *, zero: bool) -> None:
    """Clear the mark "exactly 0 for zeroed units" of a view's base after a write that keeps the labels."""
    while id(tensor) in p.parents and not zero:
        _, tensor = p.parents[id(tensor)]
        p.set(tensor, p.get(tensor).axes, zero=False)


def _undo(p: Propagation, op: Op, tensor: Tensor, lab: Lab, old: Lab, base: Tensor) -> list[Any]:
    """The base's axes after its view became `lab`."""
    axes = list(old.axes)
    part = _part(op, base, tensor)
    if part is not None:
        dim, where = part
        view = list(lab.axes) if isinstance(where, slice) else [*lab.axes[:dim], None, *lab.axes[dim:]]
        for d, axis in enumerate(view):
            if d == dim and (not isinstance(where, slice) or tensor.shape[d] != base.shape[d]):
                axes[d] = _patched(p, where, axes[d], axis, base.shape[d])
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
    if op.func in (aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default):
        found = _regrouped_back(lab, axes, tuple(tensor.shape), tuple(base.shape))
        if found is not None:
            return found
    if any(isinstance(a, np.ndarray) for a in lab.axes) and any(
        a is not b for a, b in zip(lab.axes, old.axes, strict=False)
    ):
        p.guard_all(base, "it is written through a view")
        for axis in lab.axes:
            p.guard(axis, "it is written through a view")
        return [None] * len(axes)
    return axes


def _part(op: Op, base: Tensor, view: Tensor) -> tuple[int, slice | int] | None:
    """Along which dimension a view takes which indices of its base; None for other views."""
    if op.func is aten.select.int:
        _, dim, index = op.args
        return int(dim) % base.dim(), int(index)
    if op.func is aten.slice.Tensor:
        dim = int(op.args[1] if len(op.args) > 1 else 0) % base.dim()
        start, stop, step = bounds(op, base.shape[dim])
        return dim, slice(start, stop, step)
    if op.func.overloadpacket.__name__ in _SPLITS:
        dim = int(op.args[2] if len(op.args) > 2 else op.kwargs.get("dim", 0)) % base.dim()
        number = next(k for k, piece in enumerate(op.out) if piece is view)
        start = sum(piece.shape[dim] for piece in op.out[:number])
        return dim, slice(start, start + view.shape[dim], 1)
    return None


def _regrouped_back(lab: Lab, axes: list[Any], shape: tuple[int, ...], base: tuple[int, ...]) -> list[Any] | None:
    """Through a view that leaves the labelled dimensions alone; None where it does not."""
    for left, right in segments(shape, base):
        wide, open_ = [i for i in left if shape[i] != 1], [j for j in right if base[j] != 1]
        if len(wide) == len(open_) == 1:
            axes[open_[0]] = lab.axes[wide[0]]
        elif any(isinstance(lab.axes[i], np.ndarray) for i in left):
            return None
        else:
            for j in open_:
                axes[j] = ANY if wide and all(lab.axes[i] is ANY for i in wide) else None
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


def _patched(p: Propagation, where: slice | int, base_axis: Any, axis: Any, size: int) -> Any:
    """One dimension of the base after some of its indices were written."""
    if base_axis is None and not isinstance(axis, np.ndarray):
        return None
    labels = dense(p, base_axis, size).copy()
    if isinstance(where, int):
        labels[where] = FIXED
    else:
        part = labels[where]
        new = dense(p, axis, part.size)
        labels[where] = np.where(
            part == ANYTHING, new, p.meet(part, new) if (part >= 0).any() else np.where(new == ANYTHING, part, new)
        )
    return labels if (labels >= 0).any() or (labels == ANYTHING).any() else None
