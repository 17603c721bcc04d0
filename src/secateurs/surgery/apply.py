"""Remove the units of a plan from a model, in place, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateurs.errors import ModelError, PlanError, expect
from secateurs.graph import Graph, prove
from secateurs.graph.integers import held, rebuilt
from secateurs.network import Network, lock_of
from secateurs.running.caches import stored_tensors
from secateurs.running.process import all_or_nothing
from secateurs.surgery.attributes import derived, fit_attributes
from secateurs.surgery.layer_check import check_layers
from secateurs.surgery.optimizer import memories, optimizers_of
from secateurs.surgery.plan import Indices, Plan, shared
from secateurs.surgery.settings import refusal
from secateurs.surgery.tensors import as_index, differences, select
from secateurs.surgery.transaction import Transaction

Targets = Mapping[str, tuple[Tensor, Mapping[int, Indices]]]
"""Name -> (tensor, dimension -> indices to keep or repeat)."""


class Swap(NamedTuple):
    """New contents and gradient for a parameter or buffer that stays the same object."""

    tensor: Tensor
    data: Tensor
    grad: Tensor | None


@all_or_nothing
def apply(
    plan: Plan,
    model: nn.Module | Network,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    *,
    graph: Graph | None = None,
    proof: bool = True,
) -> nn.Module:
    """Remove a plan's units from a model, insert those that it copies, in place, and return the model.

    Every Parameter and buffer stays the same object and only its contents shrink, so that optimizers, schedulers and
    averaged models that refer to it continue to work; gradients and optimizer moments lose the same entries;
    `requires_grad`, memory format, hooks and mode are unchanged. Module attributes (`out_channels`, `groups`,
    `num_heads`) are updated. optimizer: every optimizer of the model, alone or in a list.

    All new tensors are prepared before the first is written, and a failure while writing undoes all writes. If the plan
    has its graph, or `graph` is given (for a plan read from a file), it is first proved on the meta device that the
    pruned network computes what the masked one does; proof=False skips this, for callers that have just proved it.
    Without a graph only names, shapes, attributes and the entries kept within each layer are checked.

    A wrapper (DistributedDataParallel, torch.compile) is removed: the model inside is pruned and returned. Wrap it
    again, since the wrapper's buckets or compiled code have the old shapes.

    Raises ModelError for a model that cannot be pruned, PlanError if the plan or an optimizer is not of this model,
    ProofError if the pruned network would compute something else. The model is unchanged then.

    >>> import torch
    >>> from secateurs.graph import trace
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> plan = Plan.from_keep(trace(net, torch.zeros(1, 2)), {"0": [0, 2]})
    >>> apply(plan, net)[2]
    Linear(in_features=2, out_features=1, bias=True)
    """
    network = Network.of(model)
    model = network.model
    check_signature(plan, network)
    targets = targets_of(plan, network)
    refuse_shared_memory(network, targets)
    parameters = {n: t for n, t in targets.items() if isinstance(t[0], torch.nn.Parameter)}
    settings = settings_of(plan, model)
    optimizers = optimizers_of(optimizer)
    known = graph if graph is not None else plan.graph
    if known is None:
        check_layers(plan, model, settings)
    elif proof:
        prove(known, network, {name: tuple(dict.fromkeys(units)) for name, units in plan.keep.items()})
    with lock_of(model), torch.inference_mode(mode=False), torch.no_grad():
        check_signature(plan, network)  # another thread may have pruned it meanwhile
        swaps, remembered = prepare(targets, plan), memories(optimizers, parameters)
        with Transaction() as transaction:
            write(transaction, model, swaps, settings)
            for memory in remembered:
                transaction.put(memory.state, memory.key, memory.value)
            for store, key in stored_tensors(network) if known is not None and known.refills else ():
                transaction.drop(store, key)
    return model


def check_signature(plan: Plan, network: Network) -> None:
    """Refuse objects that are not plans, and models whose tensors have other names or shapes than the plan."""
    expect("plan", plan, Plan, "Pass a plan: what secateurs.plan, Plan.from_keep or secateurs.load_plan gives.")
    check_shapes(plan.signature, network, plan.signature_after)


def check_shapes(
    signature: Mapping[str, tuple[int, ...]],
    network: Network,
    after: Callable[[], Mapping[str, tuple[int, ...]]] | None = None,
) -> None:
    """Refuse a model whose tensors do not have these names and shapes; `after`: those after the plan."""
    found = network.shapes
    if found == signature:
        return
    problem = differences(signature, found)
    if problem:
        message = (
            f"the plan was made for another network: {problem}. {_guess(signature, found, after)}"
            "A plan fits only the tensors it was made for. Trace this model and make a plan on its graph."
        )
        raise PlanError(message)


def _guess(
    signature: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    after: Callable[[], Mapping[str, tuple[int, ...]]] | None,
) -> str:
    """Return the likely reason why a plan does not fit (wrapped, or pruned already), if one applies."""
    inside = {name.removeprefix("module."): shape for name, shape in found.items() if name.startswith("module.")}
    if not differences(signature, inside):
        return "They are all there, inside a wrapper: pass model.module. "
    if after is None or differences(after(), found):
        return ""
    return "The model already has the shapes that the plan leaves. "


def prepare(targets: Targets, plan: Plan) -> list[Swap]:
    """Return sliced copies of every tensor that changes, and of its gradient."""
    known: dict[tuple[int, torch.device], Tensor] = {}
    swaps: list[Swap] = []
    for name, (tensor, dims) in targets.items():
        index = {dim: _index(kept, tensor.device, known) for dim, kept in dims.items()}
        grad = None if tensor.grad is None else select(tensor.grad, index)
        swaps.append(Swap(tensor, shared(plan, name, select(tensor.detach(), index)), grad))
    return swaps


def _index(kept: Indices, device: torch.device, known: dict[tuple[int, torch.device], Tensor]) -> Tensor:
    """Return kept indices as a tensor, converted once for all tensors that share the tuple."""
    index = known.get((id(kept), device))
    if index is None:
        index = known[id(kept), device] = as_index(kept, device)
    return index


def write(
    transaction: Transaction, model: nn.Module, swaps: Iterable[Swap], settings: Mapping[tuple[str, str], object]
) -> None:
    """Write prepared contents and attributes into the model, inside a transaction."""
    for swap in swaps:
        transaction.swap(*swap)
    _write_attributes(transaction, model, settings)
    for module, name, value in derived(model):
        transaction.assign(module, name, value)
    # integers of standard modules are computed from the new shapes, after `groups` is set
    _write_attributes(transaction, model, fit_attributes(model))


def _write_attributes(transaction: Transaction, model: nn.Module, settings: Mapping[tuple[str, str], object]) -> None:
    modules = dict(model.named_modules(remove_duplicate=False)) if settings else {}
    places: dict[str, dict[str, object]] = {}
    for (path, place), value in settings.items():
        if held(modules[path], place) != value:
            places.setdefault(path, {})[place] = value
    for path, found in places.items():
        for name, value in rebuilt(modules[path], found).items():
            transaction.assign(modules[path], name, value)


def settings_of(plan: Plan, model: nn.Module) -> dict[tuple[str, str], object]:
    """Return the plan's attributes as (module path, name) -> value; refuse those that the model does not have."""
    modules = dict(model.named_modules(remove_duplicate=False))
    settings: dict[tuple[str, str], object] = {}
    for place, value in plan.attributes.items():
        path, _, name = place.rpartition(":")
        if path not in modules or held(modules[path], name) is None:
            message = (
                f"the plan sets {name} of module {path or 'model'!r} to {value}, and the model has no such attribute. "
                "Its code differs from that of the model the plan was made on. Trace this model and plan again."
            )
            raise PlanError(message)
        if why := refusal(modules[path], name, value):
            message = (
                f"the plan sets {name} of {path or 'the model'} to {value}, and may not: {why}. "
                "A plan only sets numbers that count channels. Take an undamaged plan, or make a new one."
            )
            raise PlanError(message)
        settings[path, name] = value
    return settings


def targets_of(plan: Plan, network: Network) -> Targets:
    """Return each tensor that changes once, under its first name, with its kept indices."""
    first: dict[int, str] = {}
    targets: dict[str, tuple[Tensor, Mapping[int, Indices]]] = {}
    for name, tensor in network.named.items():
        original = first.setdefault(id(tensor), name)
        if plan.dims(name) != plan.dims(original):
            message = (
                f"{original} and {name} are one tensor in this model, and two in the network the plan was made on. "
                "The plan cuts them differently. Trace this model and make a plan on its graph."
            )
            raise PlanError(message)
        if original == name and plan.dims(name):
            targets[name] = (tensor, plan.dims(name))
    return targets


def refuse_shared_memory(network: Network, targets: Container[str]) -> None:
    """Refuse to prune one of two different tensors that share memory: they would no longer share it."""
    owner: dict[tuple[str, int], tuple[str, Tensor]] = {}
    for name, tensor in _in_memory(network):
        place = (str(tensor.device), tensor.untyped_storage().data_ptr())
        other, first = owner.setdefault(place, (name, tensor))
        if first is not tensor and (name in targets or other in targets):
            message = (
                f"{other} and {name} are two tensors in one piece of memory. Cutting one would part it from the other. "
                "Tie them as one Parameter object, or give each its own memory: p.data = p.data.clone()."
            )
            raise ModelError(message)


def _in_memory(network: Network) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in network.named.items():
        if tensor.layout is torch.strided and tensor.device.type != "meta" and tensor.numel():
            yield name, tensor
