"""Slice optimizer state (momentum, Adam moments) together with its parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from itertools import combinations
from typing import NamedTuple, cast

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from secateurs.errors import InputError, PlanError, expect
from secateurs.surgery.plan import Indices
from secateurs.surgery.tensors import select, show


class Memory(NamedTuple):
    """A new value for one entry of an optimizer's state, and the name of the parameter that the entry belongs to."""

    state: MutableMapping[str, object]
    key: str
    value: Tensor
    name: str = ""


def optimizers_of(optimizer: Optimizer | Iterable[Optimizer] | None) -> tuple[Optimizer, ...]:
    """Return the optimizers as a tuple, each without the wrapper of a training framework (`.optimizer`)."""
    if optimizer is None:
        return ()
    several = [optimizer] if isinstance(optimizer, Optimizer) or hasattr(optimizer, "optimizer") else optimizer
    expect("optimizer", several, Iterable, "Pass a torch.optim.Optimizer, or a list of several.")
    return tuple(_unwrap(one) for one in cast("Iterable[object]", several))


def memories(optimizers: Iterable[Optimizer], cut: Mapping[str, tuple[Tensor, Mapping[int, Indices]]]) -> list[Memory]:
    """Slice the optimizer state of the parameters that are pruned (name -> parameter, dimension -> kept indices).

    State of the parameter's shape (SGD's momentum, Adam's moments) is sliced like the parameter; single numbers (a step
    count) stay. Factored moments (Adafactor) are sliced if their shape can be matched in only one way. Any other state
    has no known relation to the parameter's entries, and is refused with PlanError.
    """
    found: list[Memory] = []
    held = False
    for optimizer in optimizers:
        members = {id(p) for settings in optimizer.param_groups for p in settings["params"]}
        held = held or any(id(parameter) in members for parameter, _ in cut.values())
        _refuse_flat(optimizer)
        for name, (parameter, dims) in cut.items():
            # `in` first: the state is a defaultdict, and reading it would add an entry
            if parameter in optimizer.state:
                state = cast("MutableMapping[str, object]", optimizer.state[parameter])
                found += _sliced(optimizer, state, name, parameter, dims)
    if cut and not held and optimizers:
        message = (
            f"the optimizer holds none of the parameters that the plan cuts (such as {next(iter(cut))}). "
            "It was built for another model, or for a copy of this one, and would go on training that. "
            "Pass the optimizer built on model.parameters() of this model."
        )
        raise PlanError(message)
    return found


def _unwrap(optimizer: object) -> Optimizer:
    inner = optimizer
    while not isinstance(inner, Optimizer) and hasattr(inner, "optimizer"):
        inner = cast("object", inner.optimizer)  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(inner, Optimizer):
        message = (
            f"{type(optimizer).__name__} is not a torch optimizer. Its moments must be cut with the weights. "
            "Pass the torch.optim.Optimizer that steps this model, or a list of them."
        )
        raise InputError(message)
    return inner


def _refuse_flat(optimizer: Optimizer) -> None:
    if isinstance(optimizer, LBFGS) and optimizer.state:
        message = (
            "LBFGS keeps its history as one flat vector over all parameters. It cannot be cut parameter by parameter. "
            "Build a new LBFGS on model.parameters() after apply(plan, model)."
        )
        raise PlanError(message)


def _sliced(
    optimizer: Optimizer,
    state: MutableMapping[str, object],
    name: str,
    parameter: Tensor,
    dims: Mapping[int, Indices],
) -> Iterable[Memory]:
    for key, value in state.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            kept = moment_dims(tuple(value.shape), tuple(parameter.shape), dims)
            if kept is None:
                message = (
                    f"{type(optimizer).__name__} keeps {key!r} of shape {show(value.shape)} for {name} "
                    f"({show(parameter.shape)}). Which of its entries belong to a unit cannot be told from its shape. "
                    f"Drop it before the surgery (optimizer.state.pop(parameter)), or build a new optimizer after it."
                )
                raise PlanError(message)
            yield Memory(state, key, select(value, kept) if kept else value, name)


def moment_dims(
    shape: tuple[int, ...], parameter: tuple[int, ...], dims: Mapping[int, Indices]
) -> dict[int, Indices] | None:
    """Match the dimensions of a state tensor to those of its parameter; None if its shape fits in several ways.

    With equal numbers of dimensions, each is the parameter's, or 1 if it was averaged. With fewer, some of the
    parameter's are left out; if two matches would be sliced differently, the result is None.

    >>> moment_dims((64, 1), (64, 32), {0: (0, 1), 1: (5,)})
    {0: (0, 1)}
    >>> moment_dims((32,), (64, 32), {0: (0, 1), 1: (5,)})
    {0: (5,)}
    >>> moment_dims((32,), (32, 32), {0: (0, 1)}) is None
    True
    """
    if len(shape) == len(parameter):
        if any(have not in (1, full) for have, full in zip(shape, parameter, strict=True)):
            return None
        return {d: index for d, index in dims.items() if shape[d] == parameter[d]}
    readings: list[dict[int, Indices]] = []
    for chosen in combinations(range(len(parameter)), len(shape)):
        if tuple(parameter[d] for d in chosen) == shape:
            reading = {place: dims[d] for place, d in enumerate(chosen) if d in dims}
            if reading not in readings:
                readings.append(reading)
    return readings[0] if len(readings) == 1 else None
