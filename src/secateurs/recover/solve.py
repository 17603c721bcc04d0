"""Ridge least squares on the rows of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateurs.recover.normal import Formed, Normal, normal_of, product
from secateurs.recover.rows import Rows

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Candidate ridges, relative to the mean diagonal of the Gram matrix."""


@dataclass(frozen=True, eq=False)
class Change:
    """Correction that is added to a layer: weight [groups, outputs / groups, columns], bias [outputs]; and errors."""

    weight: Tensor
    bias: Tensor
    before: float
    after: float


Clamp = tuple[float | None, float | None] | None
"""Range to which the following activation clamps; None if there is none."""


def solve(rows: Rows, scale: Tensor, *, bias: bool, clamp: Clamp, rounds: int) -> Change | None:
    """Solve for the change of a layer that minimises its distance from the dense network; None if none reduces it.

    scale: factor from each output to the compared place; channels with a factor of 0 are unchanged.
    """
    problem = _Problem(rows, scale.to(rows.x.device), clamp, bias)
    before = error_of(rows.now, rows, clamp)
    if before == 0 or not problem.usable.any():
        return None
    learn, judge = (problem.products(problem.residual(rows.now), mask) for mask in (~rows.held, rows.held))
    strength = problem.strength(learn, judge)
    if strength is None:
        return None
    gram, right = problem.whole(learn[0], judge[0]), learn[1] + judge[1]
    ridge = strength * gram.size
    total = gram.solve(right, ridge)
    now = problem.moved(rows.now, total)
    for _ in range(rounds if clamp is not None else 0):
        right = problem.right(problem.residual(now, clamped=True)) - ridge * total
        step = gram.solve(right, ridge)
        total, now = total + step, problem.moved(now, step)
    after = error_of(now, rows, clamp)
    return problem.change(total, before, after) if after < before else None


@dataclass(eq=False)
class _Problem:
    """A least-squares problem: rows, with a column of ones if there is a bias, and the scale of the outputs."""

    rows: Rows
    scale: Tensor
    clamp: Clamp
    bias: bool

    def __post_init__(self) -> None:
        x = self.rows.x
        self.x = torch.cat([x, torch.ones_like(x[:, :, :1])], 2) if self.bias else x
        self.usable = self.scale.abs() > 1e-6 * self.scale.abs().max()
        self.inverse = torch.where(self.usable, 1 / torch.where(self.usable, self.scale, 1.0), 0.0)

    def residual(self, now: Tensor, *, clamped: bool = False) -> Tensor:
        """Residual of the layer's output [rows, groups, outputs]; 0 where a ReLU zeroes both outputs, if `clamped`."""
        aim, (low, high) = self.rows.target, (self.clamp or (None, None)) if clamped else (None, None)
        if low is not None:
            aim = torch.where(aim <= low, now.clamp(max=low), aim)
        if high is not None:
            aim = torch.where(aim >= high, now.clamp(min=high), aim)
        return ((aim - now) * self.inverse.to(now.dtype)).unflatten(1, (self.x.shape[1], -1))

    def products(self, residual: Tensor, mask: Tensor) -> tuple[Normal, Tensor]:
        """Return the normal equations of some rows: Gram matrix and right-hand side."""
        x = self.x[mask]
        return normal_of(x), product(x, residual[mask])

    def whole(self, one: Normal, other: Normal) -> Normal:
        """The normal equations of all rows, from those of two parts."""
        if isinstance(one, Formed) and isinstance(other, Formed):
            return Formed(one.gram + other.gram)
        return normal_of(self.x)

    def right(self, residual: Tensor) -> Tensor:
        """The right-hand side of all rows."""
        return product(self.x, residual)

    def strength(self, learn: tuple[Normal, Tensor], judge: tuple[Normal, Tensor]) -> float | None:
        """Return the ridge with the lowest held-out error; None if the unchanged layer has a lower one."""
        weigh = self.scale.unflatten(0, (self.x.shape[1], -1)).square()[:, None]
        best, found = 0.0, None
        for strength in RIDGES:
            delta = learn[0].solve(learn[1], strength * learn[0].size)
            gain = (weigh * delta * (judge[0].times(delta) - 2 * judge[1])).sum().item()
            if gain < best:
                best, found = gain, strength
        return found

    def moved(self, now: Tensor, delta: Tensor) -> Tensor:
        """Return the values at the compared place after a change of the layer."""
        out = (self.x.transpose(0, 1) @ delta.to(self.x.dtype)).transpose(0, 1).flatten(1)
        return now + out * self.scale.to(now.dtype)

    def change(self, total: Tensor, before: float, after: float) -> Change:
        """Split the solution into weight and bias."""
        shift = total[:, -1].flatten() if self.bias else torch.zeros_like(self.scale)
        return Change((total[:, :-1] if self.bias else total).transpose(1, 2), shift, before, after)


def error_of(now: Tensor, rows: Rows, clamp: Clamp) -> float:
    """Return the squared distance from the dense network after the activation."""
    aim = rows.target
    if clamp is not None:
        now, aim = now.clamp(*clamp), aim.clamp(*clamp)
    return (now - aim).double().square().sum().item()
