"""CORING: filters that resemble each other in every direction of their kernels go first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from secateurs.criteria.reductions import of_roles
from secateurs.errors import check_choice
from secateurs.evidence.kinds import Evidence, Needs, Weights
from secateurs.graph.groups import Group, Slice
from secateurs.types import Floats

Distance = Literal["vbd", "euclidean", "cosine"]


def factors(filters: Tensor) -> list[Tensor]:
    """The leading left singular vectors of every unfolding of filters [units, ...]: one [units, n] a dimension.

    That is a higher-order SVD of every filter with rank one. Dimensions of one entry say nothing, and are left out.

    >>> [tuple(vectors.shape) for vectors in factors(torch.ones(4, 8, 3, 3))], factors(torch.ones(4, 1))
    ([(4, 8), (4, 3), (4, 3)], [])
    """
    places = [place for place in range(1, filters.dim()) if filters.shape[place] > 1]
    unfolded = [filters.movedim(place, 1).reshape(*filters.shape[:1], filters.shape[place], -1) for place in places]
    return [torch.linalg.svd(found, full_matrices=False).U[:, :, 0] for found in unfolded]


def distances(vectors: Tensor, by: Distance) -> Tensor:
    """The distance of every two unit vectors [units, n] up to their sign, which a singular vector has by chance.

    vbd: var(a − b) / (var a + var b); euclidean: |a − b|; cosine: 1 − |⟨a, b⟩|; the smaller one of ± b.

    >>> a = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    >>> distances(a, "vbd").tolist(), [round(x, 3) for x in distances(a, "euclidean")[0].tolist()]
    ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [0.0, 0.0, 1.414])
    """
    if by != "vbd":
        apart = (1 - (vectors @ vectors.T).abs()).clamp(min=0)
        return apart if by == "cosine" else (2 * apart).sqrt()
    centred = vectors - vectors.mean(1, keepdim=True)
    shared = centred @ centred.T
    own = shared.diagonal()
    both = own[:, None] + own
    # Two vectors without any variance are alike.
    return torch.where(both > 0, 1 - 2 * shared.abs() / both.where(both > 0, 1.0), 0.0).clamp(min=0)


def order_of_removal(apart: Floats) -> Floats:
    """Rank units by removal: of the two nearest that are left, the one nearer to all others (its sum) goes first.

    apart: symmetric distances [units, units]. The first to go has 0, the one that stays longest units − 1. Where the
    sums are equal, as those of the last two, the one goes that was nearer to all at first, then the lower number.

    >>> order_of_removal(np.array([[0.0, 1.0, 5.0], [1.0, 0.0, 4.0], [5.0, 4.0, 0.0]])).tolist()
    [1.0, 0.0, 2.0]
    """
    left = np.array(apart, dtype=np.float64)
    np.fill_diagonal(left, np.inf)
    found = np.full(len(left), len(left) - 1, dtype=np.float64)
    alive = np.ones(len(left), dtype=bool)
    at_first = apart.sum(1)
    for number in range(len(left) - 1):
        pair = np.unravel_index(left.argmin(), left.shape)
        others = alive.copy()
        others[list(pair)] = False
        gone = min(pair, key=lambda unit: (left[unit, others].sum(), at_first[unit], unit))
        left[gone, :] = left[:, gone] = np.inf
        alive[gone] = False
        found[gone] = number
    return found


@dataclass(frozen=True)
class CORING:
    """The order in which filters go when of the two most alike the one nearer to all others goes, again and again.

    A filter [in, height, width] is decomposed by a higher-order SVD of rank one: the leading left singular vectors u_1,
    u_2, u_3 of its unfoldings. Two filters are as far apart as the mean distance of their vectors,

        d(i, j) = mean over x of  D(u_x(i), u_x(j)),   D(a, b) = var(a − b) / (var a + var b)   ("vbd")

    or Euclidean, or 1 − |cosine|. Pham, Zniyed and Nguyen, "Efficient tensor decomposition-based filter pruning"
    (CORING), Neural Networks 178, 2024, and the authors' code (HOSVD, VBD, min_sum). The code takes singular vectors
    with the sign that LAPACK gave them; here the smaller distance of the two signs counts. It is ranked within each
    layer (`Uniform()`, or `--ranking uniform`). Where several layers write the units, their distances are averaged.
    distance: which D.

    >>> from secateurs.graph.groups import Slice
    >>> group = Group("conv", 3, (Slice("w", 0, np.array([[0], [1], [2]]), "out"),))
    >>> w = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [3.0, -1.0, 0.0]])
    >>> CORING()(group, Evidence({"weights": Weights({"w": w})})).tolist()
    [0.0, 1.0, 2.0]
    """

    distance: Distance = "vbd"

    def __post_init__(self) -> None:
        """Refuse a distance that does not exist."""
        check_choice(self, distance=Distance)

    @property
    def needs(self) -> Needs:
        """The evidence that must be gathered for it, by the names under which it reads it."""
        return {"weights": Weights}

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        """Return each unit's place in the order of removal."""
        weights: Weights = evidence["weights"]
        total = torch.zeros(group.units, group.units, dtype=torch.float64)
        count = 0
        for slice_ in of_roles(group, ("out",), among=weights.parameters, why=repr(self)):
            for vectors in factors(_filters(weights.tensors[slice_.tensor], slice_)):
                total += distances(vectors, self.distance).cpu()
                count += 1
        return torch.from_numpy(order_of_removal((total / max(count, 1)).numpy()))


def _filters(tensor: Tensor, slice_: Slice) -> Tensor:
    """The entries of each unit in the shape they have: [units, ...]; several entries are one more dimension."""
    index = torch.as_tensor(slice_.index, device=tensor.device)
    taken = tensor.detach().double().movedim(slice_.dim, 0)[index.reshape(-1)]
    shape = (*index.shape, *taken.shape[1:]) if index.shape[1] > 1 else (index.shape[0], *taken.shape[1:])
    return taken.reshape(shape)
