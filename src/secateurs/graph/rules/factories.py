"""Tensors made inside the forward, refilled, copied into, or read as Python values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from secateurs.graph.labels import ANY, Lab
from secateurs.graph.rules.pointwise import written_into
from secateurs.graph.rules.table import rule

if TYPE_CHECKING:
    from secateurs.graph.propagate import Op, Propagation

aten = torch.ops.aten

_FACTORIES = (
    aten.empty.memory_format,
    aten.zeros.default,
    aten.ones.default,
    aten.full.default,
    aten.rand.default,
    aten.randn.default,
    aten.scalar_tensor.default,
    aten.new_empty.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    aten.empty_strided.default,
    aten.new_empty_strided.default,
    aten.randint.default,
    aten.randint.low,
    aten.randperm.default,
)


@rule(*_FACTORIES)
def factory(p: Propagation, op: Op) -> None:
    """A constant tensor made inside the forward: it can be joined with any labels; trials tell what sets its size."""
    shape = op.out.shape
    free = any(n > 1 for n in shape) and p.choose("factory", None, ["any", "fixed"]) == "any"
    p.set(op.out, tuple(ANY if free and n > 1 else None for n in shape))


@rule(
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.linspace.default,
    aten.eye.default,
    aten.tril_indices.default,
)
def fixed_factory(p: Propagation, op: Op) -> None:
    """A sequence, such as arange: its entries differ, so that units joined with it are protected."""
    p.set(op.out, (None,) * op.out.dim())


@rule(
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.empty_like.default,
    aten.full_like.default,
    aten.rand_like.default,
    aten.randn_like.default,
)
def like(p: Propagation, op: Op) -> None:
    """A tensor made in the shape of another one takes its axes."""
    p.set(op.out, p.get(op.args[0]).axes, zero=op.func is aten.zeros_like.default)


@rule(
    aten.fill_.Scalar,
    aten.fill_.Tensor,
    aten.zero_.default,
    aten.bernoulli_.float,
    aten.uniform_.default,
    aten.normal_.default,
    aten.exponential_.default,
)
def refill(p: Propagation, op: Op) -> None:
    """Overwrite values in place; the labels stay."""
    lab = p.get(op.args[0])
    p.labs[id(op.out)] = Lab(lab.axes, zero=op.func is aten.zero_.default)


@rule(
    aten._assert_async.msg,
    aten._assert_async.default,
    aten.is_same_size.default,
    aten._assert_tensor_metadata.default,
    aten._local_scalar_dense.default,
)
def nothing(p: Propagation, op: Op) -> None:
    """Operators that only read values, such as asserts; they pass no labels on."""
    if op.func is aten._local_scalar_dense.default:
        p.guard_all(op.args[0], "a Python value is read from it")


@rule(aten.copy_.default)
def copy(p: Propagation, op: Op) -> None:
    """dst[...] = src: the destination takes the source's labels, and so does whatever it is a view of."""
    dst, src = op.args[:2]
    lab, old = p.get(src), p.get(dst)
    offset = dst.dim() - src.dim()
    axes = []
    for d in range(dst.dim()):
        new = lab.axes[d - offset] if d >= offset and src.shape[d - offset] == dst.shape[d] else ANY
        if dst.shape[d] == 1:
            axes.append(None)
        elif old.axes[d] is ANY:
            axes.append(p.fresh(new))
        else:
            axes.append(p.meet(old.axes[d], new))
    p.set(op.out, tuple(axes), zero=lab.zero and old.zero)
    p.labs[id(dst)] = p.labs[id(op.out)]
    written_into(p, dst)
