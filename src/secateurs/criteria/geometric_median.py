"""GeometricMedian: the distance of a unit's filters from those of all other units of the group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateurs.criteria.distances import squared_distances
from secateurs.criteria.reductions import of_roles, rows
from secateurs.evidence.kinds import Evidence, Needs, Weights
from secateurs.graph.groups import Group


@dataclass(frozen=True)
class GeometricMedian:
    """The sum of Euclidean distances from a unit's filters to those of every other unit of the group.

        I(u) = sum over units v of the group:  || x_u - x_v ||_2

    x_u is the concatenation of the entries of u in all slices with role "out" (one filter, or those of all layers that
    write a residual stream). The units with the least sum are nearest to the geometric median, and the others can
    replace them. He, Liu, Wang, Hu and Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural
    Networks Acceleration", CVPR 2019, arXiv 1811.00250, eq. 6. The paper treats the layers of a stream one by one.

    >>> import numpy as np
    >>> from secateurs.graph.groups import Slice
    >>> group = Group("conv", 3, (Slice("w", 0, np.array([[0], [1], [2]]), "out"),))
    >>> evidence = Evidence({"weights": Weights({"w": torch.tensor([[0.0], [1.0], [5.0]])})})
    >>> [round(x, 6) for x in GeometricMedian()(group, evidence).tolist()]
    [6.0, 5.0, 9.0]
    """

    @property
    def needs(self) -> Needs:
        """The evidence that must be gathered for it, by the names under which it reads it."""
        return {"weights": Weights}

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        """Return the summed distance of each unit."""
        weights: Weights = evidence["weights"]
        slices = of_roles(group, ("out",), among=weights.parameters, why=repr(self))
        filters_UF = torch.cat([rows(weights.tensors[s.tensor], s) for s in slices], dim=1)
        return squared_distances(filters_UF).sqrt().sum(1)
