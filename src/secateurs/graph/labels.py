"""Labels: which unit every index of every dimension belongs to.

A tensor's `Lab` holds one entry per dimension:

- an int64 array, one label per index (`FIXED` = -1 for an index that can never go);
- `None`: fixed, the dimension does not come from any parameter (or has size 1);
- `ANY`: constant along the dimension (made by a factory or an expand): it meets anything;
- a `Fresh`: a dimension of a parameter that nothing has met yet; it adopts the labels it meets first, so that most
  coupling costs nothing and only real joins (a residual addition) are left to the union.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Labels = NDArray[np.int64]
    Moment = tuple[int, int, str]
    """Recording, operator and kind of choice."""

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
    """A module attribute that counts survivors: its value is how many of `labels` are kept.

    `at`: the recording and operator that reads it.
    """

    module: str
    attribute: str
    labels: Labels
    at: tuple[int, int]


@dataclass
class Equal:
    """Two axes that keep equally many entries, at whatever positions: the code takes the one's size for the other's."""

    left: Labels
    right: Labels
    at: tuple[int, int]


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
        from scipy.sparse import coo_array  # half of the time of `import secateurs`, which not every program needs
        from scipy.sparse.csgraph import connected_components

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


@dataclass
class Choice:
    """A place in the source where a rule had a choice: its options, what it took, the labels it decides about."""

    options: int
    labels: list[Labels] = field(default_factory=list)
    at: list[tuple[int, int]] = field(default_factory=list)
    taken: list[Any] = field(default_factory=list)


class Choices:
    """Takes options, and remembers where."""

    def __init__(
        self,
        numbers: Mapping[Any, int] | None = None,
        *,
        before: Mapping[Any, Choice] | None = None,
        picked: dict[Moment, Any] | None = None,
    ) -> None:
        """`numbers`: place -> which option to take, the first by default.

        `before`: what another pass took at each place, to be taken here where it is an option; `picked`: what it took
        at every moment, to be taken again.
        """
        self.numbers = numbers or {}
        self.before = before or {}
        self.given = picked is not None
        self.picked: dict[Moment, Any] = picked if picked is not None else {}
        self.sites: dict[Any, Choice] = {}

    def take(self, moment: Moment, place: Any, labels: Any, options: list[Any]) -> Any:
        """The option for this moment at this place of the source."""
        if self.given:
            return self.picked[moment]
        site = self.sites.setdefault(place, Choice(len(options)))
        site.options = max(site.options, len(options))
        site.at.append(moment[:2])
        if isinstance(labels, np.ndarray):
            site.labels.append(labels)
        option = options[min(self.numbers.get(place, 0), len(options) - 1)]
        earlier = self.before[place].taken if place in self.before else ()
        option = self.picked[moment] = next((o for o in options if o in earlier), option)
        if option not in site.taken:
            site.taken.append(option)
        return option
