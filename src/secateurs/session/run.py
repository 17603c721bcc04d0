"""The state of a pruning run that a session and its driver share: widths, masks, plan, history, removal of units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from secateurs.allocate import Budget, levels
from secateurs.allocate.agreement import in_step
from secateurs.allocate.budget import RESOURCES, UNBOUNDED
from secateurs.errors import TraceError
from secateurs.graph import Cost, Graph, Group, trace
from secateurs.graph.groups import Role
from secateurs.session.flat_units import Ledger, Rows
from secateurs.session.history import Event, History
from secateurs.session.processes import Ranks
from secateurs.session.schedule import Clock, Position
from secateurs.session.silence import Silence
from secateurs.surgery import Plan, apply, grow
from secateurs.surgery.copies import insert, plan_with_copies
from secateurs.types import Floats, Ints, Loss, Picked


@dataclass(eq=False)
class Run:
    """One pruning run on one model.

    graph: of the present network. kept: group -> numbers of its present units in the first graph. Removed units are
    first zeroed (`alive` is False, and all their slices stay zero); `compact` removes them physically. budget: None if
    the method decides how much is removed (explicit rates, Adaptive Pruning). shrinks: True if the network may
    physically shrink before `finish`.
    """

    model: nn.Module
    graph: Graph
    budget: Budget | None
    clock: Clock
    example: Any
    data: Iterable[Any] | None
    loss: Loss | None
    shrinks: bool
    seed: int
    origin: Graph = field(init=False)
    history: History = field(init=False, default_factory=History)
    ranks: Ranks = field(init=False, default_factory=Ranks)
    step: int = field(init=False, default=0)
    optimizers: tuple[Optimizer, ...] = field(init=False, default=())
    followers: tuple[nn.Module, ...] = field(init=False, default=())
    kept: dict[str, Ints] = field(init=False)
    alive: dict[str, NDArray[np.bool_]] = field(init=False)
    shares: dict[str, Floats] = field(init=False)
    grew: bool = field(init=False, default=False)
    _silence: Silence = field(init=False, default_factory=Silence)

    def __post_init__(self) -> None:
        self.origin = self.graph
        self.budget = None if self.budget is None else absolute(self.budget, self.graph)
        self.kept = {group.name: np.arange(group.units) for group in self.graph.groups}
        self.alive = {group.name: np.ones(group.units, dtype=bool) for group in self.graph.groups}
        self.shares = {group.name: np.ones(group.units) for group in self.graph.groups}

    # --- state ---

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter by each of its names."""
        return dict(self.model.named_parameters(remove_duplicate=False))

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def widths(self) -> Ints:
        """The number of units that remain in every group, in the order of the graph."""
        return np.array([int(self.alive[group.name].sum()) for group in self.graph.groups], dtype=np.int64)

    @property
    def targets(self) -> Ints:
        """Most that may remain of (macs, params, memory); all if not limited."""
        if self.budget is None:
            return np.full(len(RESOURCES), UNBOUNDED, dtype=np.int64)
        return self.budget.targets(self.origin.cost())

    @property
    def at(self) -> Position:
        """The position of the next step in the run."""
        return self.clock.at(self.step)

    def levels(self) -> dict[str, Ints]:
        """The numbers of units that each group of the first network may keep, ascending (see `allocate.levels`)."""
        allowed = levels(self.origin, self.budget or Budget(macs=1.0))
        return {group.name: found for group, found in zip(self.origin.groups, allowed, strict=True)}

    def cost(self) -> Cost:
        """Cost of the network without its removed units."""
        return Cost(*(int(value) for value in self.graph.costs.at(self.widths)))

    def within_budget(self) -> bool:
        """True if the present network meets every constraint."""
        return bool((self.graph.costs.at(self.widths) <= self.targets).all())

    @property
    def plan(self) -> Plan:
        """Plan from the network that the session began with to the present one."""
        keep = {name: self.kept[name][self.alive[name]].tolist() for name in self.kept}
        if self.grew:
            shares = {name: self.shares[name][self.alive[name]].tolist() for name in self.kept}
            return plan_with_copies(self.origin, keep, shares)
        return Plan.from_keep(self.origin, keep)

    # --- events ---

    def note(
        self, what: str, note: str, *, removed: Picked | None = None, grown: Mapping[str, int] | None = None
    ) -> None:
        """Append an event to the history."""
        gone = {
            name: tuple(int(u) for u in self.kept[name][np.asarray(units)]) for name, units in (removed or {}).items()
        }
        self.history.add(
            Event(self.step, self.clock.epoch(self.step), what, note, self.cost(), gone, dict(grown or {}))
        )

    def remove(self, units: Picked, note: str) -> None:
        """Remove units (present numbers): they are zero from now on, and no longer counted.

        Of groups tied in count, the first listed units are removed, as many as all of them can lose.
        """
        picked = {name: np.asarray(found, dtype=np.int64) for name, found in in_step(self.graph.ties, units).items()}
        if not picked:
            return
        for name, found in picked.items():
            self.alive[name][found] = False
        self.note("removed", note, removed=picked)
        self.rebuild()
        self.silence()

    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Keep entries of named tensors at zero wherever a mask (broadcastable to it) is False."""
        self._silence.hold(masks)
        self.rebuild()
        self.silence()

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks given to `hold`."""
        return dict(self._silence.held)

    def silence(self) -> None:
        """Zero removed units and masked entries, after every step, in one call for the whole network."""
        self._silence.apply()

    def rebuild(self) -> None:
        """Rebuild the masks for the present shapes and device of tensors."""
        self._silence.rebuild(self.graph.groups, self.alive, self.parameters)

    def compact(self) -> dict[str, Ints] | None:
        """Remove zeroed units physically; parameters keep their identity, and moments and followers shrink too.

        Returns the kept units by group, in their previous numbers, or None if no unit was zero. `Driver.shrink` calls
        this and also reduces the driver's state.
        """
        keep = {name: np.flatnonzero(alive) for name, alive in self.alive.items()}
        if all(len(kept) == len(self.alive[name]) for name, kept in keep.items()):
            return None
        plan = Plan.from_keep(self.graph, {name: units.tolist() for name, units in keep.items()})
        apply(plan, self.model, self.optimizers or None)
        for follower in self.followers:
            apply(plan, follower, proof=False)
        self._follow(keep)
        return keep

    def _follow(self, keep: Mapping[str, Ints]) -> None:
        self._silence.cut(self.graph.kept_indices(keep))
        self.graph = self.graph.shrink(keep)
        self.kept = {name: units[keep[name]] for name, units in self.kept.items()}
        self.shares = {name: found[keep[name]] for name, found in self.shares.items()}
        self.alive = {name: np.ones(len(units), dtype=bool) for name, units in self.kept.items()}
        self.rebuild()

    def grow(self, units: Mapping[str, Sequence[int]], note: str) -> None:
        """Insert copies of units (present numbers) right after them; every output stays what it was.

        Zeroed units are removed first.
        """
        for model in (self.model, *self.followers):
            grow(self.graph, model, units=units, optimizer=self.optimizers if model is self.model else None)
        for name, parents in units.items():
            self.kept[name], shares = insert(self.kept[name], self.shares[name].tolist(), parents)
            self.shares[name] = np.asarray(shares)
        self._regrown()
        self.note("grown", note, grown={name: len(parents) for name, parents in units.items()})

    def become(self, kept: Mapping[str, Ints], shares: Mapping[str, Floats]) -> None:
        """Change the first network to the widths of a run that inserted units."""
        sources = {name: units.tolist() for name, units in kept.items()}
        plan = plan_with_copies(self.origin, sources, {name: found.tolist() for name, found in shares.items()})
        for model in (self.model, *self.followers):
            apply(plan, model, (self.optimizers or None) if model is self.model else None, proof=False)
        self.kept, self.shares = dict(kept), dict(shares)
        self._regrown()

    def _regrown(self) -> None:
        """Trace the network again after units were inserted; its groups are the same."""
        before = [group.name for group in self.graph.groups]
        self.graph = trace(self.model, self.example)
        self.alive = {name: np.ones(len(units), dtype=bool) for name, units in self.kept.items()}
        now = {group.name: group.units for group in self.graph.groups}
        if now != {name: len(self.kept[name]) for name in before}:
            raise TraceError(
                "after growing, the network's groups are others than before. Its forward depends on widths. Prune it "
                "without growth, and report the model."
            )
        self.grew = True
        self.rebuild()

    # --- for methods ---

    def groups(self, *, scope: str = "coupled") -> tuple[Group, ...]:
        """Groups that may lose units: not excluded by the budget; with "uncoupled", only those with one producer."""
        out = frozenset[str]() if self.budget is None else self.budget.excluded(self.graph.groups)
        allowed = [g for g in self.graph.groups if g.name not in out and any(s.role == "out" for s in g.slices)]
        return tuple(g for g in allowed if scope == "coupled" or len(self.producers(g)) <= 1)

    def producers(self, group: Group) -> set[str]:
        """Modules that produce the units, without those that also read them (depthwise convolutions)."""
        sites = self.graph.sites(group.name)
        return {s.module for s in sites if s.writes} - {s.module for s in sites if s.reads}

    def rows(self, groups: Sequence[Group], *, roles: Sequence[Role] = ("out",)) -> Rows:
        """The entries of tensors that belong to the units of some groups, in these roles (filters by default)."""
        return Rows.filters(groups, self.parameters, roles=roles)

    def ledger(self) -> Ledger:
        """All prunable units of the network as it is now."""
        return Ledger.of(self.graph.groups)


def absolute(budget: Budget, graph: Graph) -> Budget:
    """Return the budget in absolute numbers, which stay valid for a network that has shrunk."""
    dense = graph.cost()
    macs, params, memory = (int(value) for value in budget.targets(dense))
    named = {"macs": macs, "params": params, "memory": memory}
    return replace(
        budget, **{name: max(2, value) for name, value in named.items() if getattr(budget, name) is not None}
    )
