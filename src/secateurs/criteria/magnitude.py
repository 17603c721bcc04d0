"""Magnitude: the norm of the parameters of a unit."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from secateurs.criteria.reductions import of_roles, power_sum
from secateurs.errors import InputError
from secateurs.evidence.kinds import Evidence, Needs, Weights
from secateurs.graph.groups import Group, Role


@dataclass(frozen=True)
class Magnitude:
    """The p-norm of all parameters that are removed with the unit.

        I(u) = ( sum over slices s of u, sum over entries w of s:  |w|^p )^(1/p)

    p: 1 (the default, sum of absolute values) or 2 (Euclidean). roles: which slices count; None counts all: the
    filters that write the unit, their biases, the norm's scale and shift, and the input channels of every consumer.
    `roles=("out",)` is the criterion of Li, Kadav, Durdanovic, Samet and Graf, "Pruning Filters for Efficient
    ConvNets", 2017, arXiv 1608.08710, section 3.1 (with p = 1). Buffers (running statistics) never count. An entry
    in two slices of one unit, as on the diagonal of a weight from a residual stream to itself, counts in both.

    Raises InputError for another p.

    >>> import numpy as np
    >>> from secateurs.graph.groups import Slice
    >>> group = Group("conv", 2, (Slice("w", 0, np.array([[0], [1]]), "out"),))
    >>> evidence = Evidence({"weights": Weights({"w": torch.tensor([[3.0, -4.0], [0.0, 1.0]])})})
    >>> Magnitude()(group, evidence).tolist(), Magnitude(p=2)(group, evidence).tolist()
    ([7.0, 1.0], [5.0, 1.0])
    """

    p: int = 1
    _: KW_ONLY
    roles: tuple[Role, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse another norm."""
        if self.p not in (1, 2):
            msg = f"Magnitude(p={self.p!r}) is not offered. p is 1 (absolute values) or 2 (Euclidean)."
            raise InputError(msg)

    @property
    def needs(self) -> Needs:
        """The evidence that must be gathered for it, by the names under which it reads it."""
        return {"weights": Weights}

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        """Return the norm of each unit."""
        weights: Weights = evidence["weights"]
        slices = of_roles(group, self.roles, among=weights.parameters, why=repr(self))
        total = torch.stack([power_sum(weights, s, self.p) for s in slices]).sum(0)
        return total if self.p == 1 else total.sqrt()
