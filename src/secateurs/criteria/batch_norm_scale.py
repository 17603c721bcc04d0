"""BatchNormScale: the absolute scale factor γ of the normalisation layer behind each unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateurs.criteria.criterion import Criterion
from secateurs.criteria.reductions import of_roles, power_sum
from secateurs.evidence.kinds import Evidence, Needs, Weights, inner_needs
from secateurs.graph.groups import Group


@dataclass(frozen=True)
class BatchNormScale:
    """The absolute scale factor of the norm behind the unit.

        I(u) = sum over slices with role "scale":  |gamma_u|

    Liu, Li, Shen, Huang, Yan and Zhang, "Learning Efficient Convolutional Networks through Network Slimming", 2017,
    arXiv 1708.06519, section 3. Where several norms scale one unit (a residual stream) their scales add; the paper
    treats them one by one. A group without a norm is refused, unless `fallback` names the criterion to score it by;
    its scores are then on another scale, which a normalising allocator evens out.

    >>> import numpy as np
    >>> from secateurs.graph.groups import Slice
    >>> group = Group("bn", 2, (Slice("gamma", 0, np.array([[1], [0]]), "scale"),))
    >>> BatchNormScale()(group, Evidence({"weights": Weights({"gamma": torch.tensor([-0.5, 2.0])})})).tolist()
    [2.0, 0.5]
    """

    fallback: Criterion | None = None

    @property
    def needs(self) -> Needs:
        """Weights, and the needs of the fallback."""
        inner = {} if self.fallback is None else inner_needs("fallback", self.fallback.needs)
        return {"weights": Weights, **inner}

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        """Return the summed |gamma| of each unit."""
        if self.fallback is not None and all(s.role != "scale" for s in group.slices):
            return self.fallback(group, evidence.inner("fallback"))
        weights: Weights = evidence["weights"]
        slices = of_roles(group, ("scale",), among=weights.parameters, why=repr(self))
        return torch.stack([power_sum(weights, s, 1) for s in slices]).sum(0)
