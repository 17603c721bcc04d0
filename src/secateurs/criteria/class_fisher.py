"""`RDT`: Fisher information of the predicted classes about a filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateurs.criteria.reductions import dot, of_roles
from secateurs.evidence.derivatives import ClassFisher, Derivatives
from secateurs.evidence.kinds import Evidence, Needs, Weights
from secateurs.graph.groups import Group, Role


@dataclass(frozen=True)
class RDT:
    """The Fisher information of the predicted classes about a filter, relative to its tensor.

        I(u) = sum over slices s of u, sum over entries w of s:  F(w) / mean of F over the tensor of s
        F(w) = sum over classes k:  p_k (d log p_k / dw)²,  p_k and log p_k as means over a batch

    The baseline of that name in the code of OrthoReg (Lubana, Trivedi, Hougen, Dick and Hero 2020, arXiv 2009.10839);
    there it is called the KL version of a rate-distortion criterion. It needs no labels, and one backward pass per
    class and batch. roles: the slices that count, by default the filters that produce the unit, and their biases.

    >>> import numpy as np
    >>> from secateurs.graph.groups import Slice
    >>> group = Group("conv", 2, (Slice("w", 0, np.array([[0], [1]]), "out"),))
    >>> w = torch.ones(2, 2)
    >>> found = {"weights": Weights({"w": w}), "information": {"w": torch.tensor([[1.0, 2.0], [0.0, 1.0]])}}
    >>> RDT()(group, Evidence(found)).tolist()
    [3.0, 1.0]
    """

    roles: tuple[Role, ...] | None = ("out", "bias")

    @property
    def needs(self) -> Needs:
        """The evidence that must be gathered for it, by the names under which it reads it."""
        return {"weights": Weights, "information": Derivatives(ClassFisher)}

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        """Return the information of each unit."""
        weights: Weights = evidence["weights"]
        information: Mapping[str, Tensor] = evidence["information"]
        total = torch.zeros(group.units, dtype=torch.float64)
        for s in of_roles(group, self.roles, among=weights.parameters, why=repr(self)):
            found = information[s.tensor]
            mean = found.double().mean()
            if mean > 0:
                total += dot(found, torch.ones_like(found), s).cpu() / mean.cpu()
        return total
