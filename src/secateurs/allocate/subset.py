"""A subset of the groups, with the interface of a graph: only these shrink; the budget counts the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateurs.allocate.levels import Costs
from secateurs.graph import Graph, Group, Tie
from secateurs.types import Ints


@dataclass(frozen=True, eq=False)
class Part:
    """The groups that a method may prune, with the interface of a graph; the other groups stay whole."""

    whole: Graph
    groups: tuple[Group, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups."""
        return tuple(group.name for group in self.groups)

    @property
    def signature(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's shape."""
        return self.whole.signature

    @property
    def ties(self) -> tuple[Tie, ...]:
        """Ties among the groups; groups tied to one outside this subset stay whole."""
        return self.whole.ties

    @property
    def costs(self) -> Costs:
        """Cost of the whole network, as a function of the widths of this part."""
        names = set(self.names)
        inside = np.array([g.name in names for g in self.whole.groups], dtype=bool)
        return _PartCosts(self.whole.costs, self.whole.widths, inside)


@dataclass(frozen=True, eq=False)
class _PartCosts:
    costs: Costs
    widths: Ints
    inside: NDArray[np.bool_]

    def at(self, widths: Ints) -> Ints:
        """Return (macs, params, memory) [..., 3] for units kept per group of the part [..., G]."""
        return self.costs.at(self._full(widths))

    def moments(self, widths: Ints) -> Ints:
        """Return the bytes of activations alive [..., moments] for units kept per group of the part [..., G]."""
        return self.costs.moments(self._full(widths))

    def _full(self, widths: Ints) -> Ints:
        """The widths of all groups; those outside the part are whole."""
        widths = np.asarray(widths, np.int64)
        full = np.broadcast_to(self.widths, (*widths.shape[:-1], len(self.widths))).copy()
        full[..., self.inside] = widths
        return full
