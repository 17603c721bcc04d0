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
    """Scores, a graph and a budget in; the units to keep of every group out, ascending.

    The law of the result, for every allocator here: it meets all constraints; putting back the last step removed
    breaks one; a smaller budget keeps a subset; equal scores are decided by rule (see `Uniform`), never by chance.
    """

    def __call__(self, scores: Mapping[str, Tensor], graph: Costed, budget: Budget, /) -> Keep:
        """Return the units that stay in every group."""
        ...
