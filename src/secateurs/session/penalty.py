"""Penalties: terms that a method adds to gradients, with one factor per unit.

A `Penalty` is a frozen value with two functions, as an optax transformation is: `init(units)` makes its state and
`update(units, state, at)` returns a factor for every unit, and the next state. The gradient of a unit's weights then
grows by factor · `direction(weights)`: by factor·W for an L2 penalty ½·factor·‖W‖², by factor·sign(W) for an L1
penalty. The state is a value (a frozen dataclass of numbers and tensors), so that a run resumes from it as it is.

`Applied` is the one place where penalties meet optimizers: gradients that a fused optimizer unscales only inside its
kernel get the penalty times the loss scale; an optimizer that normalises gradients (Adam) would normalise the
penalty away, so under it the penalty is decoupled as AdamW's weight decay is: W ← W − lr·factor·direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from secateurs.graph.groups import Role
from secateurs.session.flat_units import squares
from secateurs.session.per_group import extremes
from secateurs.session.schedule import Position
from secateurs.session.scope import Units

S = TypeVar("S")


class Penalty(Protocol[S]):
    """Interface of penalties: factor[unit] · direction(weights) is added to the gradients of the units' weights."""

    @property
    def roles(self) -> tuple[Role, ...]:
        """Roles of the penalised weights: "out" (filters), "in" (channels that read them), "bias", "scale", "shift"."""
        ...

    def init(self, units: Units) -> S:
        """Return the state before the first step."""
        ...

    def update(self, units: Units, state: S, at: Position) -> tuple[Tensor | None, S]:
        """Return the factors [units] of the step `at` (None: nothing is added), and the next state."""
        ...

    def direction(self, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the tensors that the factors multiply, in the shapes of the weights."""
        ...


@dataclass(frozen=True)
class Stateless:
    """The state of a penalty that has none."""


@dataclass(frozen=True)
class L2:
    """A constant L2 penalty ½·strength·‖W‖² on every unit: weight decay of prunable units only.

    strength: the factor of every unit. roles: the entries of a unit that are penalised.

    >>> L2(1e-4).direction([torch.tensor([2.0, -3.0])])[0].tolist()
    [2.0, -3.0]
    """

    strength: float = 1e-4
    _: KW_ONLY
    roles: tuple[Role, ...] = ("out",)

    def init(self, units: Units) -> Stateless:
        """Return an empty state."""
        return Stateless()

    def update(self, units: Units, state: Stateless, at: Position) -> tuple[Tensor, Stateless]:
        """Return the same factor for every unit."""
        return torch.full((units.ledger.total,), self.strength, device=units.rows.device), state

    def direction(self, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return W."""
        return weights


@dataclass(frozen=True)
class ScaleL1:
    """An L1 penalty strength·Σ|γ| on the scales of the norms behind the units; Liu et al. 2017 (ICCV), equation 1.

    strength: the factor of every scale. roles: the entries of a unit that are penalised.

    >>> ScaleL1(1e-4).direction([torch.tensor([2.0, -3.0])])[0].tolist()
    [1.0, -1.0]
    """

    strength: float = 1e-4
    _: KW_ONLY
    roles: tuple[Role, ...] = ("scale",)

    def init(self, units: Units) -> Stateless:
        """Return an empty state."""
        return Stateless()

    def update(self, units: Units, state: Stateless, at: Position) -> tuple[Tensor, Stateless]:
        """Return the same factor for every unit."""
        return torch.full((units.ledger.total,), self.strength, device=units.rows.device), state

    def direction(self, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return sign(W)."""
        return [weight.sign() for weight in weights]


@dataclass(frozen=True)
class GroupNorm:
    """A group-wise L2 penalty, stronger on the smaller units of a group; Fang et al. 2023 (DepGraph), equation 4.

    factor of unit k = strength · 2^(4·(I_max − I_k) / (I_max − I_min)), I_k the norm of all of its coupled weights:
    strength for the largest unit of a group, 16·strength for the smallest.

    strength: the factor of the largest unit. roles: the entries of a unit that are penalised and measured.
    """

    strength: float = 1e-4
    _: KW_ONLY
    roles: tuple[Role, ...] = ("out", "in", "scale")

    def init(self, units: Units) -> Stateless:
        """Return an empty state."""
        return Stateless()

    def update(self, units: Units, state: Stateless, at: Position) -> tuple[Tensor, Stateless]:
        """Return the factors of the present norms."""
        norms = units.rows.measure(squares).sqrt()
        low, high = extremes(norms, units.ledger)
        return self.strength * 2.0 ** (4.0 * (high - norms) / (high - low).clamp(min=1e-8)), state

    def direction(self, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return W."""
        return weights


class Applied(Generic[S]):
    """A penalty with its state, which adds to gradients inside the optimizer's step."""

    def __init__(self, penalty: Penalty[S], units: Units) -> None:
        self.penalty, self.units = penalty, units
        self.state = penalty.init(units)
        self._given: Tensor | None = None
        self._flat: Tensor | None = None
        self._views: list[Tensor] = []

    def relocate(self) -> None:
        """Move the state to the model's present device."""
        self.units.relocate()
        self._given = self._flat = None

    @torch.no_grad()
    def add(self, optimizers: Sequence[Optimizer], at: Position, *, decoupled: bool | None = None) -> None:
        """Update the state, and penalise every weight that has a gradient in this step.

        decoupled: None follows the optimizer (see the module's docstring).
        """
        factors, self.state = self.penalty.update(self.units, self.state, at)
        if factors is None:
            return
        if factors is not self._given:
            self._take(factors)
        rows = self.units.rows
        ways = self.penalty.direction(rows.tensors)
        for optimizer in optimizers:
            held = {id(p) for settings in optimizer.param_groups for p in settings["params"]}
            terms = [
                _Term(p, way, view)
                for p, way, view in zip(rows.owners, ways, self._views, strict=True)
                if p.grad is not None and id(p) in held
            ]
            if normalises(optimizer) if decoupled is None else decoupled:
                _shrink(terms, learning_rates(optimizer))
            else:
                _add(terms, getattr(optimizer, "grad_scale", None))

    def _take(self, factors: Tensor) -> None:
        """Expand per-unit factors to rows, reusing views while the dtype stays the same."""
        rows, self._given = self.units.rows, factors
        spread = rows.expand(factors, fill=0.0)
        if self._flat is not None and self._flat.dtype == spread.dtype and not self._copied:
            self._flat.copy_(spread)
            return
        self._flat = spread
        self._views = [v.to(t.dtype) for v, t in zip(rows.factors(spread), rows.tensors, strict=True)]

    @property
    def _copied(self) -> bool:
        """True if the views are copies, in another precision than the factors."""
        return self._flat is not None and any(v.dtype != self._flat.dtype for v in self._views)


@dataclass(frozen=True, eq=False)
class _Term:
    """factor · way is added to the gradient of a parameter."""

    parameter: Tensor
    way: Tensor
    factor: Tensor


def _shrink(terms: Sequence[_Term], rates: dict[int, Any]) -> None:
    """W ← W − lr·factor·way."""
    for term in terms:
        weight, rate = term.parameter.detach(), rates[id(term.parameter)]
        if term.way.data_ptr() == weight.data_ptr():
            weight.mul_(1.0 - rate * term.factor)
        else:
            weight.sub_(rate * term.factor * term.way)


def _add(terms: Sequence[_Term], scale: Tensor | None) -> None:
    """Add factor·way to gradients, times the loss scale if they are still scaled; each gradient once per kernel."""
    left = list(terms)
    while left:
        once = {id(term.parameter): term for term in reversed(left)}
        now = [term for term in left if once[id(term.parameter)] is term]
        left = [term for term in left if once[id(term.parameter)] is not term]
        factors = [term.factor if scale is None else term.factor * scale for term in now]
        grads = [term.parameter.grad for term in now if term.parameter.grad is not None]
        torch._foreach_addcmul_(grads, [term.way for term in now], factors)  # pyright: ignore[reportPrivateImportUsage]


def learning_rates(optimizer: Optimizer) -> dict[int, Any]:
    """Learning rate of every parameter of an optimizer, by identity."""
    return {id(p): settings["lr"] for settings in optimizer.param_groups for p in settings["params"]}


def normalises(optimizer: Optimizer) -> bool:
    """True if an optimizer normalises gradients (Adam), so that a penalty in the gradient would be normalised away.

    >>> from torch import nn
    >>> weights = [nn.Parameter(torch.zeros(1))]
    >>> normalises(torch.optim.SGD(weights, lr=0.1)), normalises(torch.optim.AdamW(weights))
    (False, True)
    """
    return any("momentum" not in group or "betas" in group or "alpha" in group for group in optimizer.param_groups)
