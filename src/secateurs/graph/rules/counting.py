"""Numbers in a forward that count a dimension's units: an integer of a module, or another tensor's width."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from secateurs.graph.propagate import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from secateurs.graph.labels import Labels
    from secateurs.graph.propagate import Propagation

_FAR = 64


def widths(p: Propagation, own: Labels) -> dict[int, Labels]:
    """Size -> the nearest labelled axis of that size that the current module has seen, other than `own`.

    Looked for among what the module's earlier operators read: its input is read by the first of them.
    """
    found: dict[int, Labels] = {}
    inside = p.op.module
    for op in reversed(p.tape.ops[max(p.index - _FAR, 0) : p.index]):
        if inside and op.module != inside and not op.module.startswith(f"{inside}."):
            break
        for t in tensors(op.args):
            lab = p.labs.get(id(t)) if id(t) not in p.tape.origins else None
            for axis in lab.axes if lab is not None else ():
                labels = p.settle(axis)
                if isinstance(labels, np.ndarray) and labels.size not in found and not _same(labels, own):
                    found[labels.size] = labels
    return found


def _same(a: Labels, b: Labels) -> bool:
    return a is b or (a.size == b.size and bool((a == b).all()))


class Counted(NamedTuple):
    """One way to read a split: the dimension that keeps its units, and what else counts them.

    `attributes`: (name, times) of integers that count every unit so often; `tied`: the other dimensions whose product
    with this one is the width of another tensor, or None.
    """

    k: int
    attributes: tuple[tuple[str, int], ...] = ()
    tied: tuple[int, ...] | None = None


def readings(p: Propagation, block: Labels, varying: list[int]) -> list[Counted]:
    """Which dimension of a block keeps its units, and which of the module's integers count them; the likeliest first.

    An attribute may count one dimension (`num_heads`), or its product with others (`num_heads * head_dim`): then it
    counts every unit as often. Last come sizes that are another tensor's width (`C // num_heads`).
    """
    sizes = block.shape
    alone: list[Counted] = []
    tied: list[Counted] = []
    counting = p.attribute(p.op.module, "")
    if p.in_attention:  # its other integers are read off its weights
        counting = {"num_heads": counting["num_heads"]} if "num_heads" in counting else {}
    near = widths(p, block.ravel())
    for k in sorted(varying, key=lambda k: (-sizes[k], -k)):
        units = np.unique(np.moveaxis(block, k, 0).reshape(sizes[k], -1)[:, 0]).size
        others = [j for j in range(len(sizes)) if j != k and sizes[j] > 1]
        some = [dims for r in range(1, len(others) + 1) for dims in combinations(others, r)]
        times = {int(np.prod([sizes[j] for j in dims])) for dims in some}
        counts = tuple((name, 1) for name, value in counting.items() if value == units)
        totals = tuple((name, n) for n in sorted(times) for name, value in counting.items() if value == n * units)
        ways = [Counted(k)] + [Counted(k, counts)] * bool(counts) + [Counted(k, counts + totals)] * bool(totals)
        alone += ways
        products = [dims for dims in [(), *some] if int(np.prod([sizes[j] for j in dims])) * sizes[k] in near]
        tied += [way._replace(tied=dims) for way in reversed(ways) for dims in products]
    if p.in_attention:  # its heads are counted by `num_heads`, and its widths read off the query
        tied = [way for way in tied if not way.attributes]
        by_head = [way for way in alone if ("num_heads", 1) in way.attributes]
        return [*by_head, *tied, *alone] if by_head else [*tied, *alone]
    return alone + tied


def count(p: Propagation, kept: Labels, way: Counted, block: Labels) -> None:
    """Write down what follows the units that stay along the chosen dimension."""
    _, first = np.unique(kept, return_index=True)
    once = kept[np.sort(first)]
    for attribute, times in way.attributes:
        p.follow(attribute, np.tile(once, times) if times > 1 else once)
    if way.tied is not None:
        times = int(np.prod([block.shape[j] for j in way.tied], dtype=np.int64))
        width = widths(p, block.ravel()).get(times * kept.size)
        if width is not None:
            p.equal(np.tile(kept, times), width)


def whole(p: Propagation, labels: Labels) -> None:
    """A dimension that keeps all of its units may still be given as a number: choose what that follows."""
    for option in _whole(p, labels):
        p.equal(labels, option) if isinstance(option, np.ndarray) else p.follow(option, labels)


def _whole(p: Propagation, labels: Labels) -> Iterator[Any]:
    counting = [name for name, value in p.attribute(p.op.module, "").items() if value == labels.size]
    width = widths(p, labels).get(labels.size)
    options = ["free"] + ["attributes"] * bool(counting) + ["width"] * (width is not None)
    if len(options) == 1:
        return
    option = p.choose("size", labels, options)
    if option == "attributes":
        yield from counting
    elif option == "width":
        yield width
