"""Reshape activations so that each unit has its own axis, and compute gate gradients (activation × gradient).

Shapes: `n` samples, `D` entries along the site's dimension, `P` all other positions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from secateurs.graph.groups import Site


def by_entry(x: Tensor, dim: int, batch_dim: int | None) -> Tensor:
    """View an activation as [n, D, P]; without a batch dimension all of it belongs to one sample.

    >>> by_entry(torch.zeros(5, 2, 7, 3), dim=3, batch_dim=1).shape
    torch.Size([2, 3, 35])
    """
    x = _led(x, dim, batch_dim)
    return x.reshape(*x.shape[:2], -1)


def by_place(x: Tensor, site: Site, batch_dim: int | None) -> Tensor:
    """View an activation as [n, units, *spatial], the other dimensions in order; several entries of a unit come first.

    >>> site = Site("conv", "output", 1, np.array([[1], [0]]))
    >>> by_place(torch.zeros(5, 2, 7, 3), site, batch_dim=0).shape
    torch.Size([5, 2, 7, 3])
    """
    x = _led(x, site.dim, batch_dim)
    units, m = site.index.shape
    if m == 1 and units == x.shape[1] and np.array_equal(site.index[:, 0], np.arange(units)):
        return x
    index = torch.as_tensor(site.index.reshape(-1), device=x.device)
    own = x.index_select(1, index).unflatten(1, (units, m))
    return own.squeeze(2) if m == 1 else own


def _led(x: Tensor, dim: int, batch_dim: int | None) -> Tensor:
    """View an activation as [n, D, ...]; without a batch dimension all of it belongs to one sample."""
    dim %= x.dim()
    if batch_dim is None:
        x, dim, batch_dim = x.unsqueeze(0), dim + 1, 0
    return x.movedim((batch_dim, dim), (0, 1))


def by_unit(x_nDP: Tensor, site: Site) -> Tensor:
    """Gather [n, D, P] to [n, units, m * P]: the entries of a site that belong to each unit."""
    units, m = site.index.shape
    if m == 1 and units == x_nDP.shape[1] and np.array_equal(site.index[:, 0], np.arange(units)):
        return x_nDP
    index = torch.as_tensor(site.index.reshape(-1), device=x_nDP.device)
    return x_nDP.index_select(1, index).reshape(x_nDP.shape[0], units, -1)


def gate_gradient(x: Tensor, grad: Tensor, dim: int, batch_dim: int | None) -> Tensor:
    """Sum activation * gradient over positions: [n, D], in float32 at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    product = x.detach().to(wide) * grad.detach().to(wide)
    return by_entry(product, dim, batch_dim).sum(2)


def batch_dim_of(one: tuple[int, ...], two: tuple[int, ...]) -> int | None:
    """Return the dimension that counts samples, from the shapes with one and with two samples.

    None where no single dimension does: folded into another (windows, regions of interest), or absent.

    >>> batch_dim_of((49, 1, 96), (49, 2, 96)), batch_dim_of((64, 49, 96), (128, 49, 96))
    (1, None)
    """
    if len(one) != len(two):
        return None
    changed = [dim for dim, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
    return changed[0] if len(changed) == 1 and (one[changed[0]], two[changed[0]]) == (1, 2) else None
