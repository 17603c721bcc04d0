"""Views that regroup dimensions: labels are reshaped like the tensor; the remaining entries must form a full array."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from secateurs.graph.labels import ANY, Fresh
from secateurs.graph.rules.counting import count, has_units, readings, whole
from secateurs.graph.rules.joining import ANYTHING
from secateurs.graph.rules.table import rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from secateurs.graph.labels import Labels
    from secateurs.graph.propagate import Op, Propagation

aten = torch.ops.aten

_WIDEST = 1 << 22
"""Most entries that the labels of one dimension may have: a map of class scores has many, and is an output."""


def segments(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Split two shapes of equal size into the shortest runs of dimensions with equal products.

    >>> segments((2, 6, 4), (2, 2, 3, 4))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i][: len(before) - i], [j][: len(after) - j]
        p = before[i] if left else 1
        q = after[j] if right else 1
        i, j = i + len(left), j + len(right)
        while p != q:
            if p < q and i < len(before):
                p *= before[i]
                left.append(i)
                i += 1
            elif j < len(after):
                q *= after[j]
                right.append(j)
                j += 1
            else:
                break
        if p == q == 1 and runs and not (left and right):
            runs[-1][0].extend(left)
            runs[-1][1].extend(right)
        else:
            runs.append((left, right))
    return runs


@rule(
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten._reshape_alias.default,
    aten._reshape_copy.default,
)
def view(p: Propagation, op: Op) -> None:
    """Regroup dimensions without moving elements."""
    x, out = op.args[0], op.out
    lab = p.get(x)
    whole_op = p.original(op)  # which dimensions are merged or split is determined by the sizes of the whole network
    before, after = tuple(whole_op.args[0].shape), tuple(whole_op.out.shape)
    if before == after:
        axes = lab.axes
    elif not any(isinstance(a, (np.ndarray, Fresh)) for a in lab.axes):
        axes = _unlabelled(lab.axes, before, after)
    else:
        axes = _regroup(p, lab.axes, (before, after), (tuple(x.shape), tuple(out.shape)))
    p.set(out, axes, zero=lab.zero)
    p.alias(out, x)


def _unlabelled(axes: Sequence[Any], before: Sequence[int], after: Sequence[int]) -> tuple[Any, ...]:
    if ANY not in axes:
        return (None,) * len(after)
    result: list[Any] = [None] * len(after)
    for left, right in segments(before, after):
        if any(axes[i] is ANY for i in left) and all(axes[i] is ANY or before[i] == 1 for i in left):
            for j in right:
                result[j] = ANY if after[j] > 1 else None
    return tuple(result)


def _regroup(
    p: Propagation, axes: Sequence[Any], traced: tuple[Any, Any], shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> tuple[Any, ...]:
    """Return the axes of a tensor after a reshape; `traced`: both shapes in the whole network."""
    before, after = shapes
    result: list[Any] = [None] * len(after)
    for left, right in segments(*traced):
        if p.check and prod(before[i] for i in left) != prod(after[j] for j in right):
            p.fail("a view regroups other dimensions")
        wide = [i for i in left if traced[0][i] != 1 or isinstance(axes[i], np.ndarray)]
        open_ = [j for j in right if traced[1][j] != 1] or right[:1]
        if len(wide) == len(open_) == 1:
            axis = result[open_[0]] = axes[wide[0]]
            if isinstance(axis, np.ndarray) and not p.check:
                whole(p, axis)
            continue
        marked = [i for i in wide if isinstance(axes[i], (np.ndarray, Fresh))]
        if not marked:
            if wide and all(axes[i] is ANY for i in wide):
                for j in open_:
                    result[j] = ANY
            elif len(open_) == 1 and [axes[i] for i in wide].count(ANY) == 1:
                result[open_[0]] = _stretched(p, axes, wide, before, open_[0])
            continue
        if prod(traced[0][i] for i in wide) > _WIDEST:
            for i in marked:
                p.guard(axes[i], f"the units are spread over a dimension of more than {_WIDEST} entries")
            continue
        kept = _one_kind(p, axes, marked, before)
        if kept is None:
            continue
        dense = _spread(p, axes, wide, kept, before)
        _settle_split(p, dense, [after[j] for j in open_], open_, result)
    return tuple(result)


def _stretched(p: Propagation, axes: Sequence[Any], wide: list[int], before: tuple[int, ...], to: int) -> Any:
    """A dimension that repeats one entry, merged with others: units of its own, to be those that it meets."""
    stretched = next(i for i in wide if axes[i] is ANY)
    if not p.check:
        filled = [p.space.fresh(before[i]) if i == stretched else axis for i, axis in enumerate(axes)]
        return _spread(p, filled, wide, stretched, before)
    hint = p.hint()[to]
    if not isinstance(hint, np.ndarray):
        return None
    k = wide.index(stretched)
    rows = np.moveaxis(hint.reshape([before[i] for i in wide]), k, -1).reshape(-1, before[stretched])
    if not bool((rows == rows[:1]).all()):
        p.fail("blocks keep different positions")
    return hint


def _one_kind(p: Propagation, axes: Sequence[Any], marked: list[int], before: tuple[int, ...]) -> int | None:
    """Return the axis whose units a merged dimension keeps apart: a choice among the decided ones, else the first."""
    decided = [i for i in marked if isinstance(axes[i], np.ndarray)]
    kept = decided[0] if decided else marked[0]
    if len(decided) > 1:
        labels = np.concatenate([axes[i] for i in decided])
        kept = p.choose("merge", labels, [*sorted(decided, key=lambda i: -before[i]), None])
    for i in marked:
        if i != kept:
            p.guard(axes[i], "two kinds of units are merged into one dimension")
    return kept


def _spread(p: Propagation, axes: Sequence[Any], wide: list[int], marked: int, before: tuple[int, ...]) -> Labels:
    """One label for every element of the run, in memory order."""
    labels = p.fresh(axes[marked])
    inner = int(np.prod([before[i] for i in wide if i > marked], dtype=np.int64))
    outer = int(np.prod([before[i] for i in wide if i < marked], dtype=np.int64))
    if inner > 1:
        labels = np.repeat(labels, inner)
    return np.tile(labels, outer) if outer > 1 else labels


def _settle_split(p: Propagation, dense: Labels, sizes: list[int], dims: list[int], result: list[Any]) -> None:
    """Labels over one or several dimensions: along all but one of them, units must not differ."""
    if len(sizes) <= 1:
        if dims:
            result[dims[0]] = dense
            if not p.check:
                whole(p, dense)
        return
    block = dense.reshape(sizes)
    if p.check:
        for k, d in enumerate(dims):
            if isinstance(p.hint()[d], np.ndarray):
                result[d] = p.merge(np.moveaxis(block, k, -1).reshape(-1, sizes[k]))
        return
    varying = [k for k in range(len(sizes)) if not bool((block == block.take([0], axis=k)).all())]
    if not varying:
        p.guard(dense[:1], "one unit fills a whole tensor")
    elif len(varying) == 1:
        k = varying[0]
        result[dims[k]] = np.ascontiguousarray(np.moveaxis(block, k, -1).reshape(-1, sizes[k])[0])
    else:
        _cut_blocks(p, block, varying, dims, result)


def _cut_blocks(p: Propagation, block: Labels, varying: list[int], dims: list[int], result: list[Any]) -> None:
    """Choose the one dimension along which units may differ."""
    if not has_units(block):
        if (block == ANYTHING).all():
            result[:] = [ANY if d in dims else axis for d, axis in enumerate(result)]
        return
    way = p.choose("split", block.ravel(), [*readings(p, block, varying), None])
    if way is None:
        p.guard(block.ravel(), f"the units are cut into blocks {tuple(block.shape)} that do not follow")
        return
    kept = p.merge(np.moveaxis(block, way.k, -1).reshape(-1, block.shape[way.k]))
    count(p, kept, way, block)
    result[dims[way.k]] = kept


@rule(aten.pixel_shuffle.default)
def pixel_shuffle(p: Propagation, op: Op) -> None:
    """r * r channels become one: their units are kept or removed together."""
    x, r = op.args[:2]
    lab = p.get(x)
    axes = list(lab.axes)
    channel = p.fresh(axes[-3])
    if isinstance(channel, np.ndarray):
        axes[-3] = p.merge(channel.reshape(-1, r * r).T)
        if axes[-3].size == 1 and not p.check:
            p.guard(axes[-3], "one unit is the whole tensor")
    for d in (-1, -2):
        p.guard(axes[d], "the units are interleaved with channels")
        axes[d] = None
    p.set(op.out, tuple(axes), zero=lab.zero)


@rule(aten.pixel_unshuffle.default)
def pixel_unshuffle(p: Propagation, op: Op) -> None:
    """One channel becomes r * r."""
    x, r = op.args[:2]
    lab = p.get(x)
    axes = list(lab.axes)
    channel = p.fresh(axes[-3])
    if isinstance(channel, np.ndarray):
        axes[-3] = np.repeat(channel, r * r)
    for d in (-1, -2):
        p.guard(axes[d], "the units are interleaved with channels")
        axes[d] = None
    p.set(op.out, tuple(axes), zero=lab.zero)


@rule(aten.channel_shuffle.default, aten.native_channel_shuffle.default)
def channel_shuffle(p: Propagation, op: Op) -> None:
    """[groups, c] becomes [c, groups]: the same positions of every group are kept."""
    x, groups = op.args[:2]
    lab = p.get(x)
    axes = list(lab.axes)
    channel = p.fresh(axes[1])
    if isinstance(channel, np.ndarray):
        if channel.size % groups:
            p.fail("the groups of a channel shuffle differ in size")
        axes[1] = np.repeat(p.merge(channel.reshape(groups, -1)), groups)
    p.set(op.out, tuple(axes), zero=lab.zero)


@rule(aten.im2col.default)
def im2col(p: Propagation, op: Op) -> None:
    """Every channel becomes k * k rows."""
    x, kernel = op.args[:2]
    lab = p.get(x)
    *batch, channel, _, _ = lab.axes
    channel = p.fresh(channel)
    taps = int(np.prod(kernel))
    for d in (-1, -2):
        p.guard(lab.axes[d], "a window slides along the units")
    rows = np.repeat(channel, taps) if isinstance(channel, np.ndarray) else None
    p.set(op.out, (*batch, rows, None), zero=lab.zero)


@rule(aten.col2im.default)
def col2im(p: Propagation, op: Op) -> None:
    """k * k rows become one channel: their units are kept or removed together."""
    x, kernel = op.args[0], op.args[2]
    lab = p.get(x)
    *batch, rows, _ = lab.axes
    rows = p.fresh(rows)
    taps = int(np.prod(kernel))
    p.guard(lab.axes[-1], "a window slides along the units")
    channel = p.merge(rows.reshape(-1, taps).T) if isinstance(rows, np.ndarray) else None
    p.set(op.out, (*batch, channel, None, None), zero=lab.zero)
