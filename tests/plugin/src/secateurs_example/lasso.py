"""Group lasso: a penalty on the norm of every filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from secateurs.criteria import Criterion, Magnitude
from secateurs.graph.groups import Role
from secateurs.session.flat_units import squares
from secateurs.session.penalty import Penalty, Stateless
from secateurs.session.sparsify import Sparsify


@dataclass(frozen=True)
class NormPenalty:
    """strength · Σ over units of the norm of a unit's weights, whose gradient is W / norm."""

    strength: float = 1e-3
    roles: tuple[Role, ...] = ("out",)

    def init(self, units: Any) -> Stateless:
        """Return an empty state."""
        return Stateless()

    def update(self, units: Any, state: Stateless, at: Any) -> tuple[Tensor, Stateless]:
        """Return strength / norm of every unit."""
        return self.strength / units.rows.measure(squares).sqrt().clamp(min=1e-8), state

    def direction(self, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return W."""
        return weights


@dataclass(frozen=True)
class GroupLasso(Sparsify):
    """Group lasso: whole filters are drawn to zero, and the smallest are cut half way.

    Wen, Wu, Wang, Chen and Li, "Learning Structured Sparsity in Deep Neural Networks", NeurIPS 2016.
    """

    penalty: Penalty[Any] = NormPenalty()
    criterion: Criterion = field(default_factory=lambda: Magnitude(p=2))
    reference: ClassVar[str] = "Wen et al. Learning Structured Sparsity in Deep Neural Networks. NeurIPS 2016"
