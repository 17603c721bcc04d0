"""Insert units without changing what the network computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateurs.errors import InputError, ProofError
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
from secateurs.surgery.copies import plan_with_copies, refuse_copies
from secateurs.surgery.optimizer import Memory, memories, optimizers_of
from secateurs.surgery.plan import Indices, Plan
from secateurs.surgery.tensors import duplicate
from secateurs.surgery.transaction import Transaction

TOLERANCE = 1e-9
"""Largest change of float64 outputs, relative to the largest output (law 10)."""


@dataclass(frozen=True)
class Expansion:
    """The source and the factor of every entry of the grown tensors.

    plan: a plan whose indices repeat those of the copied units, with their shares. new: tensor -> dimension -> mark of
    the entries of the result that are copies.
    """

    plan: Plan
    new: Mapping[str, Mapping[int, tuple[bool, ...]]]


@all_or_nothing
def grow(
    graph: Graph,
    model: nn.Module,
    *,
    units: Mapping[str, int | Sequence[int]],
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    copy_moments: bool = True,
) -> nn.Module:
    """Add copies of units to groups, in place and without changing any output, and return the model.

    units: group -> number of units to add (copies of units spread evenly over the group), or the list of units to copy,
    once for each time it is listed. A copy has the filters, biases and norm parameters of its original, and follows it
    directly; the weight w that reads the original is divided, w = λ w + (1 - λ) w, with λ = 0.4 for the original (k
    copies: shares 2 : 3 : … : k + 2). Equal shares would get equal gradients and stay equal.

    optimizer: every optimizer of the model; its moments are copied too, or zero with copy_moments=False. The growth is
    first tried in float64 on a copy of the model. The graph describes the model before: trace again afterwards.

    Raises InputError for groups that cannot grow (inexact ones: a mean or a norm over the units would change),
    PlanError if the graph or an optimizer is not of this model, and ProofError if an output changed in the trial; the
    model is unchanged then.

    Source: Chen, Goodfellow and Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR 2016, arXiv
    1511.05641, section 3.1, where shares are equal and noise makes copies differ.

    >>> import torch
    >>> from secateurs.graph import trace
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> x, before = torch.ones(1, 2), net(torch.ones(1, 2))
    >>> wider = grow(trace(net, x), net, units={"0": 2})
    >>> wider[0].out_features, bool(torch.allclose(wider(x), before))
    (5, True)
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
    swaps = prepare(targets_of(expansion.plan, network), expansion.plan)
    write(transaction, network.model, swaps, settings_of(expansion.plan, network.model))


def _try(graph: Graph, network: Network, expansion: Expansion) -> None:
    """Grow a float64 copy and compare its outputs with the original's, on noise of the example's shapes."""
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
    """Return the plan of a growth, with the mark of copied entries of the grown tensors."""
    sources: dict[str, list[int]] = {}
    for name, wanted in units.items():
        group = graph.group(name)
        sources[name] = sorted((*range(group.units), *_parents(group, wanted)))
    plan = plan_with_copies(graph, sources)
    new = {tensor: {dim: _repeats(kept) for dim, kept in dims.items()} for tensor, dims in plan.tensors.items()}
    return Expansion(plan, new)


def _repeats(kept: Indices) -> tuple[bool, ...]:
    """Mark the entries that are copies of an earlier entry.

    >>> _repeats((0, 1, 1))
    (False, False, True)
    """
    seen: set[int] = set()
    return tuple(i in seen or bool(seen.add(i)) for i in kept)


def _parents(group: Group, wanted: int | Sequence[int]) -> list[int]:
    """Return the units to copy; refuse a group whose units cannot be copied without changing outputs."""
    refuse_copies(group)
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


def _forgotten(memory: Memory, expansion: Expansion) -> Memory:
    """Zero the copies' entries in an optimizer state of the parameter's shape."""
    value = memory.value.clone()
    for dim, new in expansion.new[expansion.plan.aliases.get(memory.name, memory.name)].items():
        if dim < value.dim() and value.shape[dim] == len(new):
            value.mul_(1 - _along(new, dim, value))
    return Memory(memory.state, memory.key, value, memory.name)


def _along(values: Sequence[float], dim: int, like: Tensor) -> Tensor:
    shape = [-1 if d == dim else 1 for d in range(like.dim())]
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(shape)
