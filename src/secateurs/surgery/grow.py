"""Insert units without changing what the network computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateurs.errors import InputError, PlanError, ProofError
from secateurs.graph import Graph, Group
from secateurs.network import Network
from secateurs.running.compare import Call, checked_output_of, moved, output_of, relative_error
from secateurs.running.nested import map_tensors
from secateurs.running.process import all_or_nothing
from secateurs.surgery.apply import (
    check_signature,
    prepare,
    refuse_shared_memory,
    settings_of,
    targets_of,
    write,
)
from secateurs.surgery.optimizer import Memory, memories, optimizers_of
from secateurs.surgery.plan import Indices, Plan, Setting
from secateurs.surgery.tensors import duplicate
from secateurs.surgery.transaction import Transaction

TOLERANCE = 1e-9
"""How far float64 outputs may move, relative to the largest (law 10)."""


@dataclass(frozen=True)
class Expansion:
    """The source and the factor of every entry of the grown tensors.

    plan: a plan whose indices repeat those of the copied units. shares: tensor -> dimension -> the factor of every
    entry of the result (a reader's weights are divided between a unit and its copies). new: tensor -> dimension ->
    which entries of the result are copies.
    """

    plan: Plan
    shares: Mapping[str, Mapping[int, tuple[float, ...]]]
    new: Mapping[str, Mapping[int, tuple[bool, ...]]]


@all_or_nothing
def grow(
    graph: Graph,
    model: nn.Module,
    units: Mapping[str, int | Sequence[int]],
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    *,
    copy_moments: bool = True,
) -> nn.Module:
    """Add units to groups, in place, so that every output stays what it was, and return the model.

    units: group -> how many (copies of units spread evenly over the group), or the units to copy, each as often as it
    is named. A copy has its parent's filters, biases and norm parameters; whatever reads the two divides the weight
    w it gave the parent, w = λ w + (1 - λ) w, with λ = 0.4 for the parent (k copies: shares 2 : 3 : … : k + 2).
    Unequal shares, because equal ones would get equal gradients and never part. (Chen, Goodfellow and Shlens,
    "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR 2016, arXiv 1511.05641, section 3.1, where shares are
    equal and noise parts them.) A copy stands right after its parent.

    The optimizer remembers of a copy what it does of its parent, or nothing with `copy_moments=False`. Everything is
    tried on a copy of the model in float64 first. The graph describes the model as it was: trace again afterwards.

    Raises InputError for groups that cannot grow (inexact ones: a mean or a norm over the units would change) and
    ProofError where the outputs of the trial moved; nothing is changed then.
    """
    network = Network.of(model)
    model = network.model
    expansion = _expansion(graph, units)
    check_signature(expansion.plan, network)
    targets = targets_of(expansion.plan, network)
    refuse_shared_memory(network, targets)
    optimizers = optimizers_of(optimizer)
    _try(graph, network, expansion)
    parameters = {name: t for name, t in targets.items() if isinstance(t[0], nn.Parameter)}
    with torch.inference_mode(mode=False), torch.no_grad():
        remembered = memories(optimizers, parameters)
        if not copy_moments:
            remembered = [_forgotten(memory, expansion) for memory in remembered]
        with Transaction() as transaction:
            _write(transaction, network, expansion)
            for memory in remembered:
                transaction.put(memory.state, memory.key, memory.value)
    return model


def _write(transaction: Transaction, network: Network, expansion: Expansion) -> None:
    targets = targets_of(expansion.plan, network)
    swaps = prepare(targets)
    for name, swap in zip(targets, swaps, strict=True):
        for dim, shares in expansion.shares.get(expansion.plan.aliases.get(name, name), {}).items():
            swap.data.mul_(_along(shares, dim, swap.data))
    write(transaction, network.model, swaps, settings_of(expansion.plan, network.model))


def _try(graph: Graph, network: Network, expansion: Expansion) -> None:
    """Grow a copy in float64 and compare its outputs with the original's, on noise of the example's shapes."""
    before = duplicate(network.model).double()
    after = duplicate(before)
    generator = torch.Generator().manual_seed(0)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor

    call = moved(map_tensors(graph.example, noise), torch.float64, network.device)
    expected = checked_output_of(before, call, torch.float64)
    with torch.no_grad(), Transaction() as transaction:
        _write(transaction, Network.of(after), expansion)
    error = relative_error(_output(after, call), expected)
    if not error < TOLERANCE:
        names = ", ".join(name for name, n in expansion.plan.units.items() if n < len(expansion.plan.keep[name]))
        message = (
            f"growing {names} would move the outputs by {error:.1e} of their size. The units are read by something "
            "other than a plain weight (a product of activations, a norm, a literal width), which sees a copy twice. "
            "Grow other groups; nothing was changed."
        )
        raise ProofError(message)


def _output(grown: nn.Module, call: Call) -> Any:
    try:
        return output_of(grown, call)
    except Exception as error:
        message = (
            f"the grown network would not run: {error}. A literal width in its forward does not follow. "
            "Grow other groups; nothing was changed."
        )
        raise ProofError(message) from error


def _expansion(graph: Graph, units: Mapping[str, int | Sequence[int]]) -> Expansion:
    identity = Plan.identity(graph)
    built: dict[str, dict[int, _Axis]] = {}
    keep: dict[str, Indices] = dict(identity.keep)
    for name, wanted in units.items():
        group = graph.group(name)
        parents = _parents(group, wanted)
        keep[name] = tuple(sorted((*range(group.units), *parents)))
        for piece in group.slices:
            size = identity.signature[piece.tensor][piece.dim]
            axis = built.setdefault(piece.tensor, {}).setdefault(piece.dim, _Axis(size))
            for parent in sorted(set(parents)):
                axis.insert(np.sort(piece.index[parent]), parents.count(parent), reads=piece.role == "in")
    plan = Plan(
        keep=keep,
        units=identity.units,
        tensors={tensor: {d: axis.sources() for d, axis in axes.items()} for tensor, axes in built.items()},
        aliases=identity.aliases,
        attributes=_attributes(graph, identity, keep),
        signature=identity.signature,
    )
    shares = {tensor: {d: axis.shares() for d, axis in axes.items()} for tensor, axes in built.items()}
    new = {tensor: {d: axis.new() for d, axis in axes.items()} for tensor, axes in built.items()}
    return Expansion(plan, shares, new)


class _Axis:
    """One dimension of one tensor: for every position a list of (source position, share, is a copy)."""

    def __init__(self, size: int) -> None:
        self.after: list[list[tuple[int, float, bool]]] = [[(i, 1.0, False)] for i in range(size)]

    def insert(self, positions: np.ndarray, copies: int, *, reads: bool) -> None:
        """Put copies of a unit's positions right after them, run by run: so they stay in line in every tensor."""
        weights = np.arange(2, copies + 3) if reads else np.ones(copies + 1)
        shares = (weights / weights.sum()).tolist() if reads else weights.tolist()
        for run in np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1):
            for position in run.tolist():
                self.after[position][0] = (position, shares[0], False)
            self.after[run[-1]] += [(i, share, True) for share in shares[1:] for i in run.tolist()]

    def sources(self) -> Indices:
        return tuple(i for entries in self.after for i, _, _ in entries)

    def shares(self) -> tuple[float, ...]:
        return tuple(share for entries in self.after for _, share, _ in entries)

    def new(self) -> tuple[bool, ...]:
        return tuple(copy for entries in self.after for _, _, copy in entries)


def _parents(group: Group, wanted: int | Sequence[int]) -> list[int]:
    """Read how many units to add, or which to copy; refuse a group whose units cannot be copied unseen."""
    reasons = (
        (not group.exact, f"it is inexact: {'; '.join(group.inexact_because)} would count a copy twice"),
        (all(s.role != "in" for s in group.slices), "no weight reads its units, so none can be shared with a copy"),
        (group.units < 2, "it has a single unit, so the layout of its positions cannot be told"),
    )
    for wrong, reason in reasons:
        if wrong:
            message = f"group {group.name!r} cannot grow: {reason}. The outputs would change. Grow other groups."
            raise InputError(message)
    count = group.units
    if isinstance(wanted, int):
        parents = [(2 * i + 1) * count // (2 * wanted) % count for i in range(max(wanted, 0))]
    else:
        parents = [int(unit) for unit in wanted]
    if not parents or min(parents) < 0 or max(parents) >= count:
        message = (
            f"{wanted!r} says not what to add to group {group.name!r}. New units are copies of old ones. "
            f"Give a number of at least 1, or the units to copy, from 0 to {count - 1}."
        )
        raise InputError(message)
    return parents


def _attributes(graph: Graph, identity: Plan, keep: Mapping[str, Indices]) -> dict[str, Setting]:
    """Widths that module attributes hold: all units of a group count alike, so one less tells what one is worth."""
    base = {f"{path}:{name}": value for (path, name), value in graph.attributes(identity.keep).items()}
    grown = dict(base)
    for name, units in keep.items():
        added = len(units) - identity.units[name]
        if added:
            fewer = graph.attributes({**identity.keep, name: identity.keep[name][:-1]})
            for (path, attribute), value in fewer.items():
                place = f"{path}:{attribute}"
                grown[place] = _extrapolated(grown[place], base[place], value, added)
    return grown


def _extrapolated(grown: Setting, base: Setting, less: Setting, added: int) -> Setting:
    if isinstance(grown, tuple) and isinstance(base, tuple) and isinstance(less, tuple):
        return tuple(g + (b - n) * added for g, b, n in zip(grown, base, less, strict=True))
    if isinstance(grown, int) and isinstance(base, int) and isinstance(less, int):
        return grown + (base - less) * added
    message = f"an attribute is {base!r} now and {less!r} with one unit less. It cannot be grown. Report the model."
    raise PlanError(message)


def _forgotten(memory: Memory, expansion: Expansion) -> Memory:
    """Zero what an optimizer would remember of copies, where it remembers something of the parameter's own shape."""
    value = memory.value.clone()
    for dim, new in expansion.new[expansion.plan.aliases.get(memory.name, memory.name)].items():
        if dim < value.dim() and value.shape[dim] == len(new):
            value.mul_(1 - _along(new, dim, value))
    return Memory(memory.state, memory.key, value, memory.name)


def _along(values: Sequence[float], dim: int, like: Tensor) -> Tensor:
    shape = [-1 if d == dim else 1 for d in range(like.dim())]
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(shape)
