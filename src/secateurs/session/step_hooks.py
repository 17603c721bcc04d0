"""Hooks around an optimizer's step, and steps whose gradients are not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class StepHooks:
    """The hooks of one optimizer: `before` runs when gradients are complete, `after` when weights have moved.

    A closure (Lightning, LBFGS) computes gradients inside the step, so it is wrapped. Only the first optimizer of a
    session has an `after`: it counts the steps.
    """

    def __init__(self, before: Callable[[Optimizer], None], after: Callable[[], None] | None) -> None:
        self._before, self._after = before, after

    def register(self, optimizer: Optimizer) -> list[Any]:
        """Register the hooks on an optimizer; return handles that remove them."""
        return [optimizer.register_step_pre_hook(self.begin), optimizer.register_step_post_hook(self.end)]

    def begin(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run before the step."""
        closure = kwargs.get("closure") or next((a for a in args[1:] if callable(a)), None)
        if closure is None:
            self._before(optimizer)
            return None

        def closed() -> Any:
            value = closure()
            self._before(optimizer)
            return value

        return tuple(closed if a is closure else a for a in args), _with(kwargs, closure, closed)

    def end(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run after the step."""
        if self._after is not None:
            self._after()


def _with(kwargs: dict[str, Any], closure: Callable[[], Any], closed: Callable[[], Any]) -> dict[str, Any]:
    return {key: closed if value is closure else value for key, value in kwargs.items()}


def gradients(optimizer: Optimizer) -> list[Tensor]:
    """Return all gradients that the step will use."""
    return [p.grad for settings in optimizer.param_groups for p in settings["params"] if p.grad is not None]


def all_finite(grads: Sequence[Tensor]) -> Tensor:
    """Return one boolean on the device: True if every gradient is finite."""
    dense = [g for g in grads if g.layout is torch.strided]
    if not dense:
        return torch.tensor(True)
    norms = torch._foreach_norm(dense)  # noqa: SLF001  # pyright: ignore[reportPrivateImportUsage]
    return torch.isfinite(torch.stack([norm.float() for norm in norms])).all()


def drop_step(optimizer: Optimizer) -> None:
    """Make the next optimizer step do nothing, by removing all gradients."""
    for settings in optimizer.param_groups:
        for parameter in settings["params"]:
            parameter.grad = None


def neutralise(grads: Iterable[Tensor], fine: Tensor) -> None:
    """Zero every gradient where `fine` is False, without a device synchronisation."""
    for grad in grads:
        grad.copy_(torch.where(fine, grad, torch.zeros_like(grad)))
