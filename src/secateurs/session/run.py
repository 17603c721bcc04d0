"""The run: what a session and its driver share, and the only place where units leave the network during training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from secateurs.allocate import Budget
from secateurs.errors import PlanError, TraceError
from secateurs.graph import Cost, Graph, Group, trace
from secateurs.session.flat_units import Ledger, Rows
from secateurs.session.history import Event, History
from secateurs.session.processes import Ranks
from secateurs.session.schedule import Clock
from secateurs.surgery import Plan, apply, grow
from secateurs.types import Ints, Loss, Picked


@dataclass(eq=False)
class Run:
    """One pruning run on one model.

    `graph` is that of the network as it is now; `kept` says which units of the first graph its units are. Units that
    are removed are silent first (`alive` is False and all their slices stay zero); `compact` takes them out
    physically.
    """

    model: nn.Module
    graph: Graph
    budget: Budget
    clock: Clock
    example: Any = None
    data: Iterable[Any] | None = None
    loss: Loss | None = None
    bound: bool = True
    """Whether a budget was given; without one a method decides the size (explicit rates, Adaptive Pruning)."""
    shrinks: bool = True
    """Whether the network may physically shrink before `finish`."""
    seed: int = 0
    origin: Graph = field(init=False)
    history: History = field(init=False, default_factory=History)
    ranks: Ranks = field(init=False, default_factory=Ranks)
    step: int = field(init=False, default=0)
    optimizers: tuple[Optimizer, ...] = field(init=False, default=())
    followers: tuple[nn.Module, ...] = field(init=False, default=())
    kept: dict[str, Ints] = field(init=False)
    alive: dict[str, NDArray[np.bool_]] = field(init=False)
    grew: bool = field(init=False, default=False)
    compacted: Callable[[Mapping[str, Ints]], None] = field(init=False, default=lambda _: None)
    _masks: dict[str, Tensor] = field(init=False, default_factory=dict[str, Tensor])
    _silent: list[tuple[list[Tensor], list[Tensor]]] = field(init=False, default_factory=list[Any])

    def __post_init__(self) -> None:
        self.origin = self.graph
        self.budget = absolute(self.budget, self.graph)
        self.kept = {group.name: np.arange(group.units) for group in self.graph.groups}
        self.alive = {group.name: np.ones(group.units, dtype=bool) for group in self.graph.groups}

    # --- what is ---

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter by each of its names."""
        return dict(self.model.named_parameters(remove_duplicate=False))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def widths(self) -> Ints:
        """Living units of every group, in the graph's order."""
        return np.array([int(self.alive[group.name].sum()) for group in self.graph.groups], dtype=np.int64)

    @property
    def targets(self) -> Ints:
        """The most that may remain of (macs, params, memory)."""
        return self.budget.targets(self.origin.cost())

    def cost(self) -> Cost:
        """Cost of the network without its removed units."""
        return Cost(*(int(value) for value in self.graph.costs.at(self.widths)))

    def within_budget(self) -> bool:
        """Whether what remains meets every constraint."""
        return bool((self.graph.costs.at(self.widths) <= self.targets).all())

    @property
    def plan(self) -> Plan:
        """What is kept of the network that the session began with."""
        if self.grew:
            raise PlanError(
                "filters were inserted, so the network is no part of the one that the session began with. "
                "A plan only removes. Save the model's state_dict together with session.history."
            )
        keep = {name: self.kept[name][self.alive[name]].tolist() for name in self.kept}
        return Plan.from_keep(self.origin, keep)

    # --- what happens ---

    def note(
        self, what: str, note: str, *, removed: Picked | None = None, grown: Mapping[str, int] | None = None
    ) -> None:
        """Write an event into the history."""
        gone = {
            name: tuple(int(u) for u in self.kept[name][np.asarray(units)]) for name, units in (removed or {}).items()
        }
        self.history.add(
            Event(self.step, self.clock.epoch(self.step), what, note, self.cost(), gone, dict(grown or {}))
        )

    def remove(self, units: Picked, note: str) -> None:
        """Remove living units (present numbers): they are silent from now on, and count as gone."""
        picked = {name: np.asarray(found, dtype=np.int64) for name, found in units.items() if len(found)}
        if not picked:
            return
        for name, found in picked.items():
            self.alive[name][found] = False
        self.note("removed", note, removed=picked)
        self.rebuild()
        self.silence()

    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Keep entries of named tensors at zero wherever a mask (broadcastable to it) is False."""
        for name, mask in masks.items():
            self._masks[name] = mask if name not in self._masks else self._masks[name] & mask
        self.rebuild()
        self.silence()

    @property
    def masks(self) -> dict[str, Tensor]:
        """The masks that `hold` was given."""
        return dict(self._masks)

    @torch.no_grad()
    def silence(self) -> None:
        """Zero what was removed or is held; once after every step, one call for the whole network."""
        for tensors, masks in self._silent:
            torch._foreach_mul_(tensors, masks)  # pyright: ignore[reportPrivateImportUsage]

    def rebuild(self) -> None:
        """Gather, per tensor and on its device, the product of what its dimensions lost and of its held mask."""
        tensors = self.parameters
        masks: dict[str, list[Tensor]] = {}
        for group in self.graph.groups:
            gone = np.flatnonzero(~self.alive[group.name])
            for piece in group.slices if gone.size else ():
                tensor = tensors.get(piece.tensor)
                if tensor is not None:
                    row = torch.ones(tensor.shape[piece.dim], dtype=tensor.dtype)
                    row[piece.index[gone].reshape(-1)] = 0.0
                    shape = [-1 if d == piece.dim % tensor.dim() else 1 for d in range(tensor.dim())]
                    _merge(masks.setdefault(piece.tensor, []), row.view(shape).to(tensor.device))
        for name, mask in self._masks.items():
            _merge(masks.setdefault(name, []), mask.to(tensors[name]))
        pairs = [(tensors[name].detach(), mask) for name, several in masks.items() for mask in several]
        self._silent = [([t for t, _ in pairs], [m for _, m in pairs])] if pairs else []

    def compact(self) -> bool:
        """Take silent units out physically: parameters keep identity, moments and followers are cut too."""
        keep = {name: np.flatnonzero(alive) for name, alive in self.alive.items()}
        if all(alive.all() for alive in self.alive.values()):
            return False
        plan = Plan.from_keep(self.graph, {name: units.tolist() for name, units in keep.items()})
        apply(plan, self.model, self.optimizers or None)
        for follower in self.followers:
            apply(plan, follower, proof=False)
        self._follow(keep)
        return True

    def _follow(self, keep: Mapping[str, Ints]) -> None:
        self._masks = {
            name: _cut(mask, self.graph.kept_indices(keep).get(name, {})) for name, mask in self._masks.items()
        }
        self.graph = self.graph.shrink(keep)
        self.kept = {name: units[keep[name]] for name, units in self.kept.items()}
        self.alive = {name: np.ones(len(units), dtype=bool) for name, units in self.kept.items()}
        self.rebuild()
        self.compacted(keep)

    def grow(self, units: Mapping[str, Sequence[int]], note: str) -> None:
        """Insert copies of units (present numbers) right after them; every output stays what it was."""
        self.compact()
        for model in (self.model, *self.followers):
            grow(self.graph, model, units, self.optimizers if model is self.model else None)
        before = [group.name for group in self.graph.groups]
        self.graph = trace(self.model, self.example)
        for name, parents in units.items():
            order = np.sort(np.concatenate([np.arange(len(self.kept[name])), np.asarray(parents, dtype=np.int64)]))
            self.kept[name] = self.kept[name][order]
            self.alive[name] = np.ones(len(order), dtype=bool)
        now = {group.name: group.units for group in self.graph.groups}
        if now != {name: len(self.kept[name]) for name in before}:
            raise TraceError(
                f"after growing {', '.join(units)} the network's groups are others than before. Its forward depends "
                f"on "
                "widths. Prune it without growth, and report the model."
            )
        self.grew = True
        self.rebuild()
        self.note("grown", note, grown={name: len(parents) for name, parents in units.items()})

    # --- what methods work on ---

    def groups(self, *, scope: str = "coupled") -> tuple[Group, ...]:
        """Groups that may lose units: not excluded by the budget; `uncoupled` are those of one producer."""
        out = self.budget.excluded(self.graph.groups)
        allowed = [g for g in self.graph.groups if g.name not in out and any(s.role == "out" for s in g.slices)]
        return tuple(g for g in allowed if scope == "coupled" or len(self.producers(g)) <= 1)

    def producers(self, group: Group) -> set[str]:
        """Modules that make the units; one that also reads them (a depthwise convolution) makes none."""
        sites = self.graph.sites(group.name)
        return {s.module for s in sites if s.writes} - {s.module for s in sites if s.reads}

    def rows(self, groups: Sequence[Group], *, norms: bool = False) -> Rows:
        """The filters of some groups; with `norms` the scales and shifts of the norms after them as well."""
        roles = ("out", "bias", "scale", "shift") if norms else ("out",)
        return Rows.filters(groups, self.parameters, roles=roles)

    def ledger(self) -> Ledger:
        """All prunable units of the network as it is now."""
        return Ledger.of(self.graph.groups)


def absolute(budget: Budget, graph: Graph) -> Budget:
    """A budget in absolute numbers, so that it means the same on a network that has shrunk."""
    dense = graph.cost()
    macs, params, memory = (int(value) for value in budget.targets(dense))
    named = {"macs": macs, "params": params, "memory": memory}
    return replace(
        budget, **{name: max(2, value) for name, value in named.items() if getattr(budget, name) is not None}
    )


def _merge(masks: list[Tensor], mask: Tensor) -> None:
    """Multiply into a mask of the same shape, so that no tensor appears twice in one foreach kernel."""
    for at, other in enumerate(masks):
        if other.shape == mask.shape:
            masks[at] = other * mask
            return
    masks.append(mask)


def _cut(mask: Tensor, kept: Mapping[int, Ints]) -> Tensor:
    for dim, index in kept.items():
        if mask.shape[dim] != 1:
            mask = mask.index_select(dim, torch.from_numpy(np.asarray(index)).to(mask.device))
    return mask
