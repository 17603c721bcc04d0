"""Watching activations at sites: reading them unit by unit, and tapping their gradients.

Shapes: `n` samples, `D` entries along the site's dimension, `P` all other positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateurs.graph.values import Site

Sink = Callable[[Tensor, Tensor], None]


class _Tap(torch.autograd.Function):
    """Identity forward; backward shows the activation and its gradient to a sink."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sink: Sink, keep: bool) -> Tensor:  # noqa: FBT001 - autograd passes by position
        ctx.sink = sink
        ctx.save_for_backward(x)
        return x.clone() if keep else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.sink(ctx.saved_tensors[0], grads[0])
        return grads[0], None, None


def tap(x: Tensor, sink: Sink, *, before_inplace: bool = False) -> Tensor:
    """Return `x` unchanged; when the gradient passes back through here, call `sink(x, dL/dx)`.

    The gradient is that of the *use* of `x` behind the tap, not of all its uses: a tap at a convolution's input sees
    that convolution alone, even where a shortcut leaves from the same tensor. An operator behind the tap may work in
    place (a ReLU on a raw output) only with `before_inplace`, which costs one copy.

    >>> seen = []
    >>> x = torch.tensor([2.0, 3.0], requires_grad=True)
    >>> (tap(x, lambda x, g: seen.append(x * g)) ** 2 + 7 * x).sum().backward()
    >>> seen[0].tolist()  # x * 2x, without the 7
    [8.0, 18.0]
    """
    return _Tap.apply(x, sink, before_inplace)  # pyright: ignore[reportReturnType]


def by_entry(x: Tensor, dim: int, batch_dim: int | None) -> Tensor:
    """View an activation as [n, D, P]; without a batch dimension all of it belongs to one sample.

    >>> by_entry(torch.zeros(5, 2, 7, 3), dim=3, batch_dim=1).shape
    torch.Size([2, 3, 35])
    """
    dim %= x.dim()
    if batch_dim is None:
        x, dim, batch_dim = x.unsqueeze(0), dim + 1, 0
    x = x.movedim((batch_dim, dim), (0, 1))
    return x.reshape(*x.shape[:2], -1)


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
