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
"""Plain values and tensors: what a checkpoint can hold."""


class Driver:
    """The state of a method during one run; a session calls these members around every optimizer step.

    Every member has a default, so that a method writes only what it does: usually `gradients_ready` (add a penalty)
    or `stepped` (cut), and `conclude`. It sets `_done` when the network is pruned, and names in `saved` the
    attributes that the coming steps depend on ("_applied.state": of an attribute): a checkpoint holds them, numbers,
    tensors, arrays, dataclasses and containers of these.
    """

    working: ClassVar[str] = "pruning"
    """The phase until the network is pruned."""
    saved: ClassVar[tuple[str, ...]] = ()

    def __init__(self, run: Run) -> None:
        self._run = run
        self._done = False

    @property
    def phase(self) -> str:
        """One word: what the method is doing now."""
        return "done" if self._done else self.working

    @property
    def ready(self) -> bool:
        """True if the model at this very step is the pruned one, so that a checkpoint of it may be chosen."""
        return self._done

    def attached(self) -> None:
        """The session follows an optimizer now: put on the model what the method needs."""

    def gradients_ready(self) -> None:
        """Gradients are complete, unscaled, clipped and averaged: add penalties."""

    def stepped(self) -> None:
        """Weights have moved, and `run.step` counts this step: update state, remove units."""

    def conclude(self, *, early: bool) -> None:
        """Training is over: do what is due now; with `early`, decide from the present scores what is undecided."""

    def missing(self) -> str | None:
        """Return what the method still has to do before the network is pruned, in a sentence, or None."""
        return None if self._done else f"the method is still {self.phase}"

    def compacted(self, keep: Mapping[str, NDArray[Any]]) -> None:
        """The network has physically lost units: state follows; `keep` has the old numbers of the kept units."""

    def shrink(self) -> None:
        """Take the units that are silent out of the network, and out of what this driver remembers."""
        keep = self._run.compact()
        if keep is not None:
            self.compacted(keep)

    def close(self) -> None:
        """Remove whatever was put on the model and the optimizer."""

    def state(self) -> State:
        """Copy everything that the coming steps depend on."""
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
    """A paper's method that works during training: a frozen dataclass with the paper's defaults."""

    reference: ClassVar[str]
    """Authors, title, year, where."""

    def start(self, run: Run) -> Driver:
        """Check that the run can reach its budget, and make the driver; the model is not touched."""
        ...

    def fitted(self, steps_per_epoch: int, epochs: int) -> Self:
        """Return the same method with its schedule scaled to a run of this length."""
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
    """Turn what `_plain` made back into the kind of value that stands there now."""
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
