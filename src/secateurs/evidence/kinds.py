"""Kinds of evidence that a criterion can ask for, and accumulators that reduce activations to small statistics.

A criterion maps names of its own choice to *needs*, and reads the statistics back under these names:

    needs = {"weights": Weights, "rank": Activations(MapRank, spatial=True)}
    evidence["weights"].tensors["conv1.weight"]
    evidence["rank"]["layer1.0.conv1"]         # the statistic of one group

| need | type and content of `evidence[name]` |
|---|---|
| `Weights` | `Weights`: every parameter and buffer by name |
| `Gradients` | `Gradients`: the loss gradient of every parameter, averaged over samples |
| `Activations(accumulate, at=at)` | group name -> `accumulate(group, sites).result()`, fed with activations |
| `GateGradients(accumulate, at=at)` | group name -> `accumulate(group, sites).result()`, fed with gate gradients |
| `Derivatives(make)` | parameter name -> tensor: `make().result()`, fed with batches to differentiate |

A new statistic is one class with `update` and `result` (an `Accumulator`), named in `needs` as
`Activations(ThatClass, at=Reads())`. Activations are reduced batch by batch and never stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar, overload

from torch import Tensor

from secateurs.errors import EvidenceError
from secateurs.evidence.derivatives import Derivatives
from secateurs.graph.groups import Group, Site

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, eq=False)
class Weights:
    """Every parameter and buffer of the model by canonical name: detached views, never copies.

    tensors: name -> view. buffers: names of those that are not parameters (a norm's running statistics, masks).
    reduced: a cache that criteria share.
    """

    tensors: Mapping[str, Tensor]
    buffers: frozenset[str] = frozenset()
    reduced: dict[tuple[Any, ...], Any] = field(default_factory=dict[tuple[Any, ...], Any], repr=False)
    """Cache of reductions that criteria have computed: (tensor name, version, reduction) -> result."""

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names of floating-point parameters, from which scores are computed."""
        floating = (name for name, tensor in self.tensors.items() if tensor.is_floating_point())
        return frozenset(floating) - self.buffers


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients dL/dw of every parameter in eval mode: `tensors` by canonical name, averaged over `samples` samples."""

    tensors: Mapping[str, Tensor]
    samples: int


class Accumulator(Protocol[R_co]):
    """A statistic of one group's units, updated batch by batch in constant memory."""

    def update(self, values: Tensor) -> None:
        """Update with one batch.

        From `Activations`: [samples, units, positions], once for every chosen site and every call of its module;
        with `spatial=True` [samples, units, *spatial].
        From `GateGradients`: [samples, units], once a batch, contributions of all chosen sites already summed.
        The tensor is detached, on the model's device, and must not be kept or written to.
        """
        ...

    def result(self) -> R_co:
        """The statistic after the last batch."""
        ...


class SitePolicy(Protocol):
    """Selects, among the module inputs and outputs that carry a group's units, those to read."""

    def __call__(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """Return the selected sites; an empty selection is refused with the group's name."""
        ...


@dataclass(frozen=True)
class Writes:
    """Select the raw outputs of the modules that produce the units (of a convolution, before norm and activation)."""

    def __call__(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """Return the sites that a parametrised operator writes."""
        return tuple(site for site in sites if site.writes)


@dataclass(frozen=True)
class Reads:
    """Select the inputs of the modules that read the units (after norm, activation and pooling)."""

    def __call__(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """Return the sites that a parametrised operator reads."""
        return tuple(site for site in sites if site.reads)


@dataclass(frozen=True)
class Activations(Generic[R]):
    """A need: the activations of each group, passed batch by batch to the accumulator `accumulate(group, sites)`.

    `update` receives [samples, units, positions]: all other dimensions of the activation, and the several entries a
    unit may own, are flattened into positions. With `spatial=True` it receives [samples, units, *spatial] instead: the
    other dimensions in the order of the activation (height and width behind a 2-d convolution). Where a unit owns
    several entries (a flattened map that a linear layer reads), these come first, as one more dimension.
    """

    accumulate: Callable[[Group, tuple[Site, ...]], Accumulator[R]]
    _: KW_ONLY
    at: SitePolicy = field(default_factory=Reads)
    spatial: bool = False


@dataclass(frozen=True)
class GateGradients(Generic[R]):
    """A need: per-sample gate gradients of each group, passed by batches to `accumulate(group, sites)`.

    A gate is a factor of one on unit u at the chosen sites, shared by all of them; its derivative for sample n is

        z[n, u] = sum over sites and positions of  activation * dL_n / d activation

    Signed contributions of coupled sites are added first (chain rule of a shared parameter), so that squaring, if
    any, comes after. L_n is the loss of sample n alone, not divided by the batch size.
    """

    accumulate: Callable[[Group, tuple[Site, ...]], Accumulator[R]]
    _: KW_ONLY
    at: SitePolicy = field(default_factory=Writes)


Need = type[Weights] | type[Gradients] | Activations[Any] | GateGradients[Any] | Derivatives
"""One kind of evidence, with its settings."""

Needs = Mapping[str, Need]
"""Names of a criterion's own choice -> the evidence that it reads under them."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """The statistics that `observe` gathered, by the names that a criterion gave them; found: name -> statistic.

    >>> import torch
    >>> Evidence({"weights": Weights({"w": torch.ones(2)})})["weights"].tensors["w"]
    tensor([1., 1.])
    """

    found: Mapping[Any, Any]

    @overload
    def __getitem__(self, name: str) -> Any: ...
    @overload
    def __getitem__(self, name: type[Weights]) -> Weights: ...
    @overload
    def __getitem__(self, name: type[Gradients]) -> Gradients: ...
    @overload
    def __getitem__(self, name: Activations[R]) -> Mapping[str, R]: ...
    @overload
    def __getitem__(self, name: GateGradients[R]) -> Mapping[str, R]: ...
    def __getitem__(self, name: Any) -> Any:
        """Return the statistic under a name; EvidenceError lists the names that exist."""
        if name not in self.found:
            asked = describe(name)
            there = ", ".join(describe(known) for known in self.found) or "nothing"
            msg = (
                f"{asked} was not gathered; there is {there}. A criterion only sees what it asks for. "
                f"Give {asked} in the criterion's `needs`, and pass the criterion to `observe`."
            )
            raise EvidenceError(msg)
        return self.found[name]

    def inner(self, name: str) -> Evidence:
        """Return the evidence of a criterion inside a criterion, whose needs were given by `inner_needs(name, ...)`.

        >>> Evidence({"fallback.weights": 1, "weights": 2}).inner("fallback")["weights"]
        1
        """
        start = f"{name}."
        own = {key[len(start) :]: value for key, value in self.found.items() if str(key).startswith(start)}
        return Evidence(own)


def inner_needs(name: str, needs: Needs) -> dict[str, Need]:
    """Rename the needs of a criterion inside another, so that their names cannot clash; name: of the inner one.

    >>> list(inner_needs("fallback", {"weights": Weights}))
    ['fallback.weights']
    """
    return {f"{name}.{key}": need for key, need in needs.items()}


def describe(need: object) -> str:
    """Describe a need, or the name that a criterion gave it, for messages."""
    return need.__name__ if isinstance(need, type) else repr(need)
