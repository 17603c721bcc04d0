"""First-order importance during training, and the early-bird test of when a choice is stable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from secateurs.criteria import BatchNormScale, Criterion, Magnitude, score
from secateurs.errors import EvidenceError
from secateurs.evidence import Evidence, Gradients, observe
from secateurs.graph import Group
from secateurs.running.batches import read_batch
from secateurs.session.run import Run

Gradient = Mapping[str, Tensor]
Reduction = Literal["mean_then_square", "square_then_mean"]


@dataclass(frozen=True)
class Importance:
    """Gradients over `samples` training samples, in eval mode: one mean gradient, or one per batch."""

    reduction: Reduction
    samples: int

    def check(self, run: Run) -> None:
        """Refuse a session without data."""
        if run.data is None:
            raise EvidenceError(
                "OrthoReg ranks filters by the loss gradient, and the session was given no data. "
                "Pass data=, an iterable of (inputs, targets) batches, and loss= unless it is cross entropy."
            )

    def gradients(self, run: Run) -> tuple[list[Gradient], int]:
        """Return the mean gradient, or those of batches, averaged over processes, and the samples of this process.

        The model is not changed.
        """
        batches, seen = _limited(run.data or (), -(-self.samples // run.ranks.size), run.device)
        parts = [batches] if self.reduction == "mean_then_square" else [[batch] for batch in batches]
        found = [observe(run.graph, run.model, [Gradients], data=p, loss=run.loss)[Gradients].tensors for p in parts]
        return [{name: run.ranks.mean(g) for name, g in sorted(one.items())} for one in found], seen


def first_order(group: Group, weights: Mapping[str, Tensor], gradients: Sequence[Gradient]) -> Tensor:
    """I_u = mean over gradients of ( Σ θ·g )², over all producing rows and biases of unit u; float64 [units].

    With one gradient this is OrthoReg's published score (its code calls it "fisher", too). Coupled producers add with
    their signs, since removing the unit removes them together (ours).

    >>> import numpy as np
    >>> from secateurs.graph import Slice
    >>> group = Group("g", 2, (Slice("w", 0, np.array([[0], [1]]), "out"),))
    >>> first_order(group, {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, [{"w": torch.ones(2, 2)}]).tolist()
    [9.0, 49.0]
    """
    total = torch.zeros(group.units, dtype=torch.float64)
    for gradient in gradients:
        change = torch.zeros(group.units, dtype=torch.float64)
        for piece in group.slices:
            if piece.role in {"out", "bias"} and piece.tensor in gradient:
                product = (weights[piece.tensor].detach().double() * gradient[piece.tensor].double()).cpu()
                rows = product.transpose(0, piece.dim).reshape(product.shape[piece.dim], -1).sum(1)
                change += rows[torch.from_numpy(piece.index)].sum(1)
        total += change.square()
    return total / max(len(gradients), 1)


@dataclass(frozen=True)
class EarlyBird:
    """Stop when the choice is stable: the newest mask is within `distance` of the `window` − 1 before it.

    The distance of two masks is the share of units that one keeps and the other does not; masks are drawn at the
    end of every epoch from `criterion`. Source: You et al. 2020, Drawing Early-Bird Tickets (arXiv 1909.11957),
    published code: BatchNorm scales ranked over the whole network, five masks, 0.1.
    Groups without a norm are scored by magnitude (ours).
    """

    distance: float = 0.1
    _: KW_ONLY
    window: int = 5
    criterion: Criterion = field(default_factory=lambda: BatchNormScale(fallback=Magnitude()))

    def scores(self, run: Run) -> dict[str, Tensor]:
        """Score every group by the present weights."""
        evidence: Evidence = observe(run.graph, run.model, self.criterion.needs, data=run.data, loss=run.loss)
        return score(self.criterion, run.graph.groups, evidence)


def mask_distance(one: Tensor, other: Tensor) -> float:
    """Share of units on which two masks differ.

    >>> mask_distance(torch.tensor([True, True, False, False]), torch.tensor([True, False, False, False]))
    0.25
    """
    return float((one != other).double().mean())


def _limited(data: Any, samples: int, device: torch.device) -> tuple[list[Any], int]:
    """Return the first batches with at least `samples` samples in all, and their number; all if there are fewer."""
    batches, seen = list[Any](), 0
    for number, raw in enumerate(data):
        batches.append(raw)
        seen += read_batch(raw, number, device).size
        if seen >= samples:
            break
    return batches, seen
