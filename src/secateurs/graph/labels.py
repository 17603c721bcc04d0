"""Labels: which unit every index of every dimension belongs to.

A tensor's `Lab` holds one entry per dimension:

- an int64 array, one label per index (`FIXED` = -1 for an index that can never go);
- `None`: fixed, the dimension does not come from any parameter (or has size 1);
- `ANY`: constant along the dimension (made by a factory or an expand): it meets anything;
- a `Fresh`: a dimension of a parameter that nothing has met yet; it adopts the labels it meets first, so that most
  coupling costs nothing and only real joins (a residual addition) are left to the union.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Labels = NDArray[np.int64]

FIXED: Final = -1


class _Any:
    """The type of `ANY`."""

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = _Any()


class Fresh:
    """A dimension of a parameter or buffer whose labels are not decided yet."""

    __slots__ = ("dim", "name", "size")

    def __init__(self, name: str, dim: int, size: int) -> None:
        """Dimension `dim` of the tensor `name`, of `size` indices."""
        self.name = name
        self.dim = dim
        self.size = size


class Lab:
    """The labels of one tensor: `axes`, one entry a dimension; `zero`: whether silent units' entries are exactly 0."""

    __slots__ = ("axes", "zero")

    def __init__(self, axes: tuple[Any, ...], *, zero: bool = True) -> None:
        """Labels along every dimension."""
        self.axes = axes
        self.zero = zero


@dataclass
class Follow:
    """A module attribute that counts survivors: its value is how many of `labels` are kept."""

    module: str
    attribute: str
    labels: Labels


class Space:
    """Hands out labels and collects which of them met; `components` says which live or die together."""

    def __init__(self) -> None:
        """Start with no label."""
        self.size = 0
        self._left: list[Labels] = []
        self._right: list[Labels] = []

    def fresh(self, count: int) -> Labels:
        """`count` new labels."""
        start = self.size
        self.size += count
        return np.arange(start, self.size, dtype=np.int64)

    def join(self, left: Labels, right: Labels) -> None:
        """Element by element, these labels live or die together (negative ones are ignored)."""
        self._left.append(left)
        self._right.append(right)

    def components(self) -> NDArray[np.int64]:
        """Label -> unit, numbered by first label."""
        if not self._left:
            return np.arange(self.size, dtype=np.int64)
        left = np.concatenate(self._left)
        right = np.concatenate(self._right)
        real = (left >= 0) & (right >= 0)
        left, right = left[real], right[real]
        links = coo_array((np.ones(left.size, dtype=np.int8), (left, right)), shape=(self.size, self.size))
        _, component = connected_components(links, directed=False)
        _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
        order = np.empty_like(first)
        order[np.argsort(first, kind="stable")] = np.arange(first.size)
        return order[inverse].astype(np.int64)
