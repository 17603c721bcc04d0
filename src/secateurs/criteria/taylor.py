"""Taylor: the first-order estimate of the change of the loss if the unit is removed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateurs.criteria.reductions import dot, of_roles
from secateurs.evidence.kinds import Evidence, Gradients, Needs, Weights
from secateurs.graph.groups import Group, Role


@dataclass(frozen=True)
class Taylor:
    """The squared first-order change of the loss if all of a unit's parameters are set to zero.

        I(u) = ( sum over slices s of u, sum over entries w of s:  w * dL/dw )^2

    Molchanov, Mallya, Tyree, Frosio and Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019,
    arXiv 1906.10771: the first-order criterion with a gate shared by all parameters of the unit, where contributions
    add before they are squared. roles: which slices are behind the gate, by default the filters that write the unit.
    Deviation: the paper averages the square over mini-batches, we square the gradient averaged over all data, so the
    score does not depend on how the data is cut into batches. Units that write through several layers (a residual
    stream) share one gate.

    >>> import numpy as np
    >>> from secateurs.graph.groups import Slice
    >>> group = Group("conv", 2, (Slice("w", 0, np.array([[0], [1]]), "out"),))
    >>> w, g = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.5, -0.5], [0.1, 0.0]])
    >>> evidence = Evidence({"weights": Weights({"w": w}), "gradients": Gradients({"w": g}, samples=1)})
    >>> [round(x, 6) for x in Taylor()(group, evidence).tolist()]
    [0.25, 0.09]
    """

    roles: tuple[Role, ...] | None = ("out",)

    @property
    def needs(self) -> Needs:
        """The evidence that must be gathered for it, by the names under which it reads it."""
        return {"weights": Weights, "gradients": Gradients}

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        """Return the squared change of each unit."""
        weights: Weights = evidence["weights"]
        gradients: Gradients = evidence["gradients"]
        slices = of_roles(group, self.roles, among=weights.parameters, why=repr(self))
        change = [dot(weights.tensors[s.tensor], gradients.tensors[s.tensor], s) for s in slices]
        return torch.stack(change).sum(0).square()
