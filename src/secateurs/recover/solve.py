"""Ridge least squares on the rows of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateurs.recover.rows import Rows

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Strengths that are tried, as parts of the mean diagonal of the Gram matrix."""

CHUNK = 1 << 14


@dataclass(frozen=True, eq=False)
class Change:
    """What to add to a layer: weight [groups, outputs / groups, columns], bias [outputs]; and the errors with it."""

    weight: Tensor
    bias: Tensor
    before: float
    after: float


def solve(
    rows: Rows, scale: Tensor, *, bias: bool, clamp: tuple[float | None, float | None] | None, rounds: int
) -> Change | None:
    """The change of a layer that brings its place nearest to the dense network's, or None where nothing helps."""
    groups = rows.x.shape[1]
    scale = scale.to(rows.x.device)
    usable = scale.abs() > 1e-6 * scale.abs().max()
    inverse = torch.where(usable, 1 / torch.where(usable, scale, 1.0), 0.0)
    before = error_of(rows.now, rows, clamp)
    if before == 0 or not usable.any():
        return None
    x = torch.cat([rows.x, torch.ones_like(rows.x[:, :, :1])], 2) if bias else rows.x

    def wanted(now: Tensor, *, clamped: bool) -> Tensor:
        aim = rows.target
        if clamped and clamp is not None:
            low, high = clamp
            if low is not None:
                aim = torch.where(aim <= low, now.clamp(max=low), aim)
            if high is not None:
                aim = torch.where(aim >= high, now.clamp(min=high), aim)
        return ((aim - now).double() * inverse).to(now.dtype).unflatten(1, (groups, -1))

    learn, judge = ~rows.held, rows.held
    residual = wanted(rows.now, clamped=False)
    gram, right = _products(x, residual, learn)
    gram_held, right_held = _products(x, residual, judge)
    size = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    best, ridge = 0.0, None
    weigh = scale.unflatten(0, (groups, -1)).square()[:, None]
    for strength in RIDGES:
        delta = _ridge(gram, right, strength * size)
        gain = (weigh * (delta * (gram_held @ delta - 2 * right_held))).sum().item()
        if gain < best:
            best, ridge = gain, strength
    if ridge is None:
        return None
    gram, right = gram + gram_held, right + right_held
    size = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    factor = torch.linalg.cholesky(_damped(gram, ridge * size))
    delta = torch.cholesky_solve(right, factor)
    total, now = delta, _moved(rows.now, x, delta, scale)
    for _ in range(rounds if clamp is not None else 0):
        _, right = _products(x, wanted(now, clamped=True), None, gram=False)
        right = right - ridge * size * total
        delta = torch.cholesky_solve(right, factor)
        total, now = total + delta, _moved(now, x, delta, scale)
    after = error_of(now, rows, clamp)
    if not after < before:
        return None
    shift = total[:, -1].flatten() if bias else torch.zeros_like(scale)
    weight = (total[:, :-1] if bias else total).transpose(1, 2)
    return Change(weight, shift, before, after)


def _products(x: Tensor, y: Tensor, mask: Tensor | None, *, gram: bool = True) -> tuple[Tensor, Tensor]:
    """x'x [groups, columns, columns] and x'y [groups, columns, outputs], summed in float64."""
    groups, columns = x.shape[1:]
    a = torch.zeros(groups, columns, columns, dtype=torch.float64, device=x.device)
    b = torch.zeros(groups, columns, y.shape[2], dtype=torch.float64, device=x.device)
    for start in range(0, len(x), CHUNK):
        u, v = x[start : start + CHUNK], y[start : start + CHUNK]
        if mask is not None:
            inside = mask[start : start + CHUNK]
            u, v = u[inside], v[inside]
        left = u.permute(1, 2, 0)
        if gram:
            a += left @ u.transpose(0, 1)
        b += left @ v.transpose(0, 1)
    return a, b


def _damped(gram: Tensor, ridge: Tensor) -> Tensor:
    return gram + ridge * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)


def _ridge(gram: Tensor, right: Tensor, ridge: Tensor) -> Tensor:
    return torch.cholesky_solve(right, torch.linalg.cholesky(_damped(gram, ridge)))


def _moved(now: Tensor, x: Tensor, delta: Tensor, scale: Tensor) -> Tensor:
    """The place after the change."""
    out = torch.einsum("rgc,gco->rgo", x, delta.to(x.dtype)).flatten(1)
    return now + out * scale.to(x.dtype)


def error_of(now: Tensor, rows: Rows, clamp: tuple[float | None, float | None] | None) -> float:
    """Squared distance from the dense network behind the activation."""
    aim = rows.target
    if clamp is not None:
        now, aim = now.clamp(*clamp), aim.clamp(*clamp)
    return (now - aim).double().square().sum().item()
