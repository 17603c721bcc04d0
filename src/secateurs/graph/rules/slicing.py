"""Slices and splits: pieces of a dimension that shrink independently, or at the same positions."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from secateurs.graph.labels import Fresh
from secateurs.graph.propagate import tensors
from secateurs.graph.rules.counting import has_units, width_of
from secateurs.graph.rules.table import rule

if TYPE_CHECKING:
    from secateurs.graph.labels import Labels
    from secateurs.graph.propagate import Op, Propagation

aten = torch.ops.aten


@rule(aten.slice.Tensor)
def slice_(p: Propagation, op: Op) -> None:
    """A run of indices of one dimension."""
    x, out = op.args[0], op.out
    dim = (op.args[1] if len(op.args) > 1 else 0) % x.dim()
    n, m = x.shape[dim], out.shape[dim]
    lab = p.get(x)
    axes = list(lab.axes)
    axis = axes[dim]
    if n != m and isinstance(p.settle(axis), (np.ndarray, Fresh)):
        labels = p.fresh(axis)
        start, stop, step = bounds(op, n)
        axes[dim] = _cut(p, labels, [(start, stop, step)])[0]
        if not p.check:
            p.left_out.append((np.delete(labels, slice(start, stop, step)), op))
    p.set(out, tuple(axes), zero=lab.zero)
    p.alias(out, x)


def bounds(op: Op, n: int) -> tuple[int, int, int]:
    """Start, stop and step of a slice operator on a dimension of size `n`."""
    start, stop, step = (*op.args[2:5], *(None, None, 1)[len(op.args) - 2 :])
    return slice(start, None if stop is None else min(stop, n), step).indices(n)


class Cut(NamedTuple):
    """One way in which a sliced axis can shrink.

    follows: numbers of the forward that change with it: module attributes as large as a piece ("lengths") or as a bound
    ("bounds"), widths of other tensors, or none. aligned: pieces keep the same positions; otherwise they are
    independent.
    """

    follows: Literal["", "lengths", "bounds", "widths"] = ""
    aligned: bool = False

    @property
    def moves(self) -> bool:
        """The alignment of pieces, which alone decides about labels."""
        return self.aligned


def _cut(p: Propagation, labels: Labels, cuts: list[tuple[int, int, int]]) -> list[Any]:
    """Cut a labelled axis into pieces, independent of each other or with the same positions in every block."""
    if not p.check and has_units(labels) and not _cut_freely(p, labels, cuts):
        return [None] * len(cuts)
    pieces: list[Any] = []
    for start, stop, step in cuts:
        piece = labels[start:stop:step]
        if piece.size == 1 and not p.check:
            p.guard(piece, "it is picked by position")
        pieces.append(None if piece.size == 1 and not p.check else piece)
    return pieces


def _cut_freely(p: Propagation, labels: Labels, cuts: list[tuple[int, int, int]]) -> bool:
    """Apply the option of this source line; False if the axis was protected instead."""
    sizes = {len(range(*c)) for c in cuts}
    size = min(sizes)
    even = len(sizes) == 1 and 1 < size < labels.size and labels.size % size == 0
    even = even and all(c[2] == 1 and c[0] % size == 0 for c in cuts)
    lengths = _counting(p, labels, cuts)
    bounds_ = lengths + _counting(p, labels, _runs(cuts, labels.size))
    options = [Cut()] + [Cut(aligned=True)] * even + [Cut("lengths", aligned=True)] * bool(even and lengths)
    options += [Cut("lengths")] * bool(lengths) + [Cut("bounds")] * (len(bounds_) > len(lengths))
    tied = _tied(p, labels, cuts)
    options += [Cut("widths")] * bool(tied) + [Cut("widths", aligned=True)] * bool(tied and even)
    if p.in_torch and tied:
        options.insert(0, Cut("widths"))
    option = p.choose("cut", labels, [*options, "fixed"])
    if option == "fixed":
        p.guard(labels, "the units are cut at fixed positions")
        return False
    if option.aligned:
        p.merge(labels.reshape(-1, size))
    for name, piece in {"lengths": lengths, "bounds": bounds_}.get(option.follows, []):
        p.follow(name, piece)
    for piece, width in tied if option.follows == "widths" else []:
        p.equal(piece, width)
    return True


def _runs(cuts: list[tuple[int, int, int]], size: int) -> list[tuple[int, int, int]]:
    """Return the runs from the start to each bound of the cuts: a bound is also a length, which a number may give."""
    edges = sorted({edge for start, stop, _ in cuts for edge in (start, stop)} | {size})
    known = {(start, stop) for start, stop, _ in cuts}
    return [(0, edge, 1) for edge in edges if edge and (0, edge) not in known]


def _counting(p: Propagation, labels: Labels, cuts: list[tuple[int, int, int]]) -> list[tuple[str, Labels]]:
    """The module's integers that are as large as a piece, each with the piece that it counts."""
    found: list[tuple[str, Labels]] = []
    for name, value in p.attribute(p.op.module, "").items():
        found += [(name, labels[slice(*c)]) for c in cuts if value == len(range(*c)) > 1]
    return found


def _tied(p: Propagation, labels: Labels, cuts: list[tuple[int, int, int]]) -> list[tuple[Labels, Labels]]:
    """Pieces that are as long as another tensor is wide, or two or three times as long, each with that width."""
    found: list[tuple[Labels, Labels]] = []
    for c in cuts:
        piece = labels[slice(*c)]
        for times in (n for n in (1, 2, 3) if piece.size % n == 0 and piece.size > n):
            width = width_of(p, labels, piece.size // times)
            if width is not None:
                found.append((piece, np.tile(width, times)))
                break
    return found


@rule(
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.unsafe_split.Tensor,
    aten.unsafe_split_with_sizes.default,
    aten.chunk.default,
    aten.split_with_sizes_copy.default,
    aten.split_copy.Tensor,
)
def split(p: Propagation, op: Op) -> None:
    """Consecutive runs of one dimension."""
    x = op.args[0]
    dim = (op.args[2] if len(op.args) > 2 else op.kwargs.get("dim", 0)) % x.dim()
    lab = p.get(x)
    axis = p.settle(lab.axes[dim])
    pieces: list[Any] = [axis] * len(op.out)
    if isinstance(axis, (np.ndarray, Fresh)) and len(op.out) > 1:
        labels = p.fresh(axis)
        edges = np.cumsum([0, *(t.shape[dim] for t in op.out)]).tolist()
        pieces = _cut(p, labels, [(a, b, 1) for a, b in pairwise(edges)])
    for t, piece in zip(op.out, pieces, strict=True):
        axes = list(lab.axes)
        axes[dim] = piece
        p.set(t, tuple(axes), zero=lab.zero)
        p.alias(t, x)


@rule(aten.select.int)
def select(p: Propagation, op: Op) -> None:
    """One index of one dimension."""
    x, dim, index = op.args
    lab = p.get(x)
    dim %= x.dim()
    axis = p.settle(lab.axes[dim])
    if isinstance(axis, (np.ndarray, Fresh)):
        labels = p.fresh(axis)
        p.guard(
            labels if isinstance(labels, np.ndarray) else axis, f"index {index} of its dimension is picked by position"
        )
    p.set(op.out, lab.axes[:dim] + lab.axes[dim + 1 :], zero=lab.zero)
    p.alias(op.out, x)


@rule(aten.unbind.int)
def unbind(p: Propagation, op: Op) -> None:
    """Every index of one dimension on its own."""
    x = op.args[0]
    dim = (op.args[1] if len(op.args) > 1 else 0) % x.dim()
    lab = p.get(x)
    p.guard(lab.axes[dim], "every index of its dimension is used on its own")
    for t in op.out:
        p.set(t, lab.axes[:dim] + lab.axes[dim + 1 :], zero=lab.zero)


@rule(
    aten.index_select.default,
    aten.index.Tensor,
    aten.gather.default,
    aten.take_along_dim.default,
    aten._unsafe_index.Tensor,
)
def index(p: Propagation, op: Op) -> None:
    """Entries picked by value: a labelled dimension that is indexed cannot shrink."""
    x, out = op.args[0], op.out
    lab = p.get(x)
    if op.func in (aten.index.Tensor, aten._unsafe_index.Tensor):
        used = op.args[1]
        dims = [d for d, i in enumerate(used) if i is not None]
        kept = [a for d, a in enumerate(lab.axes) if d not in dims]
        rank = max((i.dim() for i in used if i is not None), default=0)
        together = dims == list(range(dims[0], dims[-1] + 1)) if dims else True
        at = dims[0] if together and dims else 0
        axes = [*kept[:at], *([None] * rank), *kept[at:]]
    else:
        dims = [op.args[1] % x.dim()]
        axes = [None if d in dims else a for d, a in enumerate(lab.axes)]
        if op.func is not aten.index_select.default:
            dims, axes = list(range(x.dim())), [None] * out.dim()
    for d in dims:
        p.guard(lab.axes[d], "the units are picked by index")
    for t in tensors(op.args[1:]):
        p.guard_all(t, "the units are used as indices")
    p.set(out, tuple(axes), zero=lab.zero)
