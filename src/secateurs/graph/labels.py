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
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from secateurs.graph.recorder import Op

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
        self.joins: list[tuple[Labels, Labels, Op]] = []

    def fresh(self, count: int) -> Labels:
        """`count` new labels."""
        start = self.size
        self.size += count
        return np.arange(start, self.size, dtype=np.int64)

    def join(self, left: Labels, right: Labels, op: Op) -> None:
        """Element by element, these labels live or die together (negative ones are ignored): they met at `op`."""
        self.joins.append((left, right, op))

    def components(self) -> NDArray[np.int64]:
        """Label -> unit, numbered by first label."""
        if not self.joins:
            return np.arange(self.size, dtype=np.int64)
        from scipy.sparse import coo_array  # half of the time of `import secateurs`, which not every program needs
        from scipy.sparse.csgraph import connected_components

        left = np.concatenate([left for left, _, _ in self.joins])
        right = np.concatenate([right for _, right, _ in self.joins])
        real = (left >= 0) & (right >= 0)
        left, right = left[real], right[real]
        links = coo_array((np.ones(left.size, dtype=np.int8), (left, right)), shape=(self.size, self.size))
        _, component = connected_components(links, directed=False)
        _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
        order = np.empty_like(first)
        order[np.argsort(first, kind="stable")] = np.arange(first.size)
        return order[inverse].astype(np.int64)


def agree(a: Labels, b: Labels) -> bool:
    """Whether equal units meet, or fixed entries (which protected the units that they met)."""
    return bool(((a == b) | (a < 0) | (b < 0)).all())


def mix(a: Labels, b: Labels) -> Labels:
    """Of two entries that met: the label if there is one, else fixed if one is fixed, else anything."""
    return np.where(a >= 0, a, np.where(b >= 0, b, np.maximum(a, b)))


class Taken(NamedTuple):
    """One moment at which a rule had a choice: when, about which labels, what it took, what it could still take."""

    at: tuple[int, int]
    labels: Labels | None
    option: Any
    left: int


@dataclass
class Choice:
    """A place in the source where a rule has a choice, and every moment at which it was run."""

    moments: list[Taken] = field(default_factory=list)

    @property
    def labels(self) -> list[Labels]:
        """What it decides about."""
        return [taken.labels for taken in self.moments if taken.labels is not None]


class Choices:
    """Takes options, and remembers where."""

    def __init__(
        self,
        refused: Mapping[Any, Sequence[Any]] | None = None,
        *,
        before: Mapping[Any, Choice] | None = None,
        picked: dict[Moment, Any] | None = None,
    ) -> None:
        """`refused`: place -> options that do not hold there; the first other one is taken.

        `before`: what another pass took at each place, to be taken here where it is an option; `picked`: what it took
        at every moment, to be taken again.
        """
        self.refused = refused or {}
        self.before = before or {}
        self.given = picked is not None
        self.picked: dict[Moment, Any] = picked if picked is not None else {}
        self.sites: dict[Any, Choice] = {}

    def take(self, moment: Moment, place: Any, labels: Any, options: list[Any]) -> Any:
        """The option for this moment at this place of the source."""
        if self.given:
            return self.picked[moment]
        refused = self.refused.get(place, ())
        left = [option for option in options if option not in refused]
        site = self.sites.setdefault(place, Choice())
        # one line does one thing: what was taken there before comes first, so that no size that agrees by chance counts
        earlier = [taken.option for taken in (self.before.get(place) or site).moments]
        allowed = options if place in self.before else left
        option = next((o for o in allowed if o in earlier), left[0] if left else options[-1])
        self.picked[moment] = option
        known = labels if isinstance(labels, np.ndarray) else None
        site.moments.append(Taken(moment[:2], known, option, len(left)))
        return option
