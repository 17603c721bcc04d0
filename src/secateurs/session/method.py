"""Interface between `Session` and a training-time method: settings (`TrainingMethod`) create the run's `Driver`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from secateurs.errors import InputError, near

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from secateurs.session.run import Run

State = dict[str, Any]
"""State for a checkpoint: plain values and tensors."""


class Driver:
    """The state of a method during one run; a session calls these members around every optimizer step.

    Every member has a default, so that a method overrides only what it needs: usually `gradients_ready` (add a penalty)
    or `stepped` (remove units), and `conclude`. Set `_done` when the network is pruned. `saved` names the attributes
    that later steps depend on (dotted for nested ones, "_applied.state"), which a checkpoint contains: numbers,
    tensors, arrays, dataclasses and containers of these. run: the session's `Run`.
    """

    working: ClassVar[str] = "pruning"
    """Name of the phase until the network is pruned."""
    saved: ClassVar[tuple[str, ...]] = ()

    def __init__(self, run: Run) -> None:
        self._run = run
        self._done = False

    @property
    def phase(self) -> str:
        """Name of the method's present phase."""
        return "done" if self._done else self.working

    @property
    def ready(self) -> bool:
        """True if the model is the pruned one at this step, so that its checkpoint may be selected."""
        return self._done

    def attached(self) -> None:
        """Called when an optimizer is attached: register hooks on the model."""

    def gradients_ready(self) -> None:
        """Called with complete gradients (unscaled, clipped, averaged): add penalties."""

    def stepped(self) -> None:
        """Called after the optimizer's step, which `run.step` includes: update state, remove units."""

    def conclude(self, *, early: bool) -> None:
        """Called at the end of training: finish; with `early`, decide open choices by the present scores."""

    def missing(self) -> str | None:
        """Return the remaining work before the network is pruned, in a sentence, or None."""
        return None if self._done else f"the method is still {self.phase}"

    def compacted(self, keep: Mapping[str, NDArray[Any]]) -> None:
        """Called after units were physically removed: reduce the state; `keep`: old numbers of the kept units."""

    def shrink(self) -> None:
        """Physically remove the zeroed units from the network and from this driver's state."""
        keep = self._run.compact()
        if keep is not None:
            self.compacted(keep)

    def close(self) -> None:
        """Remove all hooks from the model and the optimizer."""

    def state(self) -> State:
        """Return a copy of the state that later steps depend on."""
        return {"done": self._done, **{name: _plain(attrgetter(name)(self)) for name in self.saved}}

    def restore(self, state: State) -> None:
        """Continue from `state` of a driver of the same method on the same (already compacted) network."""
        self._done = bool(state["done"])
        for name in self.saved:
            owner, _, last = name.rpartition(".")
            holder = attrgetter(owner)(self) if owner else self
            setattr(holder, last, _like(state[name], getattr(holder, last), self._run.device))


@runtime_checkable
class TrainingMethod(Protocol):
    """Interface of methods that prune during training: a frozen dataclass with the paper's defaults."""

    reference: ClassVar[str]
    """Authors, title, venue, year."""

    def start(self, run: Run) -> Driver:
        """Check that the run can reach its budget, and create the driver; the model is not changed."""
        ...

    def fitted(self, steps_per_epoch: int, epochs: int) -> Self:
        """Return the same method with its schedule scaled to a run of steps_per_epoch · epochs optimizer steps."""
        ...


def check_preset(method: type, name: str, known: Collection[str]) -> None:
    """Refuse a preset that a method does not have."""
    if name not in known:
        raise InputError(f"{method.__name__} has no preset {name!r}: {near(name, known)}")


def _plain(value: Any) -> Any:
    """Copy a value as tensors, numbers and containers."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(cast("NDArray[Any]", value).copy())
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in cast("list[Any]", value)]
    return value


def _like(saved: Any, now: Any, device: torch.device) -> Any:
    """Convert values of `_plain` back to the type of the present value."""
    if is_dataclass(now) and not isinstance(now, type):
        return replace(now, **{f.name: _like(saved[f.name], getattr(now, f.name), device) for f in fields(now)})
    if isinstance(now, np.ndarray):
        return saved.cpu().numpy().copy()
    if isinstance(now, dict) and isinstance(saved, dict):
        known = cast("dict[str, Any]", now)
        return {name: _like(one, known.get(name), device) for name, one in cast("dict[str, Any]", saved).items()}
    if isinstance(saved, Tensor):
        return saved.to(device, copy=True)
    if isinstance(saved, list):
        parts = [_like(one, None, device) for one in cast("list[Any]", saved)]
        return tuple(parts) if isinstance(now, tuple) else parts
    return saved
