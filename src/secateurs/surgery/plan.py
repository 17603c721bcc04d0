"""A plan: the kept units of every group, and the kept indices of every tensor that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateurs.errors import InputError, PlanError, expect, near
from secateurs.graph import Graph, Group
from secateurs.notebook import html_table
from secateurs.surgery.plan_json import read_plan, write_plan
from secateurs.surgery.tensors import select, show

Units = Iterable[int] | NDArray[np.int64] | NDArray[np.bool_] | Tensor

Indices = tuple[int, ...]
Setting = int | tuple[int, ...]

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that wrappers (DistributedDataParallel, an averaged model, torch.compile) add to each name."""


@dataclass(frozen=True)
class Plan:
    """The kept units of every group and the kept indices of every tensor, by names; it holds no module.

    keep: every group of the graph -> its kept units, ascending; units: every group -> how many units it has now.
    tensors: canonical tensor name -> dimension -> kept indices, for what shrinks only; aliases: other name of a tied
    tensor -> canonical name; signature: every name -> shape before. attributes: `module.path:attribute` -> new value,
    for integers that depend on a width and on no shape (`groups`, `num_heads`). directions: tensor -> dimensions that
    `mask` leaves unchanged, because the entries along them are divided by their norm (the v of a weight norm). A plan
    may insert units (`plan_with_copies`): a unit that `keep` lists k times is copied; shares: tensor -> dimension ->
    factor of each entry, where the weight that reads a copied unit is divided. graph: the graph that the plan was made
    on, kept in memory so that `apply` can prove the plan without tracing again; it is neither compared nor saved, and a
    plan read from a file has none (`apply(..., graph=)` and `verify(..., graph=)` take one).

    >>> from secateurs.surgery.plan import Plan
    >>> plan = Plan({"fc1": (0, 2)}, {"fc1": 3}, {"fc1.weight": {0: (0, 2)}}, signature={"fc1.weight": (3, 4)})
    >>> plan.slice({"fc1.weight": torch.ones(3, 4)})["fc1.weight"].shape
    torch.Size([2, 4])
    """

    keep: Mapping[str, Indices]
    units: Mapping[str, int]
    tensors: Mapping[str, Mapping[int, Indices]]
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    attributes: Mapping[str, Setting] = field(default_factory=dict[str, Setting])
    signature: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    directions: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    shares: Mapping[str, Mapping[int, tuple[float, ...]]] = field(default_factory=dict[str, Any])
    graph: Graph | None = field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        """One line: the number of units that stay."""
        changed = sum(len(self.keep[name]) < units for name, units in self.units.items())
        kept, units = sum(map(len, self.keep.values())), sum(self.units.values())
        return f"Plan(keeps {kept} of {units} units; {changed} of {len(self.units)} groups lose some)"

    def _repr_html_(self) -> str:
        """The groups that lose units, as a table, for notebooks."""
        rows = [
            (name, units, len(self.keep[name]), f"{len(self.keep[name]) / max(units, 1):.0%}")
            for name, units in self.units.items()
            if len(self.keep[name]) < units
        ]
        return html_table(repr(self), ("group", "units", "kept", ""), rows)

    @staticmethod
    def from_keep(graph: Graph, keep: Mapping[str, Units]) -> Plan:
        """Make a plan from the kept units of some groups (indices in any order, or a boolean mask); others keep all.

        Raises InputError for an unknown group (with near matches), a unit out of range or listed twice, or no unit.
        """
        known = {group.name for group in graph.groups}
        expect("keep", keep, Mapping, "Pass a dict of group name -> kept units.")
        for name in keep:
            if name not in known:
                message = f"no group {name!r} in this graph: {near(name, known)}"
                raise InputError(message)
        chosen = {g.name: kept_units(g, keep[g.name]) if g.name in keep else _all(g) for g in graph.groups}
        arrays = {name: np.asarray(units, dtype=np.int64) for name, units in chosen.items()}
        indices = graph.kept_indices(arrays)
        tensors = _as_tuples(indices)
        attributes = {f"{path}:{name}": value for (path, name), value in graph.attributes(arrays).items()}
        return Plan(
            keep=chosen,
            units={group.name: group.units for group in graph.groups},
            tensors=tensors,
            aliases=dict(graph.aliases),
            attributes=attributes,
            signature={name: tuple(shape) for name, shape in graph.signature.items()},
            directions=_directions(graph, tensors),
            graph=graph,
        )

    @staticmethod
    def identity(graph: Graph) -> Plan:
        """Keep every unit of every group."""
        return Plan.from_keep(graph, {})

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read a plan that `to_json` wrote; PlanError says what is wrong with any other text."""
        return Plan(**read_plan(text))

    def to_json(self) -> str:
        """Write the plan as JSON (versioned, indices as runs such as `0-3,5`), without its graph."""
        return write_plan(self)

    @property
    def copies(self) -> dict[str, int]:
        """Group -> number of copied units in the result; empty for a plan that only removes."""
        counts = {name: len(units) - len(set(units)) for name, units in self.keep.items()}
        return {name: count for name, count in counts.items() if count}

    def dims(self, name: str) -> Mapping[int, Indices]:
        """Return the kept indices of one tensor, under any of its names, by dimension; empty if it is unchanged."""
        return self.tensors.get(self.aliases.get(name, name), {})

    def signature_after(self) -> dict[str, tuple[int, ...]]:
        """Return every tensor's shape in the pruned network, under all of its names."""
        return {
            name: tuple(len(self.dims(name).get(d, range(n))) for d, n in enumerate(shape))
            for name, shape in self.signature.items()
        }

    def slice(self, mapping: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Slice any name -> tensor mapping: a state dict, gradients, an average of weights.

        Tensors that the plan does not name are returned unchanged; weights that read inserted units are divided.
        PlanError for a tensor of another shape, and for a name that a wrapper's prefix (`module.`) hides.
        """
        return {name: self._slice_one(name, tensor) for name, tensor in mapping.items()}

    def then(self, after: Plan) -> Plan:
        """Compose this plan with `after`, made on the pruned network's graph; PlanError for another network's."""
        left = {name: len(units) for name, units in self.keep.items()}
        if dict(after.units) != left or dict(after.signature) != self.signature_after():
            message = (
                "the second plan was not made on what the first one leaves "
                f"({_first_difference(left, after.units) or 'the tensors have other shapes'}). "
                "Plans compose only in the order in which they were made. Make it on graph.shrink(first.keep)."
            )
            raise PlanError(message)
        names = self.tensors.keys() | after.tensors.keys()
        return Plan(
            keep={name: _pick(units, after.keep[name]) for name, units in self.keep.items()},
            units=self.units,
            tensors={n: _chain(self.tensors.get(n, {}), after.tensors.get(n, {})) for n in sorted(names)},
            aliases=self.aliases,
            attributes={**self.attributes, **after.attributes},
            signature=self.signature,
            directions=_union(self.directions, after.directions),
            shares=_shares(self, after),
            graph=self.graph,
        )

    def summary(self) -> str:
        """Return the width of every group before and after, as a text table."""
        wide = max((len(name) for name in self.keep), default=5)
        lines = [f"{'group':<{wide}}  before  after   kept"]
        for name, units in self.keep.items():
            before, after = self.units[name], len(units)
            lines.append(f"{name:<{wide}}  {before:>6}  {after:>5}  {after / before:>4.0%}")
        before, after = sum(self.units.values()), sum(map(len, self.keep.values()))
        lines.append(f"{'units':<{wide}}  {before:>6}  {after:>5}  {after / max(before, 1):>4.0%}")
        return "\n".join(lines)

    def _slice_one(self, name: str, tensor: Tensor) -> Tensor:
        shape = self.signature.get(name)
        if shape is None:
            bare = next((name.removeprefix(w) for w in WRAPPERS if name.startswith(w)), name)
            if bare != name and bare in self.signature:
                message = (
                    f"{name} is not in this plan, but {bare} is. The mapping comes from a wrapped model. "
                    f"Take it from the model inside, or strip the prefix {name.removesuffix(bare)!r} from its names."
                )
                raise PlanError(message)
            return tensor
        if tuple(tensor.shape) != shape:
            message = (
                f"{name} is {show(tensor.shape)}, but the plan was made for {show(shape)}. "
                "A plan slices only tensors of the network it was made on, once. Make a plan for this network."
            )
            raise PlanError(message)
        dims = self.dims(name)
        return shared(self, name, select(tensor, dims)) if dims else tensor


def shared(plan: Plan, name: str, data: Tensor) -> Tensor:
    """Multiply the sliced contents of a tensor by the shares of its entries, if there are any, in place."""
    for dim, factors in plan.shares.get(plan.aliases.get(name, name), {}).items():
        shape = [-1 if d == dim else 1 for d in range(data.dim())]
        data.mul_(torch.tensor(factors, dtype=data.dtype, device=data.device).view(shape))
    return data


def _shares(first: Plan, after: Plan) -> dict[str, dict[int, tuple[float, ...]]]:
    """Return the shares of two composed plans: the remaining ones of the first, times those of the second."""
    found: dict[str, dict[int, tuple[float, ...]]] = {}
    for name in sorted(first.shares.keys() | after.shares.keys()):
        before, then, cut = first.shares.get(name, {}), after.shares.get(name, {}), after.tensors.get(name, {})
        for dim in sorted(before.keys() | then.keys()):
            if dim not in before:
                found.setdefault(name, {})[dim] = then[dim]
                continue
            left = [before[dim][i] for i in cut[dim]] if dim in cut else list(before[dim])
            factors = then.get(dim, (1.0,) * len(left))
            product = tuple(a * b for a, b in zip(left, factors, strict=True))
            if any(share != 1.0 for share in product):
                found.setdefault(name, {})[dim] = product
    return found


def kept_units(group: Group, choice: Units) -> Indices:
    """Read a choice of units of one group: indices in any order or a mask, a list, an array or a tensor."""
    array = choice.detach().cpu().numpy() if isinstance(choice, torch.Tensor) else np.asarray(list(choice))
    if array.dtype == np.bool_ and array.shape == (group.units,):
        array = np.flatnonzero(array)
    units = np.sort(array)
    if problem := _problem(units, group.units):
        message = (
            f"the units chosen for group {group.name!r} cannot be used: {problem}. "
            f"A choice is distinct indices from 0 to {group.units - 1}, or a mask of {group.units} booleans."
        )
        raise InputError(message)
    return tuple(units.tolist())


def _problem(units: NDArray[np.generic], count: int) -> str:
    if units.size == 0:
        return "none is kept, and a network with an empty layer computes nothing"
    if units.dtype == np.bool_:
        return f"the mask has shape {units.shape}"
    if units.ndim != 1 or not np.issubdtype(units.dtype, np.integer):
        return f"they are {units.dtype} of shape {units.shape}"
    values = units.astype(np.int64)
    outside = values[(values < 0) | (values >= count)]
    if outside.size:
        return f"{outside.tolist()[:5]} are out of range"
    again = values[1:][np.diff(values) == 0]
    return f"{sorted(set(again.tolist()))[:5]} are named twice" if again.size else ""


def _all(group: Group) -> Indices:
    return tuple(range(group.units))


def _pick(first: Indices, second: Indices) -> Indices:
    return tuple(first[i] for i in second)


def _chain(first: Mapping[int, Indices], second: Mapping[int, Indices]) -> dict[int, Indices]:
    both = {d: _pick(first[d], second[d]) if d in second else first[d] for d in first}
    return dict(sorted({**second, **both}.items()))


def _as_tuples(indices: Mapping[str, Mapping[int, NDArray[np.int64]]]) -> dict[str, dict[int, Indices]]:
    """Convert index arrays to tuples; tensors with equal indices share one tuple."""
    known: dict[int, Indices] = {}
    for dims in indices.values():
        for index in dims.values():
            if id(index) not in known:
                known[id(index)] = tuple(index.tolist())
    return {name: {d: known[id(index)] for d, index in dims.items()} for name, dims in indices.items() if dims}


def _directions(graph: Graph, cut: Mapping[str, Mapping[int, Indices]]) -> dict[str, tuple[int, ...]]:
    found = {(s.tensor, s.dim) for group in graph.groups for s in group.slices if s.role == "direction"}
    return _by_tensor((tensor, dim) for tensor, dim in found if dim in cut.get(tensor, {}))


def _union(first: Mapping[str, tuple[int, ...]], second: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return _by_tensor({(name, dim) for each in (first, second) for name, dims in each.items() for dim in dims})


def _by_tensor(pairs: Iterable[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, dim in sorted(pairs):
        found[name] = (*found.get(name, ()), dim)
    return found


def _first_difference(left: Mapping[str, int], right: Mapping[str, int]) -> str:
    for name in sorted(left.keys() | right.keys()):
        if left.get(name) != right.get(name):
            return (
                f"{name!r} has {left.get(name, 'no')} units after the first and {right.get(name, 'none')} in the second"
            )
    return ""
