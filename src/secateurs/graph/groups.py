"""The values that a graph is made of: slices, groups, protections, costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Index = NDArray[np.int64]

Role = Literal["out", "in", "bias", "scale", "shift", "stat", "direction", "other"]
"""The part of a slice in its unit: `out` produces the unit (a filter), `in` reads it (a later layer's input channel),
`bias` is added by the writing operator, `scale`, `shift` and `stat` belong to a norm. A `direction` (the v of a weight
norm) is divided by its own norm, so that silencing a unit zeroes its scale and leaves the direction as it is."""


@dataclass(frozen=True, eq=False)
class Slice:
    """Entries `index[u]` along `dim` of the parameter or buffer named `tensor` belong to unit `u`.

    `index` is int64 of shape [units, m]: a unit may own several positions (a flattened map, a split block). role: see
    `Role`.
    """

    tensor: str
    dim: int
    index: Index
    role: Role = "other"

    @cached_property
    def in_order(self) -> bool:
        """True if unit u owns the one entry u, for every u."""
        units, m = self.index.shape
        return m == 1 and np.array_equal(self.index[:, 0], np.arange(units))

    def __repr__(self) -> str:
        """One line: tensor, dimension, units, role."""
        return f"Slice({self.tensor!r}, dim {self.dim}, {self.index.shape[0]}x{self.index.shape[1]}, {self.role})"


@dataclass(frozen=True, eq=False)
class Site:
    """A module input or output that carries units: unit `u` is the entries `index[u]` along `dim` of that activation.

    port: "input" (the first one) or "output". `writes` is True where a parametrised operator of this module
    (convolution, linear) produces the units, so that the site is the raw output of a filter; `reads` where such an
    operator consumes them. `shape` is that of the activation as it was traced.
    """

    module: str
    port: Literal["input", "output"]
    dim: int
    index: Index
    writes: bool = False
    reads: bool = False
    shape: tuple[int, ...] = ()

    @property
    def positions(self) -> int:
        """Entries that a unit owns here: of the map of an image, where the batch was one image.

        >>> Site("pool", "input", 1, np.zeros((8, 1), dtype=np.int64), shape=(1, 8, 4, 4)).positions
        16
        """
        return math.prod(self.shape) // max(1, self.shape[self.dim]) * self.index.shape[1]


@dataclass(frozen=True, eq=False)
class Group:
    """Units that occupy the same dimensions of the same tensors; any of them can be removed from all `slices` at once.

    name: of a module that produces the units. units: their number. `exact` is False where an operator averages,
    compares or normalises over the units, so that removing a unit differs from zeroing it; `inexact_because` names each
    such operator.
    """

    name: str
    units: int
    slices: tuple[Slice, ...]
    exact: bool = True
    inexact_because: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One line: name, units, tensors."""
        mark = "" if self.exact else ", inexact"
        return f"Group({self.name!r}, {self.units} units, {len(self.slices)} slices{mark})"


@dataclass(frozen=True)
class Tie:
    """The groups `groups` lose units in proportion: in every plan, each has lost its `step` equally often.

    `because` names the operator that takes one's width for another's.

    >>> Tie(("blocks.0.attn.qkv", "patch_embed"), (1, 4), "aten.view").lost(2)
    {'blocks.0.attn.qkv': 2, 'patch_embed': 8}
    """

    groups: tuple[str, ...]
    step: tuple[int, ...]
    because: str

    def lost(self, steps: int) -> dict[str, int]:
        """Number of units that each group has lost after so many steps."""
        return {name: steps * n for name, n in zip(self.groups, self.step, strict=True)}


@dataclass(frozen=True, eq=False)
class Protected:
    """Entries `index` along `dim` of `tensor` that are never removed, with the `reason`."""

    tensor: str
    dim: int
    index: Index
    reason: str

    def __repr__(self) -> str:
        """One line: where and why."""
        return f"Protected({self.tensor!r} dim {self.dim}, {self.index.size} entries: {self.reason})"


@dataclass(frozen=True)
class Cost:
    """Cost of one forward pass on the example inputs, in exact integers.

    macs: multiply-accumulates of convolutions, matrix products and attention; params: scalars in distinct parameters;
    memory: bytes of every activation that an operator writes (views and in-place results add none).
    """

    macs: int
    params: int
    memory: int


def largest_reason(
    protected: Sequence[Protected], roles: Mapping[tuple[str, int], str], shapes: Mapping[str, tuple[int, ...]]
) -> str:
    """Return the reason that protects most channels, and their number; empty if none is protected.

    Channels are counted where they are produced, along the output dimension of weights.
    """
    kept: dict[str, dict[str, int]] = {}
    for p in protected:
        role = roles.get((p.tensor, p.dim))
        if role == "out" or (role is None and p.dim == 0 and len(shapes[p.tensor]) > 1):
            kept.setdefault(p.reason, {})[p.tensor] = int(p.index.size)
    if not kept:
        return ""
    reason, tensors = max(kept.items(), key=lambda found: sum(found[1].values()))
    largest = max(tensors, key=lambda name: tensors[name])
    others = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
    return f"{sum(tensors.values())} channels ({largest}{others}) are never removed: {reason}"
