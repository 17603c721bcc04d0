"""Cost of one forward pass (MACs, parameters, bytes) as an exact integer function of the widths of all groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from secateurs.graph.label_arrays import Axes, entry_of
from secateurs.graph.labels import ANY, Fresh
from secateurs.graph.lives import Alive, lives

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from secateurs.graph.grouping import Units

aten = torch.ops.aten
_CONVOLUTIONS = {aten.convolution.default, aten._convolution.default}  # noqa: SLF001
_PRODUCTS = {aten.mm.default: 0, aten.bmm.default: 0, aten.addmm.default: 1, aten.baddbmm.default: 1}
_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu.default,  # noqa: SLF001
    aten._scaled_dot_product_flash_attention.default,  # noqa: SLF001
    aten._scaled_dot_product_efficient_attention.default,  # noqa: SLF001
    aten._scaled_dot_product_cudnn_attention.default,  # noqa: SLF001
}


class CostModel:
    """cost = sum over terms of factor * product of axis sizes; size of an axis = constant + multiples of widths."""

    def __init__(self, units: Units, params: Mapping[str, tuple[int, ...]], turn: int = 0) -> None:
        """Read the terms off the recording `turn`; `params`: canonical parameter name -> shape as traced."""
        self._units = units
        self._axes: dict[int, int] = {}
        self._held: list[Any] = []
        terms: list[dict[tuple[int, ...], int]] = [{}, {}, {}]
        for name, shape in params.items():
            _add(terms[1], self._size([units.params.get((name, d)) for d in range(len(shape))], shape))
        tape = units.tapes[turn]
        labs = units.labs
        results = units.results[turn]
        for op, outs in zip(tape.ops, results, strict=True):
            self._macs(terms[0], op, outs, labs)
        found = lives(tape)
        written = [
            self._size(results[life.born][life.place], life.tensor.shape, life.tensor.element_size()) for life in found
        ]
        for term in written:
            _add(terms[2], term)
        self.groups = int(units.counts.size)
        self._constant, self._multiple = self._sizes()
        self._terms = [_table(list(t.items())) for t in terms]
        self._written, self._alive = _table(written), Alive.of(found)
        del self._units, self._held

    def at(self, widths: ArrayLike) -> NDArray[np.int64]:
        """(macs, params, memory) for units kept per group, vectorised: [..., G] -> [..., 3]."""
        sizes = self._sizes_at(widths)
        return np.stack([(np.prod(sizes[..., index], axis=-1) @ factor) for index, factor in self._terms], axis=-1)

    def peak(self, widths: ArrayLike) -> NDArray[np.int64]:
        """Return the peak activation memory in bytes, for units kept per group: [..., G] -> [...]."""
        moments = self.moments(widths)
        return moments.max(-1) if moments.shape[-1] else np.zeros(moments.shape[:-1], np.int64)

    def moments(self, widths: ArrayLike) -> NDArray[np.int64]:
        """Return the bytes of activations alive at each moment before one is freed: [..., G] -> [..., moments]."""
        index, factor = self._written
        return self._alive.sums(np.prod(self._sizes_at(widths)[..., index], axis=-1) * factor)

    def _sizes_at(self, widths: ArrayLike) -> NDArray[np.int64]:
        """Return the sizes of all axes, for units kept per group: [..., G] -> [..., 1 + axes]."""
        kept = np.asarray(widths, dtype=np.int64)
        rows = kept.reshape(int(np.prod(kept.shape[:-1])), self.groups)
        sizes = (self._multiple @ rows.T).T
        return self._constant + sizes.reshape(*kept.shape[:-1], len(self._constant))

    def _axis(self, labels: Any) -> int:
        """The number of a labelled axis among the sizes (0 is the size of one)."""
        known = self._axes.get(id(labels))
        if known is None:
            self._held.append(labels)
            known = self._axes[id(labels)] = len(self._held)
        return known

    def _sizes(self) -> tuple[NDArray[np.int64], Any]:
        """Return the constant part of every size [1 + axes], and the multiples of widths [1 + axes, groups], sparse."""
        from scipy.sparse import coo_array

        units, count = self._units, len(self._held) + 1
        axes = Axes([units.units(labels) for labels in self._held])
        group = entry_of(units.group_of, axes.of)
        constant = np.bincount(axes.owner[group < 0] + 1, minlength=count)
        constant[0] = 1
        pairs, entries = np.unique(group[group >= 0] * count + axes.owner[group >= 0] + 1, return_counts=True)
        of, axis = np.divmod(pairs, count)
        shape = (count, self.groups)
        return constant, coo_array((entries // units.counts[of], (axis, of)), shape=shape, dtype=np.int64).tocsr()

    def _size(self, axes: Any, shape: Any, factor: int = 1) -> tuple[tuple[int, ...], int]:
        """A product of dimensions: the labelled axes, and the constant rest."""
        used: list[int] = []
        if len(axes) != len(shape):  # the tensor changed its shape in place later on
            axes = (None,) * len(shape)
        for axis, n in zip(axes, shape, strict=True):
            if isinstance(axis, np.ndarray):
                used.append(self._axis(axis))
            else:
                factor *= int(n)
        return tuple(sorted(used)), factor

    def _macs(self, terms: dict[tuple[int, ...], int], op: Any, outs: Any, labs: Any) -> None:
        if op.func in _CONVOLUTIONS:
            x, weight, transposed = op.args[0], op.args[1], op.args[6]
            n = weight.dim() - 2
            space = (x if transposed else op.out).shape[-n:]
            batch = x.shape[0] if x.dim() == weight.dim() else 1
            lead = labs[id(x)].axes[0] if x.dim() == weight.dim() else None
            axes = [*_settled(self._units, labs[id(weight)].axes), lead]
            if axes[0] is ANY:  # a filter expanded to as many channels as there are
                of = labs[id(x)].axes if transposed else outs[0]
                axes[0] = of[x.dim() - n - 1]
            _add(terms, self._size(axes, [*weight.shape, batch], int(np.prod(space, dtype=np.int64))))
        elif op.func in _PRODUCTS:
            a, b = op.args[_PRODUCTS[op.func] : _PRODUCTS[op.func] + 2]
            left, right = (_settled(self._units, labs[id(t)].axes) for t in (a, b))
            inner = left[-1] if isinstance(left[-1], np.ndarray) else right[-2]
            _add(terms, self._size([*outs[0], inner], [*op.out.shape, a.shape[-1]]))
        elif op.func in _ATTENTION:
            q, k, v = op.args[:3]
            axes = [_settled(self._units, labs[id(t)].axes) for t in (q, k, v)]
            _add(terms, self._size([*axes[0], axes[1][2]], [*q.shape, k.shape[2]]))
            _add(terms, self._size([*outs[0], axes[1][2]], [*op.out[0].shape, k.shape[2]]))


def _settled(units: Units, axes: Any) -> list[Any]:
    return [units.params.get((a.name, a.dim)) if type(a) is Fresh else a for a in axes]


def _add(terms: dict[tuple[int, ...], int], term: tuple[tuple[int, ...], int]) -> None:
    terms[term[0]] = terms.get(term[0], 0) + term[1]


def _table(terms: list[tuple[tuple[int, ...], int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Terms as an index matrix, padded with axis 0 (of size 1), and a vector of factors."""
    width = max((len(axes) for axes, _ in terms), default=0) or 1
    index = np.zeros((len(terms), width), dtype=np.int64)
    for row, (axes, _) in enumerate(terms):
        index[row, : len(axes)] = axes
    return index, np.array([factor for _, factor in terms], dtype=np.int64)
