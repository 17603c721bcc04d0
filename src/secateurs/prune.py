"""`plan` chooses the units to keep; `prune` traces, plans, applies and optionally recovers in one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import tee
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import nn

from secateurs.allocate import Allocator, Budget, Ranked, aligned
from secateurs.allocate.agreement import agreed
from secateurs.criteria import Criterion, score
from secateurs.errors import BudgetError, InputError, RecipeError, check_seed, expect
from secateurs.evidence import observe
from secateurs.graph import Cost, Graph, trace
from secateurs.network import Network
from secateurs.notebook import html_table
from secateurs.recover.recovery import Recovery, read_steps
from secateurs.recover.recovery import recover as recovered
from secateurs.registry import kind_of, names, value_of
from secateurs.running.process import all_or_nothing
from secateurs.running.replica import Replica
from secateurs.surgery.apply import apply, check_shapes
from secateurs.surgery.plan import Plan
from secateurs.surgery.tensors import duplicate
from secateurs.types import Loss

if TYPE_CHECKING:
    from secateurs.deploy.rig import Timing
    from secateurs.methods.one_shot import Method


@runtime_checkable
class Finishing(Protocol):
    """Interface of one-shot methods that also change the weights of the pruned network."""

    def finish(self, pruned: nn.Module, dense: nn.Module, plan: Plan, *, seed: int) -> None:
        """Change the pruned network in place."""
        ...


@dataclass(frozen=True, eq=False)
class Result:
    """The result of `prune`: the pruned model, its plan, and the cost of both networks.

    model: the pruned copy. plan: the kept units. cost_before, cost_after: of the dense and the pruned network. graph:
    of the dense network. notes: sentences, for example about rounded widths. timing: measured latencies, if the budget
    names a device.
    """

    model: nn.Module
    plan: Plan
    cost_before: Cost
    cost_after: Cost
    graph: Graph
    notes: tuple[str, ...] = ()
    timing: Timing | None = None

    def __repr__(self) -> str:
        """One line: the remaining shares."""
        parts = (f"{name} {now / max(was, 1):.1%}" for name, was, now in self._figures())
        return f"Result({', '.join(parts)} remain)"

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        rows = [(name, was, now, f"{now / max(was, 1):.1%}") for name, was, now in self._figures()]
        notes = [*([] if self.timing is None else [str(self.timing)]), *self.notes, repr(self.plan)]
        return html_table("Result", ("", "before", "after", "remains"), rows, notes)

    def _figures(self) -> tuple[tuple[str, int, int], ...]:
        before, after = self.cost_before, self.cost_after
        return (
            ("MACs", before.macs, after.macs),
            ("parameters", before.params, after.params),
            ("activation bytes", before.memory, after.memory),
        )

    def __str__(self) -> str:
        figures = (f"{name}: {was:,} -> {now:,} ({now / max(was, 1):.1%})" for name, was, now in self._figures())
        return "\n".join([*figures, *([] if self.timing is None else [str(self.timing)]), *self.notes])


def plan(  # noqa: PLR0913 (choices go by keyword)
    graph: Graph,
    model: nn.Module | Network,
    *,
    criterion: Criterion | str,
    budget: Budget,
    allocator: Allocator | None = None,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
) -> Plan:
    """Choose the units to keep: observe what the criterion needs, score every group, allocate the budget.

    graph: what `trace` returned for this model, which is not changed. criterion: a value or its name, such as "l2".
    budget: what remains. allocator: chooses widths from scores; by default `Ranked()`, which ranks all units of the
    network together, each score divided by its group's mean. data: (inputs, targets) batches, and loss: a function of
    (outputs, targets), for criteria that need them; criteria of weights do not. seed: for a named criterion with random
    scores.

    Raises InputError for a wrong argument, ModelError for a model that cannot be scored, PlanError if the graph is of
    another model, EvidenceError if the criterion lacks data, BudgetError if the budget cannot be met, RecipeError for
    an unknown name.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> chosen = plan(trace(net, torch.zeros(1, 4)), net, criterion="magnitude", budget=Budget(macs=0.5))
    >>> len(chosen.keep["0"])
    3
    """
    expect("graph", graph, Graph, "Pass what secateurs.trace gave.")
    network = Network.of(model)
    check_shapes(graph.signature, network)
    _check_budget(budget)
    check_seed(seed)
    chosen = value_of(criterion, seed=seed)
    if not isinstance(chosen, Criterion):
        message = (
            f"{criterion!r} is no criterion. A criterion is a value that scores the units of a group. Pass one, such "
            "as secateurs.criteria.Magnitude(), or its name; methods are for secateurs.prune or secateurs.Session."
        )
        raise InputError(message)
    evidence = observe(graph, network, chosen, data=data, loss=loss)
    scores = score(chosen, graph.groups, evidence)
    return Plan.from_keep(graph, (allocator or Ranked())(scores, graph, budget))


@all_or_nothing
def prune(  # noqa: PLR0913 (the one verb that does everything)
    model: nn.Module | Network,
    example_inputs: Any,
    *,
    method: Method | Criterion | str,
    budget: Budget | None = None,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    protect: Iterable[str] = (),
    seed: int = 0,
    recover: Recovery | Iterable[Recovery] | None = None,
    allocator: Allocator | None = None,
) -> Result:
    """Prune a copy of a model to a budget in one shot: trace, choose, prove, remove. The model itself is unchanged.

    model, example_inputs: as for `trace`. method: a one-shot method of a paper, a criterion, or the name of either
    (`"magnitude"`, `"bn-scale"`, `"epruner"`). budget: what remains; None if the paper's method decides. Without
    `multiple_of` in it, widths are rounded to multiples at which runtimes are fast (`Alignment`), within the budget,
    and `result.notes` says so. With a `device` in it, latency is measured (`result.timing`): `latency` is met within 3
    %, and a network slower than the dense one is refused. data: (inputs, targets) batches, for methods that need them.
    loss: a function of (outputs, targets), cross entropy by default. protect: names of modules whose channels stay.
    seed: of random choices. recover: steps after removal, such as `Reconstruct()`, on the images of `data`; see
    `secateurs.recover`. allocator: as in `plan`, for criteria only.

    Raises InputError or ModelError before any work, RecipeError for an unknown method (with near names), TraceError if
    the model does not run, BudgetError if the budget cannot be met, EvidenceError if data is missing.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> result = prune(net, torch.zeros(1, 4), method="magnitude", budget=Budget(macs=0.5))
    >>> result.model
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
      (1): ReLU()
      (2): Linear(in_features=3, out_features=2, bias=True)
    )
    >>> print(result)
    MACs: 36 -> 18 (50.0%)
    parameters: 44 -> 23 (52.3%)
    activation bytes: 56 -> 32 (57.1%)
    """
    network = Network.of(model).with_values
    check_seed(seed)
    chosen = _one_shot(method, seed)
    _check_allocator(allocator, chosen, budget)
    steps = () if recover is None else read_steps(recover)
    data, again = _read_twice(data) if steps else (data, ())
    given = None if budget is None and not isinstance(chosen, Criterion) else _check_budget(budget)
    graph = trace(network, example_inputs, protect=protect)
    given, note = (None, "") if given is None else round_widths(graph, given, chosen)
    timing: Timing | None = None
    if given is not None and given.device is not None:
        from secateurs.deploy.on_device import keep_on_device

        keep, timing = keep_on_device(graph, network.model, chosen, given, data=data, loss=loss, seed=seed)
        found = Plan.from_keep(graph, keep)
    elif isinstance(chosen, Criterion):
        found = plan(
            graph, network, criterion=chosen, budget=_check_budget(given), allocator=allocator, data=data, loss=loss
        )
    else:
        stand_in = Replica(network, around=False).model
        keep = chosen.select(graph, stand_in, given, data=data, loss=loss, seed=seed)
        found = Plan.from_keep(graph, agreed(graph, keep))
    pruned = apply(found, duplicate(network.model))
    if isinstance(chosen, Finishing):
        chosen.finish(pruned, network.model, found, seed=seed)
    pruned = recovered(pruned, network.model, again, plan=found, steps=steps) if steps else pruned
    return Result(pruned, found, graph.cost(), graph.cost(found), graph, (note,) if note else (), timing)


def round_widths(graph: Graph, budget: Budget, method: object) -> tuple[Budget, str]:
    """Return the budget with width multiples for the groups that a method prunes, if it names none, and a note."""
    from secateurs.methods.one_shot import part_of

    part = part_of(graph, budget, getattr(method, "scope", "coupled"))
    rounded, note = aligned(part, replace(budget, exclude=()))
    return replace(budget, multiple_of=rounded.multiple_of), note


def _one_shot(method: object, seed: int) -> Criterion | Method:
    """Return the criterion or one-shot method of a name or value."""
    from secateurs.methods.one_shot import Method

    value = value_of(method, seed=seed)
    if isinstance(value, Method | Criterion):
        return value
    if kind_of(value) == "training":
        message = (
            f"{type(value).__name__} does not choose in one shot: it prunes while the model trains. "
            "Drive it from your training loop with secateurs.Session(model, example_inputs, method=..., budget=...)."
        )
        raise RecipeError(message)
    known = ", ".join((*names("criterion"), *names("one-shot")))
    message = f"{value!r} is no method. Pass a method, a criterion, or a name: {known}."
    raise RecipeError(message)


def _check_allocator(allocator: Allocator | None, method: object, budget: Budget | None) -> None:
    """Refuse an allocator that would not be used."""
    if allocator is not None and (not isinstance(method, Criterion) or (budget and budget.device)):
        message = (
            f"allocator={allocator!r} turns a criterion's scores into widths, and {method!r} or the device of the "
            "budget has a way of its own. Leave it out."
        )
        raise RecipeError(message)


def _read_twice(data: Iterable[Any] | None) -> tuple[Iterable[Any], Iterable[Any]]:
    """Return the data twice, to choose and to recover, also if it is an iterator that can be read only once."""
    if data is None:
        message = "recover= needs images, and no data was given. Pass data=, an iterable of batches of training images."
        raise InputError(message)
    first, second = tee(data) if isinstance(data, Iterator) else (data, data)
    return first, second


def _check_budget(budget: object) -> Budget:
    """Refuse objects that are not budgets."""
    if not isinstance(budget, Budget):
        message = f"budget={budget!r} does not say what remains of what. Pass a Budget, such as Budget(macs=0.5)."
        raise BudgetError(message)
    return budget
