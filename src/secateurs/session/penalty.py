"""A weight decay of its own for every unit, added inside the optimizer's step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from secateurs.session.flat_units import Rows


class Decay:
    """factor·W added to the gradients of rows (penalty ½·factor·‖W‖²), or W shrunk by lr·factor.

    An optimizer that normalises gradients (Adam) would normalise the penalty away, so under it the decay is decoupled
    as AdamW's is: W ← W·(1 − lr·factor).
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._flat = torch.zeros(rows.total, device=rows.device)
        views = rows.factors(self._flat)
        # Views in another precision than float32 are copies: remade whenever the factors change.
        self._copied = any(t.dtype != torch.float32 for t in rows.tensors)
        self._views = self._cast(views)

    def set(self, factors: Tensor) -> None:
        """Take per-unit factors [units]."""
        self._flat.copy_(self._rows.expand(factors.to(self._flat.dtype), fill=0.0))
        if self._copied:
            self._views = self._cast(self._rows.factors(self._flat))

    def _cast(self, views: Sequence[Tensor]) -> list[Tensor]:
        return [v.to(t.dtype) for v, t in zip(views, self._rows.tensors, strict=True)]

    @torch.no_grad()
    def add(self, optimizers: Sequence[Optimizer], *, decoupled: bool | None = None) -> None:
        """Apply the decay to every row whose tensor has a gradient in this step."""
        rates = learning_rates(optimizers)
        for optimizer in optimizers:
            apart = normalises(optimizer) if decoupled is None else decoupled
            scale = getattr(optimizer, "grad_scale", None)  # a fused optimizer unscales inside its kernel
            held = {id(p) for settings in optimizer.param_groups for p in settings["params"]}
            chosen = [
                (p, view)
                for p, view in zip(self._rows.owners, self._views, strict=True)
                if p.grad is not None and id(p) in held
            ]
            if not chosen:
                continue
            weights, views = [p.detach() for p, _ in chosen], [v for _, v in chosen]
            if apart:
                for p, weight, view in zip((p for p, _ in chosen), weights, views, strict=True):
                    weight.mul_(1.0 - rates[id(p)] * view)
            else:
                if scale is not None:
                    views = [view * scale for view in views]
                grads = [p.grad for p, _ in chosen if p.grad is not None]
                torch._foreach_addcmul_(grads, weights, views)  # pyright: ignore[reportPrivateImportUsage]


def learning_rates(optimizers: Sequence[Optimizer]) -> dict[int, float]:
    """Learning rate of every parameter, by identity."""
    return {id(p): group["lr"] for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}


def normalises(optimizer: Optimizer) -> bool:
    """Whether an optimizer divides gradients by their own size, so that a coupled penalty would lose its meaning.

    >>> from torch import nn
    >>> weights = [nn.Parameter(torch.zeros(1))]
    >>> normalises(torch.optim.SGD(weights, lr=0.1)), normalises(torch.optim.AdamW(weights))
    (False, True)
    """
    return any("momentum" not in group or "betas" in group or "alpha" in group for group in optimizer.param_groups)
