"""CHIP: how much of a layer's feature maps no other channel can replace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from secateurs.errors import InputError
from secateurs.evidence.kinds import Activations, Evidence, Needs
from secateurs.graph.groups import Group, Site

ENTRIES = 1 << 22
"""Entries of matrices decomposed at a time."""


def independence(maps_NUP: Tensor) -> Tensor:
    """Decrease of the nuclear norm of each sample's maps when a unit's map is set to zero: float64 [N, units].

    maps_NUP: N samples, U units, P positions. Where positions are more than units, a QR decomposition first makes them
    as many, which changes no singular value.

    >>> [[round(x, 9) for x in row] for row in independence(torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])).tolist()]
    [[3.0, 4.0]]
    """
    found: list[Tensor] = []
    for maps in maps_NUP.detach().double():
        small = torch.linalg.qr(maps.T, mode="r").R.T if maps.shape[0] < maps.shape[1] else maps
        kept = ~torch.eye(len(small), dtype=torch.bool, device=small.device)
        parts = kept.split(max(1, ENTRIES // small.numel()))
        without = torch.cat([torch.linalg.svdvals(small * part[:, :, None]).sum(-1) for part in parts])
        found.append(torch.linalg.svdvals(small).sum() - without)
    return torch.stack(found)


class MeanIndependence:
    """The mean over samples of `independence`, of so many images at most."""

    def __init__(self, images: int | None, group: Group, sites: tuple[Site, ...]) -> None:
        self._total: Tensor = torch.zeros(group.units, dtype=torch.float64)
        self._count = 0
        self._most = None if images is None else images * max(1, len(sites))

    def update(self, values: Tensor) -> None:
        """Take in [samples, units, positions]."""
        left = len(values) if self._most is None else min(len(values), self._most - self._count)
        if left > 0:
            self._total += independence(values[:left]).sum(0).cpu()
            self._count += left

    def result(self) -> Tensor:
        """Return the mean over what was seen."""
        return self._total / max(self._count, 1)


@dataclass(frozen=True)
class CHIP:
    """The independence of a unit's feature map from those of the other units of the group.

        I(u) = mean over images of  ||A||_* − ||A without row u||_*

    A [units, height · width] holds the maps of one image as the layers that read them see them (behind norm,
    activation and pooling); ||·||_* is the nuclear norm, the sum of singular values. A map that the others can express
    changes little. Sui, Yin, Xie, Phan, Zonouz and Yuan, "CHIP: CHannel Independence-based Pruning for Compact Neural
    Networks", NeurIPS 2021, arXiv 2110.13981, eq. 3, and the authors' code, which reads maps behind the activation and
    before a pooling, and ranks every layer on its own (`Uniform()`, or `--ranking uniform`). images: of the data, so
    many are looked at; the code's 5 batches of 128. None: all.

    >>> CHIP(images=0)
    Traceback (most recent call last):
    secateurs.errors.InputError: CHIP(images=0) would look at nothing; give 1 or more, or None for all of the data
    """

    images: int | None = 640

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise InputError(
                f"CHIP(images={self.images}) would look at nothing; give 1 or more, or None for all of the data"
            )

    @property
    def needs(self) -> Needs:
        """The evidence that must be gathered for it, by the names under which it reads it."""
        made: Callable[[Group, tuple[Site, ...]], MeanIndependence] = partial(MeanIndependence, self.images)
        return {"independence": Activations(made)}

    def __call__(self, group: Group, evidence: Evidence) -> Tensor:
        """Return the mean independence of each unit."""
        return evidence["independence"][group.name]
