"""`GraSP`: first-order effect of a filter on the squared norm of the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from secateurs.criteria.reductions import dot, of_roles
from secateurs.errors import InputError
from secateurs.evidence.derivatives import Derivatives, HessianGradient
from secateurs.evidence.kinds import Evidence, Needs, Weights
from secateurs.graph.groups import Group, Role


@dataclass(frozen=True)
class GraSP:
    """Half of the first-order decrease of the squared gradient norm if the unit is removed.

        I(u) = sum over slices s of u, sum over entries w of s:  w (H g)(w)

    g and H are the gradient and the Hessian of the mean loss at logits / temperature. Wang, Zhang and Grosse, "Picking
    Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020, arXiv 2002.07376, for single weights at
    initialisation; summed over filters as in the code of OrthoReg, which draws equally many samples of each class, and
    ours uses the data as given. Scores have a sign. temperature: divisor of the logits. roles: the slices
    that count, by default the filters that write the unit, and their biases. Two passes over the data, whose batches
    are held in memory meanwhile.

    Raises InputError for a temperature that is not above 0.

    >>> import numpy as np
    >>> from secateurs.graph.groups import Slice
    >>> group = Group("conv", 2, (Slice("w", 0, np.array([[0], [1]]), "out"),))
    >>> w, hg = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.5, -1.0], [0.0, 0.25]])
    >>> GraSP()(group, Evidence({"weights": Weights({"w": w}), "flow": {"w": hg}})).tolist()
    [-1.5, 1.0]
    """

    temperature: float = 200.0
    _: KW_ONLY
    roles: tuple[Role, ...] | None = ("out", "bias")

    def __post_init__(self) -> None:
        """Refuse a temperature that divides by nothing."""
        if not 0 < self.temperature < float("inf"):
            message = f"GraSP(temperature={self.temperature}) divides the logits by it. Give a number above 0."
            raise InputError(message)

    @property
    def needs(self) -> Needs:
        """The evidence that must be gathered for it, by the names under which it reads it."""
        return {"weights": Weights, "flow": Derivatives(_Flow(self.temperature))}

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        """Return the part of each unit, with its sign."""
        weights: Weights = evidence["weights"]
        flow: Mapping[str, Tensor] = evidence["flow"]
        slices = of_roles(group, self.roles, among=weights.parameters, why=repr(self))
        return torch.stack([dot(weights.tensors[s.tensor], flow[s.tensor], s) for s in slices]).sum(0)


@dataclass(frozen=True)
class _Flow:
    """Makes the statistic; equal for equal temperatures, so that it is gathered once."""

    temperature: float

    def __call__(self) -> HessianGradient:
        return HessianGradient(self.temperature)
