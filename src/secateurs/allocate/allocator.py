"""The allocator interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from secateurs.allocate.budget import Budget
from secateurs.allocate.levels import Costed
from secateurs.types import Keep


@runtime_checkable
class Allocator(Protocol):
    """Interface of allocators: choose the units to keep of every group, ascending, from scores, a graph and a budget.

    Every allocator of the library meets all constraints, and would break one with one step less removed; a smaller
    budget keeps a subset of the units; ties between equal scores are broken by a fixed rule (see `Uniform`).
    """

    def __call__(self, scores: Mapping[str, Tensor], graph: Costed, budget: Budget, /) -> Keep:
        """Return the units that stay in every group."""
        ...
