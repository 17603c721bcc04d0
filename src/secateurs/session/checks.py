"""Check the arguments of a session."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from secateurs.allocate import Budget
from secateurs.errors import BudgetError, InputError, check_seed, expect
from secateurs.registry import make
from secateurs.session.method import TrainingMethod


def named_method(method: object, seed: int = 0) -> TrainingMethod:
    """Return the training-time method of a value or name; refuse other objects."""
    check_seed(seed)
    value = make(method, seed=seed) if isinstance(method, str) else method
    if isinstance(value, type):
        raise InputError(
            f"{value.__name__} is a class, not a method with its settings. Write, for example, "
            f"secateurs.methods.{value.__name__}()."
        )
    if not isinstance(value, TrainingMethod):
        raise InputError(
            f"{value!r} does not work during training: it has no start(run). Use secateurs.prune for one-shot methods "
            "and criteria, or secateurs.session.Gradual(criterion) to cut by a criterion in rounds."
        )
    return value


def check_budget(budget: object) -> Budget | None:
    """Refuse objects that are not budgets, and constraints that sessions do not count."""
    if isinstance(budget, Budget) and budget.peak_memory is not None:
        raise BudgetError(
            f"peak_memory={budget.peak_memory} is met where all units go at once, by secateurs.prune and plan; a "
            "session removes them by costs that add up. Give memory= here, or prune to the peak before training."
        )
    if budget is None or isinstance(budget, Budget):
        return budget
    raise InputError(
        f"budget is {budget!r}. What remains is said by a Budget. Write secateurs.Budget(macs=0.5) for half of "
        "the multiply-accumulates, or None where the method decides."
    )


def check_data(data: Iterable[Any] | None) -> Iterable[Any] | None:
    """Return the data; refuse objects that cannot be iterated over."""
    if data is not None:
        expect("data", data, Iterable, "Pass a DataLoader or a list of batches.")
    return data


def changes(method: object, fitted: object) -> str:
    """Return the settings in which two values of one class differ, with the second one's values.

    >>> from secateurs.allocate import Budget
    >>> changes(Budget(macs=0.5), Budget(macs=0.25, min_keep=2))
    'macs=0.25, min_keep=2'
    """
    names = [f.name for f in fields(fitted)] if is_dataclass(fitted) else []
    return ", ".join(f"{n}={getattr(fitted, n)!r}" for n in names if getattr(fitted, n) != getattr(method, n))


def check_optimizer(optimizer: Optimizer, model: nn.Module, written: Iterable[str]) -> None:
    """Refuse an optimizer without the parameters that the method changes."""
    held = {id(p) for settings in optimizer.param_groups for p in settings["params"]}
    named = dict(model.named_parameters())
    if not any(id(p) in held for p in named.values()):
        raise InputError(
            f"{type(optimizer).__name__} holds none of the model's parameters. It was built for another model, or for "
            "a copy of this one, and the session would wait for steps that never move this model. "
            "Build it from model.parameters() of the model that was given to Session."
        )
    absent = [n for n in dict.fromkeys(written) if n in named and named[n].requires_grad and id(named[n]) not in held]
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise InputError(
            f"{type(optimizer).__name__} does not hold {', '.join(absent[:3])}{more}, which the method prunes. "
            "Their moments would go stale when units are removed. Add them with add_param_group, freeze them "
            "(requires_grad_(False)), or exclude them: Budget(exclude=...)."
        )


def unwrapped(optimizer: object) -> Optimizer:
    """Return the torch optimizer inside wrappers of Lightning or Accelerate."""
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
