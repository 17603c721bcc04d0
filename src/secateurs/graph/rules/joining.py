"""Concatenation, stacking and padding: dimensions put together from pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from secateurs.graph.labels import ANY, FIXED, Fresh, Lab
from secateurs.graph.rules.table import rule

if TYPE_CHECKING:
    from torch import Tensor

    from secateurs.graph.labels import Labels
    from secateurs.graph.propagate import Op, Propagation

aten = torch.ops.aten
ANYTHING = -2


def dense(p: Propagation, axis: Any, size: int) -> Labels:
    """An axis as an array, whatever it is."""
    axis = p.fresh(axis)
    if isinstance(axis, np.ndarray):
        return axis
    return np.full(size, ANYTHING if axis is ANY else FIXED, dtype=np.int64)


@rule(aten.cat.default)
def cat(p: Propagation, op: Op) -> None:
    """Tensors one after the other along one dimension."""
    parts = [t for t in op.args[0] if t.dim() == op.out.dim()]
    dim = (op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", 0)) % op.out.dim()
    labs = [p.get(t) for t in parts]
    axes: list[Any] = []
    for d, n in enumerate(op.out.shape):
        if d == dim:
            axes.append(_joined(p, parts, labs, d))
            continue
        met: Any = ANY if n > 1 else labs[0].axes[d]
        for lab in labs:
            met = p.meet(met, lab.axes[d]) if n > 1 or isinstance(lab.axes[d], np.ndarray) else met
        axes.append(met)
    p.set(op.out, tuple(axes), zero=all(lab.zero for lab in labs))


def _joined(p: Propagation, parts: list[Tensor], labs: list[Lab], d: int) -> Any:
    pieces = [p.settle(lab.axes[d]) for lab in labs]
    if not any(isinstance(a, (np.ndarray, Fresh)) for a in pieces):
        return ANY if all(a is ANY for a in pieces) else None
    return np.concatenate([dense(p, a, t.shape[d]) for a, t in zip(pieces, parts, strict=True)])


@rule(aten.stack.default)
def stack(p: Propagation, op: Op) -> None:
    """Tensors of one shape along a new dimension."""
    parts, *rest = op.args
    dim = (rest[0] if rest else op.kwargs.get("dim", 0)) % op.out.dim()
    labs = [p.get(t) for t in parts]
    axes: list[Any] = []
    for d, n in enumerate(parts[0].shape):
        met: Any = ANY if n > 1 else labs[0].axes[d]
        for lab in labs:
            met = p.meet(met, lab.axes[d]) if n > 1 else met
        axes.append(met)
    axes.insert(int(dim), None)
    p.set(op.out, tuple(axes), zero=all(lab.zero for lab in labs))


@rule(aten.constant_pad_nd.default)
def constant_pad(p: Propagation, op: Op) -> None:
    """Constant entries before and after; a negative pad cuts."""
    x, pads = op.args[:2]
    value = op.args[2] if len(op.args) > 2 else 0
    lab = p.get(x)
    axes = [p.fresh(a) for a in lab.axes]
    for k in range(len(pads) // 2):
        d, before, after = x.dim() - 1 - k, pads[2 * k], pads[2 * k + 1]
        if isinstance(axes[d], np.ndarray) and (before or after):
            body = axes[d][max(-before, 0) : axes[d].size + min(after, 0)]
            edge = [np.full(max(n, 0), FIXED, dtype=np.int64) for n in (before, after)]
            axes[d] = np.concatenate([edge[0], body, edge[1]])
        elif axes[d] is ANY and (before or after):
            axes[d] = None
    p.set(op.out, tuple(axes), zero=lab.zero and value == 0)
