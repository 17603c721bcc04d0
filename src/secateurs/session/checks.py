"""Refusals of a session, each with the fact, the reason and the remedy; and the steps it must not learn from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateurs.errors import InputError
from secateurs.session.method import TrainingMethod


def check_method(method: object) -> None:
    """Refuse what is no training-time method with its settings."""
    if isinstance(method, type | str):
        named = method.__name__ if isinstance(method, type) else repr(method)
        raise InputError(
            f"{named} is {'a class' if isinstance(method, type) else 'a name'}, not a method with its settings. "
            "Write, for example, secateurs.methods.GReg1()."
        )
    if not isinstance(method, TrainingMethod):
        raise InputError(
            f"{type(method).__name__} does not work during training: it has no start(run). "
            "Use secateurs.prune for one-shot methods and criteria."
        )


def check_optimizer(optimizer: Optimizer, model: nn.Module, written: Iterable[str]) -> None:
    """Refuse an optimizer that does not hold the parameters that the method works on."""
    held = {id(p) for settings in optimizer.param_groups for p in settings["params"]}
    named = dict(model.named_parameters())
    if not any(id(p) in held for p in named.values()):
        raise InputError(
            f"{type(optimizer).__name__} holds none of the model's parameters. It was built for another model, or "
            f"for a "
            "copy of this one, and the session would wait for steps that never move this model. "
            "Build it from model.parameters() of the model that was given to Session."
        )
    absent = [n for n in dict.fromkeys(written) if n in named and named[n].requires_grad and id(named[n]) not in held]
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise InputError(
            f"{type(optimizer).__name__} does not hold {', '.join(absent[:3])}{more}, which the method prunes. "
            f"Their moments "
            "would go stale when units are removed. Add them with add_param_group, freeze them "
            "(requires_grad_(False)), "
            "or exclude them: Budget(exclude=...)."
        )


def unwrapped(optimizer: object) -> Optimizer:
    """The torch optimizer inside wrappers of Lightning or Accelerate."""
    inner = optimizer
    for _ in range(8):
        deeper = getattr(inner, "optimizer", None)
        if deeper is None or (isinstance(inner, Optimizer) and not isinstance(deeper, Optimizer)):
            break
        inner = deeper
    if not isinstance(inner, Optimizer):
        raise InputError(
            f"{type(optimizer).__name__} is not a torch optimizer. The session follows its step hooks. "
            "Pass the torch.optim.Optimizer that steps this model."
        )
    return inner


def gradients(optimizer: Optimizer) -> list[Tensor]:
    """All gradients that the coming step will use."""
    return [p.grad for settings in optimizer.param_groups for p in settings["params"] if p.grad is not None]


def all_finite(grads: Sequence[Tensor]) -> Tensor:
    """One boolean on the device: whether every gradient is finite; one reduction for all of them."""
    dense = [g for g in grads if g.layout is torch.strided]
    if not dense:
        return torch.tensor(True)
    norms = torch._foreach_norm(dense)  # noqa: SLF001  # pyright: ignore[reportPrivateImportUsage]
    return torch.isfinite(torch.stack([norm.float() for norm in norms])).all()


def drop_step(optimizer: Optimizer) -> None:
    """Make the coming step do nothing: an optimizer passes over parameters without a gradient."""
    for settings in optimizer.param_groups:
        for parameter in settings["params"]:
            parameter.grad = None


def neutralise(grads: Iterable[Tensor], fine: Tensor) -> None:
    """Zero every gradient where `fine` is False, without waiting for the device."""
    for grad in grads:
        grad.copy_(torch.where(fine, grad, torch.zeros_like(grad)))
