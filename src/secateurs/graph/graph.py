"""The graph of a network: its groups of channels, its protected channels, and its cost; made by `trace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from secateurs.errors import InputError, PlanError, ProofError, near
from secateurs.graph.cost import CostModel
from secateurs.graph.following import follow_values
from secateurs.graph.grouping import make_groups
from secateurs.graph.groups import Cost, Tie
from secateurs.graph.obstacles import Obstacle, obstacles
from secateurs.graph.protections import make_protected
from secateurs.graph.prove import disprove, surviving
from secateurs.graph.prove_numeric import agrees, runs
from secateurs.graph.sites import find_sites
from secateurs.graph.ties import broken, untied
from secateurs.network import Network
from secateurs.notebook import html_table

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from secateurs.graph.grouping import Units
    from secateurs.graph.groups import Group, Protected, Site
    from secateurs.graph.source import Source
    from secateurs.types import Picked


class Graph:
    """The prunable structure of a network: groups of channels, protected channels with reasons, and exact costs.

    Made by `trace`, or from another graph by `shrink`; never changes.
    """

    def __init__(self, units: Units, source: Source, facts: Facts, alive: NDArray[np.bool_] | None = None) -> None:
        """units, source, facts: results of the trace; alive: the units that remain (all, when traced)."""
        self._units = units
        self._source = source
        self._facts = facts
        self._alive = np.ones(units.group_of.size, dtype=bool) if alive is None else alive
        self.groups: tuple[Group, ...] = make_groups(units, self._alive)
        self._index = {g.name: k for k, g in enumerate(self.groups)}
        self._ties = tuple(Tie(tuple(units.names[g] for g in b.groups), b.step, b.because) for b in units.bonds)
        self._costs: CostModel | None = facts.costs
        self._ordered: list[NDArray[np.int64]] | None = None
        self._signature: dict[str, tuple[int, ...]] | None = None
        self._sites: list[tuple[Site, ...]] | None = None
        self._protected: tuple[Protected, ...] | None = None

    def __repr__(self) -> str:
        """One line: groups and units."""
        return f"Graph({len(self.groups)} groups, {sum(g.units for g in self.groups)} units)"

    def _repr_html_(self) -> str:
        """The groups as a table, for notebooks."""
        rows = [(g.name, g.units, len({s.tensor for s in g.slices}), "yes" if g.exact else "no") for g in self.groups]
        notes = [f"{len({p.tensor for p in self.protected}):,} tensors have protected entries, see .protected"]
        if self._costs is not None:
            cost = self.cost()
            notes.append(f"one forward: {cost.macs:,} MACs, {cost.params:,} parameters")
        return html_table(repr(self), ("group", "units", "tensors", "removal is silence"), rows, notes)

    @property
    def protected(self) -> tuple[Protected, ...]:
        """Entries that are never removed, each with its reason."""
        if self._protected is None:
            self._protected = make_protected(self._units, self._alive)
        return self._protected

    @property
    def ties(self) -> tuple[Tie, ...]:
        """Groups that must lose units in a fixed proportion."""
        return self._ties

    def tied_with(self, name: str) -> tuple[str, ...]:
        """Return the names of a group and of all groups tied to it."""
        return next((tie.groups for tie in self._ties if name in tie.groups), (self.group(name).name,))

    @property
    def refills(self) -> bool:
        """True if tensors that forwards stored in dictionaries are caches, which the pruned network fills again."""
        return self._source.cold

    @property
    def obstacles(self) -> list[Obstacle]:
        """The reasons that keep channels, each with its operator, module and source line; the one with most first."""
        return obstacles(self.protected, self._units.roles, self._facts.shapes)

    @property
    def inside(self) -> tuple[Units, NDArray[np.bool_]]:
        """All units, and which of them are left: what `explain` reads."""
        return self._units, self._alive

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The modules of the traced model, by path."""
        return self._facts.modules

    @property
    def notes(self) -> tuple[str, ...]:
        """Limits of the trace, in sentences: for example that the training forward could not be recorded."""
        return self._facts.notes

    @property
    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments that the network was traced with."""
        return self._source.args, self._source.kwargs

    @property
    def aliases(self) -> dict[str, str]:
        """Further name -> first name, for tied tensors."""
        return dict(self._facts.aliases)

    @property
    def signature(self) -> dict[str, tuple[int, ...]]:
        """Every parameter and buffer name, with its shape in the network that this graph describes."""
        if self._signature is None:
            self._signature = self._shapes()
        return dict(self._signature)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        lost: dict[str, dict[int, int]] = {}
        everyone = np.ones_like(self._alive)
        for (name, dim), index in surviving(self._units, everyone, self._alive).items():
            lost.setdefault(name, {})[dim] = len(index)
        names = {**{n: n for n in self._facts.shapes}, **self._facts.aliases}
        found = {}
        for name, first in names.items():
            shape = list(self._facts.shapes[first])
            for dim, size in lost.get(first, {}).items():
                shape[dim] = size
            found[name] = tuple(shape)
        return found

    @property
    def costs(self) -> CostModel:
        """Cost as a vectorised function of the widths."""
        if self._costs is None:
            params = {n: s for n, s in self._facts.shapes.items() if n in self._facts.parameters}
            self._costs = self._facts.costs = CostModel(self._units, params)
        return self._costs

    @property
    def widths(self) -> NDArray[np.int64]:
        """Units of every group, in the order of `groups`."""
        return np.array([g.units for g in self.groups], dtype=np.int64)

    def group(self, name: str) -> Group:
        """Return the group of this name; InputError names the nearest ones."""
        if name not in self._index:
            raise InputError(f"No group is named {name!r}: {near(name, self._index)}.")
        return self.groups[self._index[name]]

    def cost(self, plan: Any = None) -> Cost:
        """Return the cost of one forward pass on the example inputs, before or after a plan."""
        macs, params, memory = (int(v) for v in self.costs.at(self._widths(plan)))
        return Cost(macs, params, memory)

    def _widths(self, plan: Any) -> NDArray[np.int64]:
        widths = self.widths
        for name, kept in () if plan is None else plan.keep.items():
            widths[self._index[self.group(name).name]] = len(kept)
        return widths

    def peak_memory(self, plan: Any = None) -> int:
        """Return the peak activation memory of one forward pass in bytes, before or after a plan.

        Every operator allocates its result, except views and in-place operators, and a result is freed after its last
        reader, as in a runtime with a static memory plan and without fusion. Eager PyTorch frees a tensor when no
        variable holds it, which can be later: `secateurs.deploy.activation_memory` measures that. Parameters and inputs
        do not count.
        """
        return int(self.costs.peak(self._widths(plan)))

    def sites(self, name: str) -> tuple[Site, ...]:
        """Inputs and outputs of modules that the units of a group pass through, in forward order."""
        if self._sites is None:
            self._sites = find_sites(self._units, self._alive)
        return self._sites[self._index[self.group(name).name]]

    # --- plans ---

    def mask(self, keep: Picked) -> NDArray[np.bool_]:
        """Return which of all units remain, [units]; PlanError for unknown units, an empty group or a broken tie."""
        mask = self._alive.copy()
        members = self._members()
        for name, kept in keep.items():
            of = members[self._index[self.group(name).name]]
            chosen = np.asarray(kept, dtype=np.int64)
            if chosen.size and (chosen.min() < 0 or chosen.max() >= of.size):
                raise PlanError(
                    f"Group {name!r} has units 0 to {of.size - 1}; the plan keeps unit {int(chosen.max())}."
                )
            if not chosen.size:
                raise PlanError(
                    f"The plan keeps no unit of group {name!r}: a tensor would be empty. Keep at least one."
                )
            mask[of] = False
            mask[of[chosen]] = True
        bond = broken(self._units, self._alive, mask)
        if bond is not None:
            raise PlanError(untied(bond, self._units, self._alive, mask))
        return mask

    def _members(self) -> list[NDArray[np.int64]]:
        """The present units of every group, in order."""
        if self._ordered is None:
            order = self._units.order
            order = order[self._alive[order]]
            edges = np.searchsorted(self._units.group_of[order], np.arange(1, len(self.groups)))
            self._ordered = np.split(order, edges)
        return self._ordered

    def kept_indices(self, keep: Picked) -> dict[str, dict[int, NDArray[np.int64]]]:
        """Return tensor name -> dimension -> indices that `keep` leaves, for dimensions that lose any."""
        found: dict[str, dict[int, NDArray[np.int64]]] = {}
        for (name, dim), index in surviving(self._units, self._alive, self.mask(keep)).items():
            found.setdefault(name, {})[dim] = index
        return found

    def attributes(self, keep: Picked) -> dict[tuple[str, str], Any]:
        """Return (module path, attribute) -> value under `keep`, for attributes that count units (groups, heads)."""
        return follow_values(self._units, self._facts.modules, self.mask(keep))

    def shrink(self, keep: Picked) -> Graph:
        """Return the graph of the network with the units `keep`: not traced again, same group names, new numbers."""
        return Graph(self._units, self._source, self._facts, self.mask(keep))

    def disproof(self, model: nn.Module | Network, keep: Picked) -> str | None:
        """Return why the pruned model would differ from the masked model, or None if the plan is proven."""
        view = Network.of(model)
        facts = (self._units, self._source, view, self._alive)
        found = disprove(*facts, self.mask(keep))
        if found is None:
            return None
        # Labels cannot follow every path that a width of one takes. Numbers can, for exact groups; labels do the rest.
        exact = {n: kept for n, kept in keep.items() if all(self.group(m).exact for m in self.tied_with(n))}
        rest = {name: kept for name, kept in keep.items() if name not in exact}
        holds = not rest or disprove(*facts, self.mask(rest)) is None
        if holds and agrees(*facts, self.mask(exact)) and exact:
            return None
        return None if self._holds_wider(facts, keep) else found.why

    def _holds_wider(self, facts: tuple[Units, Source, Network, NDArray[np.bool_]], keep: Picked) -> bool:
        """True if the plan is proven with two units wherever it keeps one, and runs with one.

        Operators treat a dimension of size 1 as absent; labels that align at size 2 align at size 1.
        """
        wider = self._widened(keep)
        if all(len(wider[name]) == len(kept) for name, kept in keep.items()):
            return False
        return disprove(*facts, self.mask(wider)) is None and runs(*facts, self.mask(keep))

    def _widened(self, keep: Picked) -> dict[str, list[int]]:
        """The plan with a step put back wherever it keeps one unit."""
        wider = {name: sorted(int(u) for u in kept) for name, kept in keep.items()}
        for name, kept in list(wider.items()):
            if len(kept) == 1 < self.group(name).units:
                tie = next((t for t in self._ties if name in t.groups), Tie((name,), (1,), ""))
                for each, count in tie.lost(1).items():
                    units = self.group(each).units
                    start = wider[each][0]
                    missing = [u for k in range(units) if (u := (start + k) % units) not in set(wider[each])]
                    wider[each] = sorted([*wider[each], *missing[:count]])
        return wider


class Facts:
    """Facts about the traced network that every graph made from it by `shrink` shares."""

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        parameters: frozenset[str],
        aliases: dict[str, str],
        modules: dict[str, Any],
        notes: tuple[str, ...],
    ) -> None:
        """Shapes as traced, by first name; which of them are parameters; attributes of modules by path."""
        self.shapes = shapes
        self.parameters = parameters
        self.aliases = aliases
        self.modules = modules
        self.notes = notes
        self.costs: CostModel | None = None


def prove(graph: Graph, model: nn.Module | Network, keep: Picked) -> None:
    """Prove that removing all units but `keep` equals masking them, by labels on a shrunken copy of the model.

    Raises: ProofError naming the operator at which the pruned network would differ from the masked one.
    """
    why = graph.disproof(model, keep)
    if why is not None:
        raise ProofError(f"The plan is refused, and nothing was changed: {why}.")
