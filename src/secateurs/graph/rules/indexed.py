"""Writes by index: the written positions depend on values; the units of the other dimensions do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from secateurs.graph.labels import ANY
from secateurs.graph.propagate import tensors
from secateurs.graph.rules.pointwise import written_into
from secateurs.graph.rules.table import rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from secateurs.graph.propagate import Op, Propagation

aten = torch.ops.aten


@rule(aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)
def index_put(p: Propagation, op: Op) -> None:
    """x[indices] = values: the values' units meet those of the dimensions that are not indexed."""
    x, used, values = op.args[:3]
    dims = [d for d, i in enumerate(used) if i is not None]
    for index_ in tensors(used):
        p.guard_all(index_, "the units are used as indices")
    rank = max((i.dim() for i in used if i is not None), default=0)
    together = bool(dims) and dims == list(range(dims[0], dims[-1] + 1))
    at = dims[0] if together else 0
    kept = [d for d in range(x.dim()) if d not in dims]
    # dimensions of x[indices]: those of adjacent indices stay at their place, others come first
    places = [*(d for d in kept if d < at or not together), *([None] * rank), *(d for d in kept if together and d > at)]
    places = places if together else [*([None] * rank), *kept]
    _written_at(p, op, values, dims, places[len(places) - values.dim() :])


@rule(
    aten.index_copy_.default,
    aten.index_copy.default,
    aten.index_add_.default,
    aten.index_add.default,
)
def index_copy(p: Propagation, op: Op) -> None:
    """x[..., index, ...] = or += source along one dimension."""
    x, dim, index_ = op.args[:3]
    p.guard_all(index_, "the units are used as indices")
    dim %= x.dim()
    _written_at(p, op, op.args[3], [dim], [None if d == dim else d for d in range(x.dim())])


def _written_at(p: Propagation, op: Op, values: Tensor, dims: list[int], places: Sequence[int | None]) -> None:
    """Join a tensor's labels with those of the values written into it; `places`: dimension of each of theirs."""
    x = op.args[0]
    lab, given = p.get(x), p.get(values)
    axes = list(lab.axes)
    for d in dims:
        p.guard(axes[d], "the units are picked by index")
        axes[d] = None
    for k, d in enumerate(places):
        if d is None or values.shape[k] != x.shape[d]:
            p.guard(given.axes[k], "the units are written by index")
        elif axes[d] is ANY:
            axes[d] = p.fresh(given.axes[k])
        elif x.shape[d] > 1:
            axes[d] = p.meet(axes[d], given.axes[k])
    p.set(op.out, tuple(axes), zero=lab.zero and given.zero)
    if op.func._schema.is_mutable:
        p.labs[id(x)] = p.labs[id(op.out)]
        written_into(p, x)
