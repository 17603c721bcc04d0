"""What a criterion may ask for: evidence kinds, and the accumulators that stream activations into small statistics.

A *need* is what a criterion lists in `needs`; `observe` gathers it and `evidence[need]` hands it back:

| need | `evidence[need]` |
|---|---|
| `Weights` | `Weights`: every parameter and buffer by name |
| `Gradients` | `Gradients`: the loss gradient of every parameter, averaged over samples |
| `Activations(accumulate, at)` | group name -> `accumulate(group, sites).result()`, fed with activations |
| `GateGradients(accumulate, at)` | group name -> `accumulate(group, sites).result()`, fed with gate gradients |

The last two are the way to add evidence: write one class with `update` and `result` (an `Accumulator`), and list
`Activations(ThatClass, at=Reads())` in `needs`. Nothing else changes, and nothing of the size of an activation is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar, overload

from torch import Tensor

from secateurs.errors import EvidenceError
from secateurs.graph.groups import Group, Site

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, eq=False)
class Weights:
    """Every parameter and buffer of the model by canonical name: detached views, never copies.

    `buffers` names those that are not parameters (a norm's running statistics, masks).
    """

    tensors: Mapping[str, Tensor]
    buffers: frozenset[str] = frozenset()
    reduced: dict[tuple[Any, ...], Any] = field(default_factory=dict[tuple[Any, ...], Any], repr=False)
    """What criteria have read off a tensor already, by its name, its version and what was read."""

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names of floating-point parameters, which is what scores are made of."""
        floating = (name for name, tensor in self.tensors.items() if tensor.is_floating_point())
        return frozenset(floating) - self.buffers


@dataclass(frozen=True, eq=False)
class Gradients:
    """dL/dw of every parameter by canonical name, in eval mode, averaged over `samples` samples."""

    tensors: Mapping[str, Tensor]
    samples: int


class Accumulator(Protocol[R_co]):
    """A running statistic of one group's units: small state, fed one batch at a time."""

    def update(self, values: Tensor) -> None:
        """Take in one batch.

        From `Activations`: [samples, units, positions], once for every chosen site and every call of its module.
        From `GateGradients`: [samples, units], once a batch, contributions of all chosen sites already summed.
        The tensor is detached, on the model's device, and must not be kept or written to.
        """
        ...

    def result(self) -> R_co:
        """The statistic after the last batch."""
        ...


class SitePolicy(Protocol):
    """Chooses, among the sites that a group's units pass through, those to watch."""

    def __call__(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """Return the chosen sites; none at all is refused with the group's name."""
        ...


@dataclass(frozen=True)
class Writes:
    """The raw outputs of the modules that write the units (a convolution's output, before norm and activation)."""

    def __call__(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """Return the sites that a parametrised operator writes."""
        return tuple(site for site in sites if site.writes)


@dataclass(frozen=True)
class Reads:
    """The inputs of the modules that read the units (after norm, activation and pooling)."""

    def __call__(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """Return the sites that a parametrised operator reads."""
        return tuple(site for site in sites if site.reads)


@dataclass(frozen=True)
class Activations(Generic[R]):
    """A need: stream the activations at some sites of each group into `accumulate(group, sites)`.

    `update` receives [samples, units, positions]: all other dimensions of the activation, and the several entries a
    unit may own, are flattened into positions.
    """

    accumulate: Callable[[Group, tuple[Site, ...]], Accumulator[R]]
    at: SitePolicy = field(default_factory=Reads)


@dataclass(frozen=True)
class GateGradients(Generic[R]):
    """A need: stream per-sample gate gradients of each group into `accumulate(group, sites)`.

    A gate is a factor of one on unit u at the chosen sites, shared by all of them; its derivative for sample n is

        z[n, u] = sum over sites and positions of  activation * dL_n / d activation

    Signed contributions of coupled sites are added first (chain rule of a shared parameter), so that squaring, if
    any, comes after. L_n is the loss of sample n alone, not divided by the batch size.
    """

    accumulate: Callable[[Group, tuple[Site, ...]], Accumulator[R]]
    at: SitePolicy = field(default_factory=Writes)


Need = type[Weights] | type[Gradients] | Activations[Any] | GateGradients[Any]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What `observe` gathered, by need."""

    found: Mapping[Need, Any]

    @overload
    def __getitem__(self, need: type[Weights]) -> Weights: ...
    @overload
    def __getitem__(self, need: type[Gradients]) -> Gradients: ...
    @overload
    def __getitem__(self, need: Activations[R]) -> Mapping[str, R]: ...
    @overload
    def __getitem__(self, need: GateGradients[R]) -> Mapping[str, R]: ...
    def __getitem__(self, need: Need) -> Any:
        """Return what was gathered for a need.

        >>> Evidence({Weights: Weights({})})[Weights].buffers
        frozenset()
        """
        if need not in self.found:
            name = describe(need)
            msg = (
                f"{name} was not gathered. A criterion only sees what it asks for. "
                f"List {name} in the criterion's `needs`, and pass them to `observe`."
            )
            raise EvidenceError(msg)
        return self.found[need]


def describe(need: Need) -> str:
    """Name a need in words for messages."""
    return need.__name__ if isinstance(need, type) else repr(need)
