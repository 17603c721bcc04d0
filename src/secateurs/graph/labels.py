"""Labels: which unit every index of every dimension belongs to.

A tensor's `Lab` holds one entry per dimension:

- an int64 array, one label per index (`FIXED` = -1 for an index that is never removed);
- `None`: fixed, the dimension does not come from any parameter (or has size 1);
- `ANY`: constant along the dimension (made by a factory or an expand): it can be joined with any labels;
- a `Fresh`: a dimension of a parameter without labels yet; it takes the labels of the first axis that it is joined
  with, so that only real joins (a residual addition) cost a union.
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
    """The labels of one tensor: `axes`, one entry a dimension; `zero`: True if zeroed units are exactly 0 in it."""

    __slots__ = ("axes", "zero")

    def __init__(self, axes: tuple[Any, ...], *, zero: bool = True) -> None:
        """Labels along every dimension."""
        self.axes = axes
        self.zero = zero


@dataclass
class Follow:
    """A module attribute that counts channels: its value is how many of `labels` are kept.

    `at`: the recording and operator that reads it.
    """

    module: str
    attribute: str
    labels: Labels
    at: tuple[int, int]


@dataclass
class Equal:
    """Two axes that must keep equal numbers of entries, at any positions: the code uses one's size for the other."""

    left: Labels
    right: Labels
    at: tuple[int, int]


class Space:
    """Creates labels and records which were joined; `components` returns the sets that are kept or removed together."""

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
        """Join two label arrays, which met at `op`, element by element (negative labels are ignored)."""
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
    """True if two label arrays agree: equal units, or fixed entries, whose partners are protected already."""
    return bool(((a == b) | (a < 0) | (b < 0)).all())


def mix(a: Labels, b: Labels) -> Labels:
    """Merge two label arrays: the label if there is one, else `FIXED` if one is fixed, else `ANY`."""
    return np.where(a >= 0, a, np.where(b >= 0, b, np.maximum(a, b)))


def _moves(option: Any) -> Any:
    """Return what an option of a rule says about labels, without the numbers of the forward that follow them."""
    return getattr(option, "moves", option)


_PROTECTING = (None, "fixed")
"""Options of rules that protect all units of a choice."""


class Taken(NamedTuple):
    """One decision of a rule: recording and operator, labels, the option taken, and all that were possible."""

    at: tuple[int, int]
    labels: Labels | None
    option: Any
    possible: tuple[Any, ...]

    @property
    def left(self) -> int:
        """Number of options that were possible."""
        return len(self.possible)

    @property
    def alike(self) -> tuple[Any, ...]:
        """The options that move labels as this one does: they differ in the numbers that follow."""
        return tuple(o for o in self.possible if _moves(o) == _moves(self.option))

    @property
    def others(self) -> tuple[Any, ...]:
        """The options that move labels in other ways; protecting them is none."""
        return tuple(o for o in self.possible if _moves(o) != _moves(self.option) and o not in _PROTECTING)


@dataclass
class Choice:
    """A source line at which a rule has several options, with every decision taken there."""

    moments: list[Taken] = field(default_factory=list)

    @property
    def labels(self) -> list[Labels]:
        """The labels that it decides about."""
        return [taken.labels for taken in self.moments if taken.labels is not None]


class Choices:
    """Chooses between the options of rules, and records the choices by source line."""

    def __init__(
        self,
        refused: Mapping[Any, Sequence[Any]] | None = None,
        *,
        before: Mapping[Any, Choice] | None = None,
        picked: dict[Moment, Any] | None = None,
    ) -> None:
        """`refused`: place -> options that failed there; the first other option is taken.

        `before`: options of another pass by place, taken here if they are possible; `picked`: its option at every
        moment, to be taken again.
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
        # one line does one thing: the option taken there before comes first, so that chance equalities do not count
        earlier = [taken.option for taken in (self.before.get(place) or site).moments]
        allowed = options if place in self.before else left
        option = next((o for o in allowed if o in earlier), left[0] if left else options[-1])
        self.picked[moment] = option
        known = labels if isinstance(labels, np.ndarray) else None
        site.moments.append(Taken(moment[:2], known, option, tuple(left)))
        return option
