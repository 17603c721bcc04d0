"""Reductions: a sum over zeroed units is exact; a mean, a maximum or a softmax over them is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from secateurs.graph.labels import Fresh
from secateurs.graph.propagate import tensors
from secateurs.graph.rules.table import rule

if TYPE_CHECKING:
    from secateurs.graph.propagate import Op, Propagation

aten = torch.ops.aten

_SUMS = (
    aten.sum.dim_IntList,
    aten.sum.default,
    aten.linalg_vector_norm.default,
    aten.nansum.default,
    aten.norm.ScalarOpt_dim,
    aten.norm.Scalar,
    aten.count_nonzero.default,
    aten.count_nonzero.dim_IntList,
)
_OTHERS = (
    aten.mean.dim,
    aten.mean.default,
    aten.amax.default,
    aten.amin.default,
    aten.max.dim,
    aten.min.dim,
    aten.max.default,
    aten.min.default,
    aten.var.correction,
    aten.std.correction,
    aten.var_mean.correction,
    aten.std_mean.correction,
    aten.logsumexp.default,
    aten.prod.dim_int,
    aten.prod.default,
    aten.any.dim,
    aten.any.default,
    aten.all.dim,
    aten.all.default,
    aten.any.dims,
    aten.all.dims,
    aten.aminmax.default,
)


def _dims(op: Op, rank: int) -> set[int]:
    named = op.kwargs.get("dim")
    name = op.func.overloadpacket.__name__
    overload = op.func._overloadname
    if named is None and overload not in ("default", "Scalar") and len(op.args) > 1:
        named = op.args[2] if overload == "ScalarOpt_dim" else op.args[1]
    elif named is None and name in ("amax", "amin", "logsumexp") and len(op.args) > 1:
        named = op.args[1]
    elif named is None and name == "linalg_vector_norm" and len(op.args) > 2:
        named = op.args[2]
    if named is None or (isinstance(named, (list, tuple)) and not named):
        return set(range(rank))
    return {d % rank for d in ([named] if isinstance(named, int) else named)} if rank else set()


@rule(*_SUMS)
def sums(p: Propagation, op: Op) -> None:
    """Sums over dimensions: exact over units whose zeroed entries are 0."""
    _reduce(p, op, exact=p.get(op.args[0]).zero and _positive_order(op))


def _positive_order(op: Op) -> bool:
    if op.func is not aten.linalg_vector_norm.default or len(op.args) < 2:
        return True
    order = op.args[1]
    return isinstance(order, (int, float)) and order > 0


@rule(*_OTHERS)
def others(p: Propagation, op: Op) -> None:
    """Averages, extremes and products over dimensions: inexact over units."""
    _reduce(p, op, exact=False)


def _reduce(p: Propagation, op: Op, *, exact: bool) -> None:
    x = op.args[0]
    lab = p.get(x)
    gone = _dims(op, x.dim())
    picks = op.func in (aten.max.dim, aten.min.dim)
    for d in gone:
        axis = p.settle(lab.axes[d])
        if not isinstance(axis, (np.ndarray, Fresh)):
            continue
        axis = p.fresh(axis)
        if not exact:
            p.inexact(axis)
        if picks:
            _indices(p, op, axis)
    for k, out in enumerate(tensors(op.out)):
        keep = out.dim() == x.dim()
        axes = tuple(None if d in gone else a for d, a in enumerate(lab.axes) if keep or d not in gone)
        p.set(out, axes, zero=lab.zero and k == 0)


def _indices(p: Propagation, op: Op, axis: Any) -> None:
    """The positions that max and min return would change; protect the units if anything reads them."""
    positions = op.out[1]
    read = any(t is positions for later in p.tape.ops[p.index + 1 :] for t in tensors(later.args))
    if read or any(t is positions for t in p.tape.outputs):
        p.guard(axis, "positions along its dimension are used")


@rule(
    aten._softmax.default, aten._log_softmax.default, aten._safe_softmax.default, aten.softmax.int, aten.log_softmax.int
)
def softmax(p: Propagation, op: Op) -> None:
    """Normalises over one dimension: inexact over its units."""
    x, dim = op.args[:2]
    lab = p.get(x)
    axis = p.settle(lab.axes[dim])
    if isinstance(axis, (np.ndarray, Fresh)):
        p.inexact(p.fresh(axis))
    p.set(op.out, lab.axes, zero=False)


@rule(aten.cumsum.default, aten.cumprod.default, aten.logcumsumexp.default)
def cumulative(p: Propagation, op: Op) -> None:
    """A running sum: the entry of a zeroed unit is the sum so far, so that only later entries are exact."""
    lab = p.get(op.args[0])
    dim = op.args[1]
    axis = p.settle(lab.axes[dim])
    if isinstance(axis, (np.ndarray, Fresh)) and not (lab.zero and op.func is aten.cumsum.default):
        p.inexact(p.fresh(axis))
    p.set(op.out, lab.axes, zero=False)


@rule(
    aten.sort.default,
    aten.sort.stable,
    aten.topk.default,
    aten.argmax.default,
    aten.argmin.default,
    aten.median.dim,
    aten.cummax.default,
    aten.cummin.default,
    aten.kthvalue.default,
    aten.argsort.default,
    aten.argsort.stable,
    aten.mode.default,
)
def ordering(p: Propagation, op: Op) -> None:
    """Sort entries along one dimension, by value: its units are protected."""
    x = op.args[0]
    lab = p.get(x)
    name = op.func.overloadpacket.__name__
    at = 2 if name in ("topk", "kthvalue") else 1
    dim = op.kwargs.get("dim", op.args[at] if len(op.args) > at and not isinstance(op.args[at], bool) else -1)
    dims = range(x.dim()) if dim is None else [dim % max(x.dim(), 1)] if x.dim() else []
    for d in dims:
        p.guard(lab.axes[d], "the units are put in order")
    for out in tensors(op.out):
        keep = out.dim() == x.dim()
        axes = tuple(None if d in dims else a for d, a in enumerate(lab.axes) if keep or d not in dims)
        p.set(out, axes, zero=False)


@rule(aten.glu.default)
def glu(p: Propagation, op: Op) -> None:
    """a * sigmoid(b) of the two halves: their units are kept or removed together, position by position."""
    x = op.args[0]
    dim = (op.args[1] if len(op.args) > 1 else -1) % x.dim()
    lab = p.get(x)
    axes = [p.fresh(a) for a in lab.axes]
    if isinstance(axes[dim], np.ndarray):
        axes[dim] = p.merge(axes[dim].reshape(2, -1))
        if axes[dim].size == 1 and not p.check:
            p.guard(axes[dim], "one unit is the whole tensor")
    p.set(op.out, tuple(axes), zero=lab.zero)
