"""What a training-time method is to a session: a frozen value that starts a driver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from secateurs.session.run import Run

State = dict[str, Any]
"""Plain values and tensors: what a checkpoint can hold."""


class Driver(ABC):
    """The mutable side of a method during one run; a session calls it around every optimizer step."""

    @property
    @abstractmethod
    def phase(self) -> str:
        """One word: what the method is doing now."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether the model at this very step is the pruned one, so that a checkpoint of it may be chosen."""

    @abstractmethod
    def attached(self) -> None:
        """The session follows an optimizer now: put on the model what the method needs."""

    @abstractmethod
    def gradients_ready(self) -> None:
        """Gradients are complete, unscaled, clipped and averaged: add penalties."""

    @abstractmethod
    def stepped(self) -> None:
        """Weights have moved, and `run.step` counts this step: update state, remove units."""

    @abstractmethod
    def conclude(self, *, early: bool) -> None:
        """Training is over: do what is due now; with `early`, decide from the present scores what is undecided."""

    @abstractmethod
    def missing(self) -> str | None:
        """Return what the method still has to do before the network is pruned, in a sentence, or None."""

    @abstractmethod
    def compacted(self, keep: Mapping[str, NDArray[Any]]) -> None:
        """The network has physically lost units: state follows; `keep` has the old numbers of the kept units."""

    @abstractmethod
    def state(self) -> State:
        """Everything that the coming steps depend on."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Continue from `state` of a driver of the same method on the same (already compacted) network."""

    @abstractmethod
    def close(self) -> None:
        """Remove whatever was put on the model and the optimizer."""


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
