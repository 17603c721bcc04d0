"""Contractions: the labels of the two contracted sides meet, and those of the weight's output side pass on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from secateurs.graph.labels import Fresh
from secateurs.graph.rules.table import rule

if TYPE_CHECKING:
    from secateurs.graph.propagate import Op, Propagation

aten = torch.ops.aten

_MOVING = "a convolution or window slides along the units"


@rule(aten.convolution.default, aten._convolution.default)
def convolution(p: Propagation, op: Op) -> None:
    """out[n, o] = sum over i of x[n, i] * w[o, i] + bias[o], in `groups` blocks."""
    x, weight, bias = op.args[:3]
    transposed, groups = bool(op.args[6]), int(op.args[8])
    lab_x, lab_w = p.get(x), p.get(weight)
    batched = x.dim() == weight.dim()
    batch = lab_x.axes[:1] if batched else ()
    channel, *space = lab_x.axes[len(batch) :]
    for axis in space:
        p.guard(axis, _MOVING)
    for axis in lab_w.axes[2:]:
        p.guard(axis, "")
    first, second = lab_w.axes[:2]
    if groups == 1:
        reads, writes = (first, second) if transposed else (second, first)
        p.meet(channel, reads, "in")
        out = p.fresh(writes, "out")
    else:
        out = _grouped(p, op, channel, first, second, transposed=transposed, groups=groups)
    if bias is not None:
        out = p.meet(out, p.get(bias).axes[0], "bias")
    p.set(op.out, (*batch, out, *(None for _ in space)), zero=True)


def _grouped(p: Propagation, op: Op, channel: Any, first: Any, second: Any, *, transposed: bool, groups: int) -> Any:
    """Grouped convolution: remove whole groups (and change `groups`), or the same positions of every group."""
    weight = op.args[1]
    inside = (weight.shape[0] // groups) if transposed else weight.shape[1]
    outside = weight.shape[1] if transposed else weight.shape[0] // groups
    channel = p.settle(channel)
    follows = isinstance(channel, np.ndarray)
    options = (
        (["inside"] * bool(min(inside, outside) > 1) + ["whole"] * follows + ["fixed"])
        if min(inside, outside) > groups
        else (["whole"] * follows + ["inside"] * bool(min(inside, outside) > 1) + ["fixed"])
    )
    option = p.choose("groups", channel, options)
    if option == "whole":
        return _whole_groups(p, channel, first, second, (groups, inside, outside), transposed=transposed)
    if option == "inside":
        return _same_positions(p, channel, first, second, (groups, inside, outside), transposed=transposed)
    for axis in (channel, first, second):
        p.guard(axis, "the groups of a grouped convolution are fixed")
    return None


def _whole_groups(
    p: Propagation, channel: Any, first: Any, second: Any, sizes: tuple[int, int, int], *, transposed: bool
) -> Any:
    groups, inside, outside = sizes
    units = p.merge(channel.reshape(groups, inside).T)
    if p.attribute(p.op.module, "groups") == groups:
        p.follow("groups", units)  # otherwise the code derives the number of groups, or the trial says that it does not
    p.guard(second, "the channels inside one group of a grouped convolution stay together")
    wide_in, wide_out = (np.repeat(units, n) if n > 1 else units for n in (inside, outside))
    if transposed:
        p.meet(wide_in, first, "in")
    else:
        wide_out = p.meet(wide_out, first, "out")
    return wide_out


def _same_positions(
    p: Propagation, channel: Any, first: Any, second: Any, sizes: tuple[int, int, int], *, transposed: bool
) -> Any:
    groups, inside, outside = sizes
    read = p.merge(channel.reshape(groups, inside)) if isinstance(channel, np.ndarray) else channel
    if transposed:
        p.meet(np.tile(read, groups) if isinstance(read, np.ndarray) else read, first, "in")
        written = p.fresh(second, "out")
        return np.tile(written, groups) if isinstance(written, np.ndarray) else None
    p.meet(read, second, "in")
    known = p.settle(first)
    if type(known) is Fresh:
        p.adopt(known, np.tile(p.space.fresh(outside), groups), "out")
    known = p.settle(known)
    if isinstance(known, np.ndarray):
        p.merge(known.reshape(groups, outside))
    return known


def _product(p: Propagation, a: Any, b: Any) -> None:
    """Contract two axes; if neither side is 0 for a zeroed unit, the sum over them is inexact."""
    (lab_a, i), (lab_b, j) = a, b
    met = p.meet(lab_a.axes[i], lab_b.axes[j], "in")
    if isinstance(met, np.ndarray) and not (lab_a.zero or lab_b.zero):
        p.inexact(met)


def _matrix(p: Propagation, op: Op, a: Any, b: Any) -> Any:
    """[..., m, k] x [..., k, n]: returns the axes of the result."""
    lab_a, lab_b = p.get(a), p.get(b)
    _product(p, (lab_a, a.dim() - 1), (lab_b, max(b.dim() - 2, 0)))
    batch = (
        tuple(p.meet(x, y) for x, y in zip(lab_a.axes[:-2], lab_b.axes[:-2], strict=True))
        if a.dim() == b.dim() == 3
        else ()
    )
    rows = (p.fresh(lab_a.axes[-2], "out"),) if a.dim() > 1 else ()
    columns = (p.fresh(lab_b.axes[-1], "out"),) if b.dim() > 1 else ()
    zero = lab_a.zero and lab_b.zero
    if not zero:
        silent_rows = lab_a.zero or not any(isinstance(x, np.ndarray) for x in rows)
        silent_columns = lab_b.zero or not any(isinstance(x, np.ndarray) for x in columns)
        zero = silent_rows and silent_columns
    return batch + rows + columns, zero


@rule(aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default, aten.vdot.default)
def product(p: Propagation, op: Op) -> None:
    """Matrix, batched, matrix-vector and dot products."""
    axes, zero = _matrix(p, op, op.args[0], op.args[1])
    p.set(op.out, axes, zero=zero)


@rule(aten.addmm.default, aten.baddbmm.default, aten.addmv.default)
def added_product(p: Propagation, op: Op) -> None:
    """bias + a x b."""
    bias = op.args[0]
    axes, zero = _matrix(p, op, op.args[1], op.args[2])
    lab = p.get(bias)
    axes = p_broadcast(p, axes, lab.axes, op.out.shape, bias.shape)
    p.set(op.out, axes, zero=zero and lab.zero)


def p_broadcast(p: Propagation, axes: Any, other: Any, shape: Any, other_shape: Any) -> Any:
    """Axes of a result after a smaller tensor was broadcast onto it."""
    result = list(axes)
    offset = len(axes) - len(other)
    for d, axis in enumerate(other):
        if other_shape[d] == 1 and shape[offset + d] != 1:
            continue
        if axis is None and shape[offset + d] == 1 and not isinstance(result[offset + d], np.ndarray):
            continue
        result[offset + d] = p.meet(result[offset + d], axis, "bias")
    return tuple(result)


@rule(aten.embedding.default)
def embedding(p: Propagation, op: Op) -> None:
    """Rows are selected by value; the labels of columns pass on."""
    weight, indices = op.args[:2]
    rows, columns = p.get(weight).axes
    p.guard(rows, "rows are picked by value")
    p.guard_all(indices, "the units are used as indices")
    p.set(op.out, (*p.get(indices).axes, p.fresh(columns, "out")))


@rule(aten._weight_norm_interface.default)
def weight_norm(p: Propagation, op: Op) -> None:
    """g * v / |v|, the norm taken over all dimensions but one: exact, since a zeroed entry adds nothing to the norm."""
    v, g = op.args[:2]
    dim = op.args[2] if len(op.args) > 2 else 0
    lab_v, lab_g = p.get(v), p.get(g)
    axes = list(lab_v.axes)
    axes[dim] = p.meet(p.fresh(axes[dim], "direction"), lab_g.axes[dim], "scale")
    p.set(op.out[0], tuple(axes))
    p.set(op.out[1], tuple(axes[d] if d == dim else None for d in range(len(axes))))
    p.parents.pop(id(op.out[0]), None)


@rule(
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_fused_attention_overrideable.default,
)
def attention(p: Propagation, op: Op) -> None:
    """softmax(q k') v over [batch, heads, tokens, channels]; the scale depends on the channels unless it is given."""
    q, k, v = (p.get(t) for t in op.args[:3])
    met = p.meet(q.axes[3], k.axes[3])
    if op.kwargs.get("scale") is None:
        p.guard(met, "the attention's scale is derived from the number of its channels")
    elif isinstance(met, np.ndarray) and not (q.zero or k.zero):
        p.inexact(met)
    tokens = p.meet(k.axes[2], v.axes[2])
    p.guard(tokens, "a softmax runs over the units")
    batch = tuple(p.meet(p.meet(q.axes[d], k.axes[d]), v.axes[d]) for d in (0, 1))
    p.set(op.out[0], (*batch, q.axes[2], p.fresh(v.axes[3])), zero=v.zero)
