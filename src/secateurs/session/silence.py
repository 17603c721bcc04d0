"""Keep removed units and masked entries at zero while a network trains."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from secateurs.graph import Group
from secateurs.types import Ints, Mask


class Silence:
    """A mask of zeros and ones per tensor, on its device; applied to all tensors once after every step."""

    def __init__(self) -> None:
        self.held: dict[str, Tensor] = {}
        """Masks by tensor name; entries are kept at zero wherever a mask (broadcastable) is False."""
        self._tensors: list[Tensor] = []
        self._factors: list[Tensor] = []

    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Keep further entries at zero, from the next `rebuild` on."""
        for name, mask in masks.items():
            self.held[name] = mask if name not in self.held else self.held[name] & mask

    def cut(self, kept: Mapping[str, Mapping[int, Ints]]) -> None:
        """Shrink the masks with their tensors: tensor -> dimension -> kept entries."""
        self.held = {name: _cut(mask, kept.get(name, {})) for name, mask in self.held.items()}

    def rebuild(self, groups: tuple[Group, ...], alive: Mapping[str, Mask], tensors: Mapping[str, Tensor]) -> None:
        """Compute the mask of every tensor, from removed units and masked entries."""
        masks: dict[str, list[Tensor]] = {}
        for group in groups:
            gone = np.flatnonzero(~alive[group.name])
            for piece in group.slices if gone.size else ():
                tensor = tensors.get(piece.tensor)
                if tensor is not None:
                    row = torch.ones(tensor.shape[piece.dim], dtype=tensor.dtype)
                    row[piece.index[gone].reshape(-1)] = 0.0
                    shape = [-1 if d == piece.dim % tensor.dim() else 1 for d in range(tensor.dim())]
                    _merge(masks.setdefault(piece.tensor, []), row.view(shape).to(tensor.device))
        for name, mask in self.held.items():
            _merge(masks.setdefault(name, []), mask.to(tensors[name]))
        pairs = [(tensors[name].detach(), mask) for name, several in masks.items() for mask in several]
        self._tensors, self._factors = [t for t, _ in pairs], [m for _, m in pairs]

    @torch.no_grad()
    def apply(self) -> None:
        """Zero removed units and masked entries."""
        if self._tensors:
            torch._foreach_mul_(self._tensors, self._factors)  # pyright: ignore[reportPrivateImportUsage]


def _merge(masks: list[Tensor], mask: Tensor) -> None:
    """Multiply into a mask of the same shape, so that no tensor appears twice in one foreach kernel."""
    for at, other in enumerate(masks):
        if other.shape == mask.shape:
            masks[at] = other * mask
            return
    masks.append(mask)


def _cut(mask: Tensor, kept: Mapping[int, Ints]) -> Tensor:
    for dim, index in kept.items():
        if mask.shape[dim] != 1:
            mask = mask.index_select(dim, torch.from_numpy(np.asarray(index)).to(mask.device))
    return mask
