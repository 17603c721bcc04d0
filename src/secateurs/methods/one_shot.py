"""Interface of one-shot methods, and the subset of a network's groups that one works on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.allocate import Allocator, AsIs, Budget, Ranked
from secateurs.allocate.exact import Losses
from secateurs.allocate.levels import Costed
from secateurs.allocate.subset import Part
from secateurs.errors import BudgetError, EvidenceError
from secateurs.evidence.kinds import Needs, SitePolicy
from secateurs.graph import Graph, Group
from secateurs.types import Keep, Loss, Scope


@runtime_checkable
class Method(Protocol):
    """A one-shot method: its fields are the paper's settings, with the paper's defaults."""

    @property
    def reference(self) -> str:
        """Authors, year, where published."""
        ...

    @property
    def needs(self) -> Needs:
        """The evidence that it uses, by the names under which it reads it."""
        ...

    def select(
        self,
        graph: Graph,
        model: nn.Module,
        budget: Budget | None,
        *,
        data: Iterable[Any] | None,
        loss: Loss | None,
        seed: int,
    ) -> Mapping[str, NDArray[np.int64]]:
        """Return group name -> units to keep, ascending; a group that is not named stays whole.

        graph: of the model, which is not changed. budget: None if the method decides the widths, as in its paper. data:
        batches, or None. loss: of (outputs, targets), or None for cross entropy. seed: of random choices.
        """
        ...


@runtime_checkable
class Measured(Protocol):
    """A one-shot method that estimates the loss of every width; a budget of latency uses these losses directly."""

    def losses(
        self,
        graph: Graph,
        model: nn.Module,
        budget: Budget,
        *,
        data: Iterable[Any] | None,
        loss: Loss | None,
        seed: int,
    ) -> Losses:
        """Return the loss at every width of the groups that may lose units. The model is not changed."""
        ...


def named(method: Any, *always: str) -> str:
    """Return the repr of a method with the settings that differ from the defaults, and those in `always`."""
    told = [f.name for f in fields(method) if f.name in always or getattr(method, f.name) != f.default]
    return f"{type(method).__name__}({', '.join(f'{name}={getattr(method, name)}' for name in told)})"


def producers(graph: Graph, group: Group) -> frozenset[str]:
    """Return the modules that produce a group's units, without those that also read them (depthwise convolutions)."""
    written = frozenset(s.tensor.rpartition(".")[0] for s in group.slices if s.role == "out")
    if len(written) <= 1:
        return written
    sites = graph.sites(group.name)
    writes, reads = ({s.module for s in sites if getattr(s, what)} for what in ("writes", "reads"))
    return frozenset(writes - reads)


def part_of(graph: Graph, budget: Budget | None, scope: Scope, *, at: SitePolicy | None = None) -> Part:
    """Return the groups in scope that the budget does not exclude.

    at: where the method observes; groups without such a site stay whole, because functions carry no hook (heads of
    attention that is written in functions). Raises EvidenceError if that leaves none.
    """
    out = frozenset[str]() if budget is None else budget.excluded(graph.groups)
    groups = tuple(group for group in graph.groups if group.name not in out)
    if scope == "uncoupled":
        groups = tuple(group for group in groups if len(producers(graph, group)) <= 1)
    if at is not None:
        seen = tuple(group for group in groups if at(graph.sites(group.name)))
        if groups and not seen:
            raise EvidenceError(
                f"all {len(groups)} groups pass through functions only, which carry no hook, so that nothing "
                "can be observed. Choose by weights (method='magnitude'), or compute the channels in modules."
            )
        groups = seen
    return Part(graph, groups)


def meet_budget(part: Part, budget: Budget, allocate: Callable[[Costed, Budget], Keep], method: object) -> Keep:
    """Allocate a budget inside a part; if it cannot be reached there, the BudgetError names the groups outside."""
    try:
        return allocate(part, replace(budget, exclude=()))
    except BudgetError as error:
        outside = len(part.whole.groups) - len(part.groups)
        if not outside:
            raise
        message = f"{error} {method!r} left {outside} of {len(part.whole.groups)} groups whole ({_WHY_OUTSIDE})."
        raise BudgetError(message) from error


_WHY_OUTSIDE = (
    "excluded by the budget, passed through functions only, which carry no hook, or produced by several operators: "
    "scope='coupled' takes the last in"
)


def ranked(
    part: Part,
    budget: Budget,
    scores: Mapping[str, NDArray[np.float64]],
    method: object,
    *,
    allocator: Allocator | None = None,
) -> Keep:
    """Remove units of a part, lowest score first, until the budget is met; scores are comparable between groups.

    allocator: `Ranked(AsIs())` by default.
    """
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in scores.items()}
    chosen: Allocator = allocator or Ranked(AsIs())
    return meet_budget(part, budget, lambda costed, left: chosen(tensors, costed, left), method)
