"""IncReg's penalty: the factor of a group of weights moves by an increment that depends on its rank in its layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from secateurs.errors import InputError
from secateurs.graph.groups import Role
from secateurs.session.flat_units import l1
from secateurs.session.per_group import group_sums, ranks, spread
from secateurs.session.schedule import Position
from secateurs.session.scope import Units

# exp(80) is finite in float32; beyond it the factor is floored at zero anyway.
_LARGEST = 80.0


@dataclass(frozen=True)
class Punish:
    """The published centrosymmetric exponential Δ(r): A at rank 0, u·A at N1, 0 at R, increasingly negative beyond.

    `rank` is [..., units] (0 = least important) and `remaining` R, the number of units that the layer has still to
    lose. Units past R receive a negative increment, so that mistakes can be undone.

    α = ln(2/u) / R;  N1 = −ln(u) / α
    Δ(r) = A·e^{−α r}                       for r < N1
         = 2uA − A·e^{−α (2 N1 − r)}        otherwise
    Source: Wang et al., IncReg (arXiv 1804.09461), authors' Caffe code; `u` = 0.25 is fixed there. `paper_commit`
    uses R + 1 in the denominator of α, as the commit that says it reproduces the paper does.

    >>> [round(float(x), 2) for x in Punish()(torch.tensor([0.0, 10, 25, 40, 50, 75, 99]), torch.tensor(50.0))]
    [1.0, 0.66, 0.35, 0.17, -0.0, -0.91, -3.34]
    """

    u: float = 0.25
    _: KW_ONLY
    paper_commit: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.u < 1.0:
            raise InputError(f"Punish(u={self.u}): u lies between 0 and 1.")

    def __call__(self, rank: Tensor, remaining: Tensor) -> Tensor:
        """Return increments in units of A; zero if no unit remains to be removed."""
        alpha = math.log(2.0 / self.u) / (remaining.clamp(min=1.0) + float(self.paper_commit))
        turn = -math.log(self.u) / alpha
        early = torch.exp(-alpha * rank)
        late = 2.0 * self.u - torch.exp((-alpha * (2.0 * turn - rank)).clamp(max=_LARGEST))
        return torch.where(rank < turn, early, late) * (remaining > 0)


@dataclass(frozen=True, eq=False)
class Increments:
    """The state of the penalty, per unit: factor, running mean of ranks, and whether it has reached the ceiling."""

    updates: int
    factor: Tensor
    rank: Tensor
    dead: Tensor
    target: Tensor
    """Units that each group loses, [groups]."""


@dataclass(frozen=True)
class IncrementalL2:
    """One update a step: 1 score, 2 rank, 3 running mean of ranks, 4 rank again, 5 increment, 6 factor."""

    step: float
    ceiling: float
    punish: Punish
    roles: tuple[Role, ...] = ("out",)

    def init(self, units: Units) -> Increments:
        """Return factors of zero."""
        zeros = torch.zeros(units.ledger.total, device=units.rows.device)
        target = torch.tensor(units.counts, dtype=torch.float32, device=units.rows.device)
        return Increments(0, zeros, zeros.clone(), zeros.bool(), target)

    def update(self, units: Units, state: Increments, at: Position) -> tuple[Tensor, Increments]:
        """Change every factor by its unit's rank among the remaining units of its group."""
        ledger, dead, n = units.ledger, state.dead, state.updates + 1
        score = units.measured.measure(l1, mean=True)
        rank = ranks(torch.where(dead, -torch.inf, score), ledger).float()
        mean = state.rank + (rank - state.rank) / n  # h ← ((n − 1)·h + r) / n
        alive = ranks(torch.where(dead, torch.inf, mean), ledger).float()
        remaining = spread(state.target - group_sums(dead.float(), ledger), ledger)
        factor = (state.factor + self.step * self.punish(alive, remaining)).clamp_(min=0.0)
        # Groups that have lost enough, and zeroed units, are not penalised any more.
        factor *= (remaining > 0) & ~dead
        return factor, Increments(n, factor, mean, dead | (factor >= self.ceiling), state.target)

    def direction(self, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return W."""
        return weights
