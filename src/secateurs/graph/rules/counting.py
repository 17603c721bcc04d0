"""Find the numbers in a forward that depend on a dimension's units: a module's integer, or another tensor's width."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from secateurs.graph.labels import Labels
    from secateurs.graph.propagate import Propagation

_FAR = 64


def width_of(p: Propagation, own: Labels, size: int) -> Labels | None:
    """Return the nearest earlier axis of this size, other than `own`, in the current module.

    It is searched in the arguments of the module's earlier operators; the first of them reads the module's input.
    """
    inside, tape = p.op.module, p.tape
    for index in range(p.index - 1, max(p.index - _FAR, 0) - 1, -1):
        if inside and not f"{tape.ops[index].module}.".startswith(f"{inside}."):
            break
        for t in tape.reads[index]:
            if size not in t.shape or id(t) in tape.origins or id(t) not in p.labs:
                continue
            for axis in p.labs[id(t)].axes:
                labels = p.settle(axis)
                if isinstance(labels, np.ndarray) and labels.size == size and not _same(labels, own):
                    return labels
    return None


def has_units(labels: Labels) -> bool:
    """True if any entry of an axis belongs to a unit; the others are constants."""
    return bool(labels.size and labels.max() >= 0)


def _same(a: Labels, b: Labels) -> bool:
    return a is b or (a.size == b.size and bool((a == b).all()))


class Counted(NamedTuple):
    """One way in which a split can shrink: the dimension with the units, and the numbers that count them.

    `attributes`: (name, times) of integers that count every unit so often; `tied`: the other dimensions whose product
    with this one is the width of another tensor, or None.
    """

    k: int
    attributes: tuple[tuple[str, int], ...] = ()
    tied: tuple[int, ...] | None = None

    @property
    def moves(self) -> int:
        """The dimension, which alone decides about labels."""
        return self.k


def readings(p: Propagation, block: Labels, varying: list[int]) -> list[Counted]:
    """Return the ways in which a reshaped block can shrink, the likeliest first: dimension, and numbers that count it.

    An attribute may count one dimension (`num_heads`), or its product with others (`num_heads * head_dim`): then it
    counts every unit as often. Last come sizes that are another tensor's width (`C // num_heads`).
    """
    sizes = block.shape
    alone: list[Counted] = []
    tied: list[Counted] = []
    counting = p.attribute(p.op.module, "")
    own = block.ravel()
    for k in sorted(varying, key=lambda k: (-sizes[k], -k)):
        units = np.unique(np.moveaxis(block, k, 0).reshape(sizes[k], -1)[:, 0]).size
        others = [j for j in range(len(sizes)) if j != k and sizes[j] > 1]
        some = [dims for r in range(1, len(others) + 1) for dims in combinations(others, r)]
        times = {int(np.prod([sizes[j] for j in dims])) for dims in some}
        counts = tuple((name, 1) for name, value in counting.items() if value == units)
        totals = tuple((name, n) for n in sorted(times) for name, value in counting.items() if value == n * units)
        ways = [Counted(k)] + [Counted(k, counts)] * bool(counts) + [Counted(k, counts + totals)] * bool(totals)
        some_only = sorted(counts, key=lambda found: "[" in found[0]) if len(counts) > 1 else []
        singles = [Counted(k, (one,)) for one in some_only]  # others may be as large by chance, items of lists rather
        alone += ways + singles
        products = [
            dims
            for dims in [(), *some]
            if width_of(p, own, int(np.prod([sizes[j] for j in dims])) * sizes[k]) is not None
        ]
        tied += [way._replace(tied=dims) for way in [*ways[:0:-1], *singles, ways[0]] for dims in products]
    if p.in_torch:  # heads are counted by an attribute, and widths read off the input
        counted = [way for way in alone if way.attributes]
        return [*counted, *(way for way in tied if not way.attributes), *alone]
    return alone + tied


def count(p: Propagation, kept: Labels, way: Counted, block: Labels) -> None:
    """Record the attributes and ties that follow the number of units kept along the chosen dimension."""
    _, first = np.unique(kept, return_index=True)
    once = kept[np.sort(first)]
    for attribute, times in way.attributes:
        p.follow(attribute, np.tile(once, times) if times > 1 else once)
    if way.tied is not None:
        times = int(np.prod([block.shape[j] for j in way.tied], dtype=np.int64))
        width = width_of(p, block.ravel(), times * kept.size)
        if width is not None:
            p.equal(np.tile(kept, times), width)


def whole(p: Propagation, labels: Labels) -> None:
    """Choose the integer or width that determines the size of a dimension with all of its units."""
    if not has_units(labels):
        return
    for option in _whole(p, labels):
        p.equal(labels, option) if isinstance(option, np.ndarray) else p.follow(option, labels)


def _whole(p: Propagation, labels: Labels) -> Iterator[Any]:
    counting = [name for name, value in p.attribute(p.op.module, "").items() if value == labels.size]
    width = width_of(p, labels, labels.size)
    options = ["free"] + ["attributes"] * bool(counting) + ["width"] * (width is not None)
    if len(options) == 1:
        return
    option = p.choose("size", labels, options)
    if option == "attributes":
        yield from counting
    elif option == "width":
        yield width
