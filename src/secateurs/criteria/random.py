"""Random: random scores, the baseline for every other criterion."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from secateurs.errors import check_seed
from secateurs.evidence.kinds import Evidence, Needs
from secateurs.graph.groups import Group


@dataclass(frozen=True)
class Random:
    """Uniform numbers in [0, 1) from a seed and the group's name.

    The same seed gives the same scores in any process, whatever other groups there are and in whatever order; the
    global generator is not touched. Mittal, Bhardwaj, Khapra and Ravindran, "Recovering from Random Pruning", 2018,
    arXiv 1801.10447, on why it is a strong baseline after fine-tuning.

    >>> Random(seed=1)(Group("conv", 3, ()), Evidence({})).shape
    torch.Size([3])
    """

    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an invalid seed."""
        check_seed(self.seed)

    @property
    def needs(self) -> Needs:
        """The evidence that must be gathered for it, by the names under which it reads it."""
        return {}

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        """Return one number a unit."""
        digest = blake2b(f"{self.seed}/{group.name}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        return torch.rand(group.units, generator=generator, dtype=torch.float64)
