"""Criteria of feature maps: their rank, and their independence of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateurs.evidence import Activations, Evidence, Need, Writes
from secateurs.graph import Group, Site


class MapRank:
    """The mean rank of each unit's map, a matrix of height and width."""

    def __init__(self, group: Group, sites: tuple[Site, ...]) -> None:
        self.total: Tensor = torch.zeros(group.units, dtype=torch.float64)
        self.count = 0

    def update(self, values: Tensor) -> None:
        """Take in [samples, units, height, width]; a map without height is one row."""
        maps = values.reshape(*values.shape[:2], values.shape[2] if values.dim() > 3 else 1, -1)
        self.total += torch.linalg.matrix_rank(maps.double()).sum(0).double().cpu()
        self.count += len(values)

    def result(self) -> Tensor:
        """Return the mean over samples."""
        return self.total / max(self.count, 1)


@dataclass(frozen=True)
class HRank:
    """The average rank of a unit's feature maps over a few images.

    Lin, Ji, Wang, Zhang, Zhang, Tian and Shao, "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020, eq. 6.
    """

    @property
    def needs(self) -> Mapping[str, Need]:
        """The raw outputs of what writes the units, with height and width."""
        return {"rank": Activations(MapRank, at=Writes(), spatial=True)}

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        """Return the mean rank of each unit."""
        return evidence["rank"][group.name]


class Independence:
    """How much the nuclear norm of a sample's maps [units, positions] falls without each unit's row."""

    def __init__(self, group: Group, sites: tuple[Site, ...]) -> None:
        self.total: Tensor = torch.zeros(group.units, dtype=torch.float64)
        self.count = 0

    def update(self, values: Tensor) -> None:
        """Take in [samples, units, positions]."""
        maps = values.double()
        units = maps.shape[1]
        apart = maps.unsqueeze(1) * (1 - torch.eye(units, device=maps.device, dtype=maps.dtype))[None, :, :, None]
        whole = torch.linalg.svdvals(maps).sum(-1)
        self.total += (whole[:, None] - torch.linalg.svdvals(apart).sum(-1)).sum(0).cpu()
        self.count += len(values)

    def result(self) -> Tensor:
        """Return the mean over samples."""
        return self.total / max(self.count, 1)


@dataclass(frozen=True)
class NuclearNorm:
    """The change of the nuclear norm of a layer's maps when a unit's map is masked.

    Sui, Yin, Xie, Phan, Zonouz and Yuan, "CHIP: CHannel Independence-based Pruning for Compact Neural Networks",
    NeurIPS 2021, eq. 3.
    """

    @property
    def needs(self) -> Mapping[str, Need]:
        """The raw outputs of what writes the units."""
        return {"independence": Activations(Independence, at=Writes())}

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        """Return the mean fall of the nuclear norm."""
        return evidence["independence"][group.name]
