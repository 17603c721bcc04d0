"""Layout operators: they move labels exactly as they move elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from secateurs.graph.labels import ANY, Lab
from secateurs.graph.rules.table import rule

if TYPE_CHECKING:
    from secateurs.graph.propagate import Op, Propagation

aten = torch.ops.aten


@rule(
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.numpy_T.default,
    aten.swapaxes.default,
    aten.movedim.int,
)
def permute(p: Propagation, op: Op) -> None:
    """Permute dimensions."""
    x = op.args[0]
    lab = p.get(x)
    p.set(op.out, tuple(lab.axes[d] for d in order_of(op, x.dim())), zero=lab.zero)
    p.alias(op.out, x)


def order_of(op: Op, n: int) -> list[int]:
    """Return, for each dimension of the result, the dimension of the argument (of `n`) that it comes from."""
    if op.func is aten.permute.default:
        return [d % n for d in op.args[1]]
    order = list(range(n))
    a, b = (op.args[1:3] if op.func is aten.transpose.int else (0, 1)) if n > 1 else (0, 0)
    order[a], order[b] = order[b], order[a]
    return order


@rule(aten.unsqueeze.default)
def unsqueeze(p: Propagation, op: Op) -> None:
    """Insert a dimension of size 1."""
    x, dim = op.args
    lab = p.get(x)
    axes = list(lab.axes)
    axes.insert(dim % (x.dim() + 1), None)
    p.set(op.out, tuple(axes), zero=lab.zero)
    p.alias(op.out, x)


@rule(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default)
def squeeze(p: Propagation, op: Op) -> None:
    """Remove dimensions of size 1."""
    x = op.args[0]
    n = x.dim()
    dims = range(n) if len(op.args) == 1 else [op.args[1]] if isinstance(op.args[1], int) else op.args[1]
    gone = {d % n for d in dims if n and x.shape[d] == 1}
    lab = p.get(x)
    for d in gone:
        if p.check and isinstance(lab.axes[d], np.ndarray):
            p.fail("a dimension whose units can be removed is squeezed away")
    p.set(op.out, tuple(a for d, a in enumerate(lab.axes) if d not in gone), zero=lab.zero)
    p.alias(op.out, x)


@rule(aten.expand.default)
def expand(p: Propagation, op: Op) -> None:
    """Repeat a dimension of size 1 without copying: it is constant there, and can be joined with any labels."""
    x, out = op.args[0], op.out
    lab = p.get(x)
    new = out.dim() - x.dim()
    axes: list[Any] = []
    for d, n in enumerate(out.shape):
        old = lab.axes[d - new] if d >= new else None
        stretched = d < new or x.shape[d - new] != n
        axes.append(ANY if stretched and n > 1 else old)
    p.set(out, tuple(axes), zero=lab.zero)


@rule(aten.flip.default)
def flip(p: Propagation, op: Op) -> None:
    """Reverse indices: the labels are reversed too."""
    x, dims = op.args
    lab = p.get(x)
    axes = [p.fresh(a) for a in lab.axes]
    for d in dims:
        if isinstance(axes[d], np.ndarray):
            axes[d] = np.ascontiguousarray(axes[d][::-1])
    p.set(op.out, tuple(axes), zero=lab.zero)


@rule(aten.roll.default)
def roll(p: Propagation, op: Op) -> None:
    """Shift indices cyclically."""
    x, shifts = op.args[:2]
    dims = op.args[2] if len(op.args) > 2 else []
    lab = p.get(x)
    axes = [p.fresh(a) for a in lab.axes]
    if not dims:
        p.guard_all(x, "all dimensions are rolled as one")
        axes = [None] * len(axes)
    for shift, d in zip(shifts, dims, strict=False):
        labels = axes[d]
        if isinstance(labels, np.ndarray):
            turned = shift % labels.size
            # Entries that wrap around are determined by their number, so that they must stay: the shorter of both ends.
            around = labels[labels.size - turned :] if 2 * turned <= labels.size else labels[: labels.size - turned]
            p.guard(around, "it is rolled around the end of its dimension by position")
            axes[d] = np.roll(labels, shift)
    p.set(op.out, tuple(axes), zero=lab.zero)


@rule(aten.repeat.default)
def repeat(p: Propagation, op: Op) -> None:
    """Repeat the whole tensor along each dimension."""
    x, times = op.args
    lab = p.get(x)
    new = op.out.dim() - x.dim()
    axes: list[Any] = []
    for d, n in enumerate(op.out.shape):
        axis = p.fresh(lab.axes[d - new]) if d >= new else None
        size = x.shape[d - new] if d >= new else 1
        if isinstance(axis, np.ndarray):
            axes.append(np.tile(axis, times[d]) if times[d] > 1 else axis)
        else:
            axes.append(ANY if n > 1 and (axis is ANY or size == 1) else None)
    p.set(op.out, tuple(axes), zero=lab.zero)


@rule(aten.unfold.default)
def unfold(p: Propagation, op: Op) -> None:
    """Sliding windows along one dimension, appended as a new last dimension."""
    x, dim = op.args[:2]
    lab = p.get(x)
    dim %= x.dim()
    p.guard(lab.axes[dim], "a window slides along the units")
    axes = [None if d == dim else a for d, a in enumerate(lab.axes)]
    p.set(op.out, (*axes, None), zero=lab.zero)


@rule(
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh.default,
    aten.view_as_real.default,
    aten.view_as_complex.default,
)
def alias(p: Propagation, op: Op) -> None:
    """The same elements under another name."""
    lab = p.get(op.args[0])
    axes = lab.axes
    if op.out.dim() != len(axes):
        p.guard(axes[-1] if op.out.dim() < len(axes) else None, "the units are parts of complex numbers")
        axes = axes[:-1] if op.out.dim() < len(axes) else (*axes, None)
    p.labs[id(op.out)] = Lab(axes, zero=lab.zero)
    p.alias(op.out, op.args[0])


@rule(aten.as_strided.default, aten.as_strided_.default)
def as_strided(p: Propagation, op: Op) -> None:
    """Another memory layout of the same shape keeps its labels; any other regrouping of memory protects them."""
    x, shape = op.args[:2]
    lab = p.get(x)
    same = len(shape) == len(lab.axes) and all(
        not isinstance(a, np.ndarray) or a.size == n for a, n in zip(lab.axes, shape, strict=True)
    )
    axes = lab.axes
    if not same:
        p.guard_all(x, "its memory is regrouped")
        axes = (None,) * len(shape)
    p.set(op.out, axes, zero=lab.zero)
