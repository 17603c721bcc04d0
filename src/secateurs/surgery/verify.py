"""Compare the pruned network's outputs with the masked one's, for a whole plan and for each of its groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateurs.errors import InputError, PlanError
from secateurs.graph import Graph, Group
from secateurs.network import Network
from secateurs.running.compare import Call, checked_output_of, moved, output_of, relative_error
from secateurs.running.nested import as_call
from secateurs.running.process import all_or_nothing
from secateurs.surgery.apply import apply, check_signature
from secateurs.surgery.copies import plan_with_copies, unit_shares
from secateurs.surgery.mask import silence
from secateurs.surgery.plan import Plan
from secateurs.surgery.tensors import duplicate

TOLERANCE = 1e-9
"""Largest error of an exact removal in float64, relative to the largest output (law 1)."""


@dataclass(frozen=True)
class GroupDeviation:
    """Relative `error` when the group `name` alone is pruned; `because`: the operators that make it not `exact`."""

    name: str
    error: float
    exact: bool = True
    because: tuple[str, ...] = ()

    def __str__(self) -> str:
        why = "" if self.exact else f"  inexact: {'; '.join(self.because)}"
        return f"{self.name}: {self.error:.1e}{why}"


@dataclass(frozen=True)
class Verification:
    """The relative differences between the outputs of the pruned and of the masked network.

    error: max|pruned − masked| / max|masked| with all exact groups of the plan removed; must be below `tolerance`.
    deviation: the same for the whole plan, with inexact groups. groups: the same for each group alone.

    >>> print(Verification(2e-16, 2e-16, (GroupDeviation("conv1", 2e-16),), 1e-9))
    removal equals silence: relative error 2.0e-16 (tolerance 1.0e-09)
      conv1: 2.0e-16
    """

    error: float
    deviation: float
    groups: tuple[GroupDeviation, ...]
    tolerance: float

    @property
    def passed(self) -> bool:
        """True if the exact groups, together and each alone, stay below the tolerance."""
        return max([self.error, *(g.error for g in self.groups if g.exact)]) < self.tolerance

    def raise_if_failed(self) -> None:
        """Raise PlanError with the groups that differ, if any exact one does."""
        if not self.passed:
            guilty = [str(g) for g in self.groups if g.exact and not g.error < self.tolerance]
            message = (
                f"the pruned network is not the masked one: relative error {self.error:.1e}, "
                f"tolerance {self.tolerance:.1e}{', from ' + '; '.join(guilty) if guilty else ''}. "
                "A unit of these groups reaches the output on a way that the graph does not know. "
                "Protect their modules (trace(..., protect=[...])) and report the model."
            )
            raise PlanError(message)

    def __str__(self) -> str:
        verdict = "removal equals silence" if self.passed else "removal is NOT silence"
        lines = [f"{verdict}: relative error {self.error:.1e} (tolerance {self.tolerance:.1e})"]
        if any(not g.exact for g in self.groups):
            lines.append(f"with the inexact groups: {self.deviation:.1e}")
        return "\n".join([*lines, *(f"  {group}" for group in self.groups)])


@dataclass(frozen=True, eq=False)
class _Bench:
    """A copy of the model in the dtype of the comparison, and the inputs."""

    model: nn.Module
    call: Call

    def error(self, plan: Plan) -> float:
        """Compare the model pruned by the plan with the model masked by it."""
        if not plan.tensors:
            return 0.0
        masked, pruned = duplicate(self.model), duplicate(self.model)
        silence(plan, masked)
        apply(plan, pruned, proof=False)
        try:
            output = output_of(pruned, self.call)
        except Exception as error:
            cut = [name for name, units in plan.keep.items() if units != tuple(range(plan.units[name]))]
            message = (
                f"the network with {', '.join(cut[:3])}{' …' if cut[3:] else ''} pruned does not run: {error}. "
                "Something in its forward depends on a width that the graph does not know. "
                "Protect these modules (trace(..., protect=[...])) and report the model."
            )
            raise PlanError(message) from error
        return relative_error(output, output_of(masked, self.call))


@all_or_nothing
def verify(
    plan: Plan,
    model: nn.Module | Network,
    example_inputs: Any = None,
    *,
    graph: Graph | None = None,
    per_group: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Verification:
    """Compare the outputs of the pruned and of the masked network, in eval mode; the model is not changed.

    Both are copies in `dtype`. example_inputs: those of the trace by default. per_group: also compare each pruned group
    alone (two forwards a group). graph: for a plan read from a file, which has none; without a graph, groups are not
    compared one by one. The tolerance is 1e-9 in float64, and 10⁴ machine epsilons (1e-3 in float32) in other types.

    Raises InputError if there are neither inputs nor a graph that has them, TraceError if the model does not run in
    `dtype`, PlanError if the plan was made for another network.

    >>> import torch
    >>> from secateurs.graph import trace
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> plan = Plan.from_keep(trace(net, torch.zeros(1, 2)), {"0": [0, 2]})
    >>> verify(plan, net, torch.ones(4, 2)).passed
    True
    """
    network = Network.of(model).with_values
    check_signature(plan, network)
    known = graph if graph is not None else plan.graph
    call = _traced_call(known) if example_inputs is None else as_call(example_inputs)
    bench = _Bench(duplicate(network.model).to(dtype), moved(call, dtype, network.device))
    tolerance = TOLERANCE if dtype == torch.float64 else 1e4 * torch.finfo(dtype).eps
    checked_output_of(bench.model, bench.call, dtype)
    return _measure(plan, known, bench, tolerance, per_group=per_group)


def _measure(plan: Plan, graph: Graph | None, bench: _Bench, tolerance: float, *, per_group: bool) -> Verification:
    deviation = bench.error(plan)
    if graph is None:
        return Verification(deviation, deviation, (), tolerance)
    cut = [g for g in graph.groups if plan.keep[g.name] != tuple(range(g.units))]
    exact = [g.name for g in cut if not _because(graph, g)]
    error = bench.error(_part(plan, graph, exact)) if len(exact) < len(cut) else deviation
    groups: list[GroupDeviation] = []
    for g in cut if per_group else ():
        because = _because(graph, g)
        error_alone = bench.error(_part(plan, graph, graph.tied_with(g.name)))
        groups.append(GroupDeviation(g.name, error_alone, not because, because))
    return Verification(error, deviation, tuple(groups), tolerance)


def _part(plan: Plan, graph: Graph, names: Iterable[str]) -> Plan:
    """The part of a plan that concerns some groups."""
    chosen = list(names)
    return plan_with_copies(
        graph, {name: plan.keep[name] for name in chosen}, {name: unit_shares(graph, plan, name) for name in chosen}
    )


def _because(graph: Graph, group: Group) -> tuple[str, ...]:
    """Operators that make a group, or one that is tied to it in count, inexact."""
    found = (why for name in graph.tied_with(group.name) for why in graph.group(name).inexact_because)
    return tuple(dict.fromkeys(found))


def _traced_call(graph: Graph | None) -> Call:
    if graph is None:
        message = (
            "no inputs to verify on. A plan read from a file has no graph, and so no example inputs. "
            "Pass them, verify(plan, model, example_inputs), or graph=trace(model, example_inputs)."
        )
        raise InputError(message)
    return graph.example
