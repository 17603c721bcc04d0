"""IncReg's punish functions: the increment of a group's penalty factor, by its rank within its layer.

All work on whole batches of layers: `rank` is [..., units] (0 = least important), `remaining` [..., 1] is R, the
number of units that the layer still has to lose. Units past R receive a negative increment, so mistakes can be
undone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from secateurs.errors import InputError

# exp(80) is finite in float32; beyond it the factor is floored at zero anyway.
_LARGEST = 80.0


@dataclass(frozen=True)
class Punish:
    """The published centrosymmetric exponential Δ(r): A at rank 0, u·A at N1, 0 at R, increasingly negative beyond.

    α = ln(2/u) / R;  N1 = −ln(u) / α
    Δ(r) = A·e^{−α r}                       for r < N1
         = 2uA − A·e^{−α (2 N1 − r)}        otherwise
    Source: Wang et al., IncReg (arXiv 1804.09461), authors' Caffe code; `u` = 0.25 is fixed there. `paper_commit`
    uses R + 1 in the denominator of α, as the commit that says it reproduces the paper does.

    >>> [round(float(x), 2) for x in Punish()(torch.tensor([0.0, 10, 25, 40, 50, 75, 99]), torch.tensor(50.0))]
    [1.0, 0.66, 0.35, 0.17, -0.0, -0.91, -3.34]
    """

    u: float = 0.25
    paper_commit: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.u < 1.0:
            raise InputError(f"Punish(u={self.u}): u lies between 0 and 1.")

    def __call__(self, rank: Tensor, remaining: Tensor) -> Tensor:
        """Increments in units of A; zero everywhere where nothing remains to be removed."""
        alpha = math.log(2.0 / self.u) / (remaining.clamp(min=1.0) + float(self.paper_commit))
        turn = -math.log(self.u) / alpha
        early = torch.exp(-alpha * rank)
        late = 2.0 * self.u - torch.exp((-alpha * (2.0 * turn - rank)).clamp(max=_LARGEST))
        return torch.where(rank < turn, early, late) * (remaining > 0)


def punish_two_sided(rank: Tensor, remaining: Tensor, alive: Tensor, *, k2: float = 0.75) -> Tensor:
    """The code's second scheme, discontinuous at R: e^{−a1 r} below R, −e^{−a2 (G' − 1 − r)} from R on.

    a1 = ln(1/k2)/(R − 1), a2 = ln(1/k2)/(G' − 1 − R), G' = `alive` units. In the code k2 follows the progress
    between the last feasible and the target rate, at least 0.05; here it is a constant.

    >>> [round(float(x), 2) for x in punish_two_sided(torch.arange(4.0), torch.tensor(2.0), torch.tensor(4.0))]
    [1.0, 0.75, -0.75, -1.0]
    """
    fall = math.log(1.0 / k2)
    below = torch.exp(-fall / (remaining - 1.0).clamp(min=1.0) * rank)
    above = -torch.exp(-fall / (alive - 1.0 - remaining).clamp(min=1.0) * (alive - 1.0 - rank))
    return torch.where(rank < remaining, below, above) * (remaining > 0)


def punish_magnitude(score: Tensor, remaining: Tensor) -> Tensor:
    """The old commits' rule, linear in magnitude: 1 − (a − a_min)/(a_(R) − a_min), a_(R) the R-th smallest (from 0).

    >>> punish_magnitude(torch.tensor([1.0, 2.0, 3.0, 5.0]), torch.tensor([2.0]))
    tensor([ 1.0000,  0.5000,  0.0000, -1.0000])
    """
    ordered = score.sort(dim=-1).values
    pivot = ordered.gather(-1, remaining.long().clamp(max=score.shape[-1] - 1))
    low = ordered[..., :1]
    return (1.0 - (score - low) / (pivot - low).clamp(min=torch.finfo(score.dtype).tiny)) * (remaining > 0)


def punish_linear(rank: Tensor, remaining: Tensor, alive: Tensor) -> Tensor:
    """Piecewise linear in rank: 1 − r/R up to R, −(r − R)/(G' − 1 − R) above.

    A plausible form of the workshop text's function that could not be checked against it: offered, not claimed.

    >>> punish_linear(torch.arange(4.0), torch.tensor(2.0), torch.tensor(4.0))
    tensor([ 1.0000,  0.5000,  0.0000, -1.0000])
    """
    below = 1.0 - rank / remaining.clamp(min=1.0)
    above = -(rank - remaining) / (alive - 1.0 - remaining).clamp(min=1.0)
    return torch.where(rank <= remaining, below, above) * (remaining > 0)
