"""The laws of design section 7 as functions of any network, independent of the engine that they judge.

Nothing here uses the engine's own masking, slicing or counting: silence is written from `group.slices`, costs come from
PyTorch's FLOP counter, purity from a snapshot. A law that is broken raises `LawError`, which names the network, the
law and, where one can be blamed, the group.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import secateurs as sct

TOLERANCE = 1e-9
SILENCE = "law 1 (removal equals silence)"
MASK = "law 1 (sct.mask is silence)"
INTERFACE = "law 1 (any removal leaves a valid network)"
TRAINING = "law 1 (a pruned network trains)"
IDENTITY = "law 2 (keep-all is the identity)"
COMPOSITION = "law 2 (composition)"
COST = "law 4 (cost)"
TIES = "law 5 (ties hold in every plan)"
PURITY = "law 6 (purity)"
OBJECTS = "law 7 (parameter identity)"
PARTITION = "groups and protections are disjoint"

Keep = dict[str, np.ndarray]


class LawError(AssertionError):
    """A law does not hold; the message names the network, the law and the group."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to be judged: `build` returns the same weights every time, so that no law relies on `deepcopy`."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Any
    second: Any = None
    dtype: torch.dtype = torch.float64

    @cached_property
    def graph(self) -> sct.Graph:
        """The graph, traced once and shared by the laws."""
        return sct.trace(*self.native())

    def native(self) -> tuple[nn.Module, Any]:
        """The network and its inputs in their own precision: traced and pruned there, compared in float64."""
        return self.build().to(self.dtype), cast(self.inputs, self.dtype)

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """The shape of every parameter and buffer."""
        return {name: tensor.shape for name, tensor in named_tensors(self.build()).items()}

    @cached_property
    def cases(self) -> list[tuple[str, Any, list[Tensor]]]:
        """The inputs on which the same plan must hold, and what the whole network says of them."""
        sizes = {"traced size": self.inputs} | ({} if self.second is None else {"second size": self.second})
        model = self.build()
        return [(size, inputs, outputs(model, inputs)) for size, inputs in sizes.items()]

    def broken(self, law: str, fact: str, group: str = "-") -> LawError:
        """The error that says what is wrong, where."""
        return LawError(f"{self.name}: {law}: group {group}: {fact}")


@dataclass(frozen=True)
class Removal:
    """What a removal check saw: how much was removed, how far the outputs moved, how far apart the two networks are."""

    removed: int
    moved: float
    error: float


@dataclass(frozen=True)
class Census:
    """How many units of a network are in exact groups, in inexact groups and protected."""

    groups: int
    exact: int
    inexact: int
    protected: int


def census(graph: sct.Graph) -> Census:
    """Count what a graph found."""
    exact = sum(g.units for g in graph.groups if g.exact)
    inexact = sum(g.units for g in graph.groups if not g.exact)
    return Census(len(graph.groups), exact, inexact, len(graph.protected))


# ---- running any model on any nesting of inputs ----


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model on a tensor, a tuple of positional or a dict of keyword inputs, none of which it may spoil."""
    fresh = duplicate(inputs)
    if isinstance(fresh, tuple):
        return model(*fresh)
    if isinstance(fresh, dict):
        return model(**fresh)
    return model(fresh)


def duplicate(value: Any) -> Any:
    """The same nesting with every tensor cloned."""
    return transform(value, Tensor.clone)


def cast(value: Any, dtype: torch.dtype) -> Any:
    """The same nesting with every floating tensor cloned in another precision."""
    return transform(value, lambda t: t.to(dtype, copy=True) if t.is_floating_point() else t.clone())


def transform(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: transform(getattr(value, f.name), change) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, dict):
        return {key: transform(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(transform(item, change) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(transform(item, change) for item in value)
    return value


def tensors(value: Any) -> list[Tensor]:
    """Every tensor in a nesting, in order."""
    found: list[Tensor] = []
    transform(value, lambda tensor: found.append(tensor) or tensor)
    return found


@torch.no_grad()
def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Every output tensor in eval mode."""
    return [tensor.clone() for tensor in tensors(call(model.eval(), inputs))]


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def distance(found: list[Tensor], reference: list[Tensor]) -> float:
    """The largest difference of any output tensor, relative to that tensor's largest reference value."""
    if [t.shape for t in found] != [t.shape for t in reference]:
        return float("inf")
    return max((_distance(a, b) for a, b in zip(found, reference, strict=True)), default=0.0)


def _distance(found: Tensor, reference: Tensor) -> float:
    if not (reference.is_floating_point() or reference.is_complex()):
        return 0.0 if torch.equal(found, reference) else float("inf")
    if reference.numel() == 0:
        return 0.0
    scale = reference.abs().max().item()
    gap = (found - reference).abs().max().item()
    return float("inf") if not np.isfinite(gap + scale) else gap / scale if scale else gap


# ---- plans and their silence, written from the slices alone ----


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under every one of its names."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def random_keep(graph: sct.Graph, rng: np.random.Generator, *, exact: bool = False) -> Keep:
    """Between one and all units of each group (or each exact one): often few, often all, else anything; ties hold."""
    keep = {}
    groups = {group.name: group for group in graph.groups if group.exact or not exact}
    for group in groups.values():
        count = int(rng.choice([1, group.units, rng.integers(1, group.units + 1)], p=[0.1, 0.1, 0.8]))
        keep[group.name] = np.sort(rng.choice(group.units, count, replace=False))
    for tie in graph.ties:
        units = {name: graph.group(name).units for name in tie.groups}
        most = min((units[name] - 1) // step for name, step in zip(tie.groups, tie.step, strict=True))
        lost = tie.lost(int(rng.integers(0, most + 1)) if set(units) <= set(groups) else 0)
        keep |= {name: np.sort(rng.choice(units[name], units[name] - lost[name], replace=False)) for name in units}
    return keep


def check_ties(subject: Subject, rng: np.random.Generator) -> None:
    """A plan that breaks a tie is refused, by hand; every allocator's plan holds all of them."""
    graph = subject.graph
    for tie in graph.ties:
        name = tie.groups[0]
        try:
            sct.Plan.from_keep(graph, {name: range(graph.group(name).units - tie.step[0])})
        except sct.errors.PlanError:
            continue
        raise subject.broken(TIES, f"{tie} was broken, and the plan taken", name)
    scores = {group.name: torch.from_numpy(rng.random(group.units)) for group in graph.groups}
    for allocator in (sct.allocate.Ranked(), sct.allocate.Uniform(), sct.allocate.Ranked(per_cost=True)):
        try:
            keep = allocator(scores, graph, sct.Budget(params=0.6))
        except sct.errors.BudgetError:
            return
        for tie in graph.ties:
            steps = {(graph.group(n).units - len(keep[n])) / s for n, s in zip(tie.groups, tie.step, strict=True)}
            if len(steps) > 1 or not next(iter(steps)).is_integer():
                raise subject.broken(TIES, f"{allocator} broke {tie}: {steps}")


def removed_units(group: sct.Group, keep: Keep) -> np.ndarray:
    """The units of a group that a choice does away with."""
    return np.setdiff1d(np.arange(group.units), keep.get(group.name, np.arange(group.units)))


def count_removed(graph: sct.Graph, keep: Keep) -> int:
    """How many units a choice does away with, over all groups."""
    return sum(removed_units(group, keep).size for group in graph.groups)


@torch.no_grad()
def silenced(model: nn.Module, graph: sct.Graph, keep: Keep) -> nn.Module:
    """Write zero into every slice of every removed unit, in place."""
    tensors_of = named_tensors(model)
    normalised = _normalised(model)
    gains = {id(tensors_of[gain]) for gain in normalised.values()}
    for group in graph.groups:
        removed = removed_units(group, keep)
        silent_by_gain = any(id(tensors_of[s.tensor]) in gains and s.dim == 0 for s in group.slices)
        for part in group.slices:
            # 0/0: a filter divided by its own norm is silenced by its gain, and its direction must stay a direction.
            if part.dim == 0 and silent_by_gain and part.tensor in normalised:
                continue
            positions = torch.from_numpy(part.index[removed].reshape(-1))
            tensors_of[part.tensor].index_fill_(part.dim, positions, 0)
    return model


def _normalised(model: nn.Module) -> dict[str, str]:
    """Direction → gain of every weight norm over the filters: old style (`_g`, `_v`), new style (`original0`, `1`)."""
    names = named_tensors(model)
    pairs = {name: name[:-2] + "_g" for name in names if name.endswith("_v") and name[:-2] + "_g" in names}
    for module_name, module in model.named_modules():
        if type(module).__name__ == "_WeightNorm":
            stem = module_name.rpartition(".")[0] + "."
            pairs[stem + "original1"] = stem + "original0"
    return pairs


@torch.no_grad()
def shake(model: nn.Module, seed: int = 0) -> nn.Module:
    """Move every parameter and running statistic off its initial value: at 0 and 1 half the bugs are invisible."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        fan_in = parameter[:1].numel() if parameter.ndim > 1 else 1
        parameter.add_(0.1 * fan_in**-0.5 * noise.to(parameter.dtype))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator, dtype=torch.float64))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
    return model


# ---- law 1: removal equals silence ----


def _copies(subject: Subject) -> bool:
    """Whether a deep copy computes with its own tensors; a forward that closes over the original's does not."""
    copied = copy.deepcopy(subject.build())
    _, inputs, _ = subject.cases[0]
    before = outputs(copied, inputs)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    return not copied.state_dict() or any(
        not torch.equal(a, b) for a, b in zip(before, outputs(copied, inputs), strict=True)
    )


def check_removal(subject: Subject, rng: np.random.Generator) -> Removal:
    """Removing units of exact groups leaves the output of the network in which they are silent, at every input size.

    One network after another, because the largest fill the memory: silent by hand, silent by `sct.mask`, pruned.
    """
    graph = subject.graph
    keep = random_keep(graph, rng, exact=True)
    silent = _everywhere(subject, SILENCE, silenced(subject.build(), graph, keep))
    if not all(map(_finite, itertools.chain(*silent))):
        raise subject.broken(SILENCE, "the silent network is not finite, so the slices do not silence")
    masked = silent
    if _copies(subject):
        masked = _everywhere(subject, MASK, sct.mask(_plan(graph, keep), subject.native()[0]).to(torch.float64))
    pruned = _everywhere(subject, SILENCE, applied(subject, SILENCE, keep))
    for (size, inputs, _), found, reference in zip(subject.cases, pruned, silent, strict=True):
        if (error := distance(found, reference)) > TOLERANCE:
            fact = f"{size}: relative error {error:.1e} after keeping {_short(keep)}"
            raise subject.broken(SILENCE, fact, _guilty(subject, keep, inputs))
    for (size, _, _), found, reference in zip(subject.cases, masked, silent, strict=True):
        if (error := distance(found, reference)) > TOLERANCE:
            raise subject.broken(MASK, f"{size}: not silence, relative error {error:.1e} after keeping {_short(keep)}")
    return Removal(
        count_removed(graph, keep),
        max(distance(dense, reference) for (_, _, dense), reference in zip(subject.cases, silent, strict=True)),
        max(map(distance, pruned, silent)),
    )


def _everywhere(subject: Subject, law: str, model: nn.Module) -> list[list[Tensor]]:
    return [_run(subject, law, model, inputs) for _, inputs, _ in subject.cases]


def check_interface(subject: Subject, rng: np.random.Generator) -> None:
    """Removing units of any groups, exact or not, leaves a network with the same interface and finite outputs."""
    keep = random_keep(subject.graph, rng)
    judge_interface(subject, keep, applied(subject, INTERFACE, keep))


def judge_interface(subject: Subject, keep: Keep, pruned: nn.Module) -> None:
    """The same, of a network that is already pruned."""
    for size, inputs, before in subject.cases:
        after = _run(subject, INTERFACE, pruned, inputs)
        if [(t.shape, t.dtype) for t in before] != [(t.shape, t.dtype) for t in after]:
            shapes = [tuple(t.shape) for t in before], [tuple(t.shape) for t in after]
            raise subject.broken(INTERFACE, f"{size}: output shapes {shapes[0]} became {shapes[1]}, {_short(keep)}")
        if not all(map(_finite, after)):
            raise subject.broken(INTERFACE, f"{size}: outputs are not finite with {_short(keep)}")


def check_training(subject: Subject, rng: np.random.Generator) -> None:
    """A pruned network trains as the whole one does: same outputs in train mode, same parameters reached."""
    keep = random_keep(subject.graph, rng)
    judge_training(subject, keep, applied(subject, TRAINING, keep))


def judge_training(subject: Subject, keep: Keep, pruned: nn.Module) -> None:
    """The same, of a network that is already pruned; it is trained by one step's gradient."""
    shapes, reached = _train_step(subject.build(), subject.inputs)
    try:
        pruned_shapes, pruned_reached = _train_step(pruned, subject.inputs)
    except Exception as error:
        raise subject.broken(TRAINING, f"{_what(error)} with {_short(keep)}") from error
    if shapes != pruned_shapes:
        raise subject.broken(TRAINING, f"output shapes {shapes} became {pruned_shapes} with {_short(keep)}")
    if reached != pruned_reached:
        raise subject.broken(TRAINING, f"backward reaches other parameters: {sorted(reached ^ pruned_reached)}")


def _train_step(model: nn.Module, inputs: Any) -> tuple[list[tuple[int, ...]], set[str]]:
    """One forward and backward in train mode: output shapes, and names of the parameters that got a gradient."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = tensors(call(model.train(), inputs))
    loss = sum(t.abs().sum() for t in found if t.requires_grad)
    if isinstance(loss, Tensor):
        loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.shape == parameter.shape
    return [tuple(t.shape) for t in found], {n for n, p in model.named_parameters() if p.grad is not None}


def _plan(graph: sct.Graph, keep: Keep) -> sct.Plan:
    return sct.Plan.from_keep(graph, {name: kept.tolist() for name, kept in keep.items()})


def applied(subject: Subject, law: str, keep: Keep) -> nn.Module:
    """The pruned network, or a broken law that names the group whose removal is refused or fails."""
    try:
        return sct.apply(_plan(subject.graph, keep), subject.native()[0]).to(torch.float64)
    except Exception as error:
        guilty = [name for name in keep if _refuses(subject, _alone(subject.graph, keep, name))]
        fact = f"apply raised {_what(error)} with {_short(keep)}"
        raise subject.broken(law, fact, ", ".join(guilty) or "several together") from error


def _refuses(subject: Subject, keep: Keep) -> bool:
    try:
        sct.apply(_plan(subject.graph, keep), subject.native()[0])
    except Exception:  # noqa: BLE001 - any failure makes a group guilty
        return True
    return False


def _run(subject: Subject, law: str, model: nn.Module, inputs: Any) -> list[Tensor]:
    try:
        return outputs(model, inputs)
    except Exception as error:
        raise subject.broken(law, f"forward raised {_what(error)}") from error


def _guilty(subject: Subject, keep: Keep, inputs: Any) -> str:
    """The groups that break the law alone."""
    guilty = []
    for name in keep:
        alone = _alone(subject.graph, keep, name)
        reference = outputs(silenced(subject.build(), subject.graph, alone), inputs)
        pruned = applied(subject, "law 1", alone)
        if distance(_run(subject, "law 1", pruned, inputs), reference) > TOLERANCE:
            guilty.append(name)
    return ", ".join(guilty) or "several together"


def _alone(graph: sct.Graph, keep: Keep, name: str) -> Keep:
    """The part of a choice about one group, and about those that are tied to it."""
    return {each: keep[each] for each in graph.tied_with(name) if each in keep}


def _what(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:300]}"


def _short(keep: Keep) -> str:
    return "{" + ", ".join(f"{name}: {kept.tolist()}" for name, kept in list(keep.items())[:6]) + "}"


# ---- law 2: identity and composition ----


def check_identity(subject: Subject) -> None:
    """Keeping every unit, by name or by silence, changes no bit of any parameter, buffer or output."""
    judge_identity(subject, applied(subject, IDENTITY, {}))
    judge_identity(subject, applied(subject, IDENTITY, keep_all(subject.graph)))


def keep_all(graph: sct.Graph) -> Keep:
    """Every unit of every group, by name."""
    return {group.name: np.arange(group.units) for group in graph.groups}


def judge_identity(subject: Subject, after: nn.Module) -> None:
    """The same, of a network from which nothing was removed."""
    pairs = named_tensors(subject.build()), named_tensors(after)
    if changed := [name for name in pairs[0] if not same_bits(pairs[0][name], pairs[1][name])]:
        raise subject.broken(IDENTITY, f"{changed} changed")
    for _, inputs, dense in subject.cases:
        if not all(map(same_bits, dense, _run(subject, IDENTITY, after, inputs))):
            raise subject.broken(IDENTITY, "an output bit changed")


def check_composition(subject: Subject, rng: np.random.Generator) -> None:
    """Pruning a pruned network again gives, bit for bit, the network pruned once by both choices together."""
    first = random_keep(subject.graph, rng)
    judge_composition(subject, first, applied(subject, COMPOSITION, first), rng)


def judge_composition(subject: Subject, first: Keep, pruned: nn.Module, rng: np.random.Generator) -> None:
    """The same, of a network that is already pruned; it is pruned again."""
    try:
        again = sct.trace(pruned.to(subject.dtype), cast(subject.inputs, subject.dtype))
    except Exception as error:
        raise subject.broken(COMPOSITION, f"the pruned network cannot be traced: {_what(error)}") from error
    second, both = _choose_again(subject, first, again, rng)
    try:
        twice = sct.apply(_plan(again, second), pruned).to(torch.float64)
    except Exception as error:
        fact = f"pruning again raised {_what(error)}: first {_short(first)}, then {_short(second)}"
        raise subject.broken(COMPOSITION, fact) from error
    once = applied(subject, COMPOSITION, both)
    pairs = named_tensors(once), named_tensors(twice)
    if other := [name for name in pairs[0] if not same_bits(pairs[0][name], pairs[1][name])]:
        shapes = [[tuple(tensors_of[name].shape) for name in other[:3]] for tensors_of in pairs]
        raise subject.broken(COMPOSITION, f"{other} differ: {shapes[0]} at once, {shapes[1]} in two steps")
    results = [_run(subject, COMPOSITION, model, subject.inputs) for model in (once, twice)]
    if not all(map(same_bits, *results)):
        raise subject.broken(COMPOSITION, "outputs differ between once and twice")


def _choose_again(subject: Subject, first: Keep, again: sct.Graph, rng: np.random.Generator) -> tuple[Keep, Keep]:
    """A random second choice, and the one choice on the first graph that equals both.

    A unit of the second graph is followed to the first graph through the positions of its slices. Where a first unit
    has fallen apart (possible once a block has one entry left), its parts have no equal there and are kept.
    """
    owner, survivors = _owners(subject, first)
    kept = {g.name: set(range(g.units)) - set(removed_units(g, first).tolist()) for g in subject.graph.groups}
    origins = {(g.name, unit): _origins(g, unit, owner, survivors) for g in again.groups for unit in range(g.units)}
    parts = Counter(origin for found in origins.values() for origin in found)
    tied = {name for graph in (subject.graph, again) for tie in graph.ties for name in tie.groups}
    second = {}
    for group in again.groups:
        chosen = set(rng.choice(group.units, int(rng.integers(1, group.units + 1)), replace=False).tolist())
        if group.name in tied or any(n in tied for u in range(group.units) for n, _ in origins[group.name, u]):
            chosen = set(range(group.units))
        for unit in set(range(group.units)) - chosen:
            found = origins[group.name, unit]
            emptied = any(kept[name] <= {i for n, i in found if n == name} for name, _ in found)
            if not found or emptied or any(parts[origin] > 1 for origin in found):
                chosen.add(unit)
                continue
            for name, index in found:
                kept[name].discard(index)
        second[group.name] = np.array(sorted(chosen))
    return second, {name: np.array(sorted(units)) for name, units in kept.items()}


def _owners(subject: Subject, keep: Keep) -> tuple[dict, dict]:
    """(tensor, dim) → which unit each position belongs to, and (tensor, dim) → which positions survive."""
    owner, gone = {}, {}
    for group in subject.graph.groups:
        removed = removed_units(group, keep)
        for part in group.slices:
            key = part.tensor, part.dim
            units = owner.setdefault(key, {})
            for unit, positions in enumerate(part.index.tolist()):
                units.update(dict.fromkeys(positions, (group.name, unit)))
            gone.setdefault(key, []).extend(part.index[removed].reshape(-1).tolist())
    survivors = {key: np.setdiff1d(np.arange(subject.shapes[key[0]][key[1]]), gone[key]) for key in owner}
    return owner, survivors


def _origins(group: sct.Group, unit: int, owner: dict, survivors: dict) -> set[tuple[str, int]]:
    found = set()
    for part in group.slices:
        key = part.tensor, part.dim
        if key in owner:
            found |= {owner[key].get(int(survivors[key][p]), ("", -1)) for p in part.index[unit]}
    return set() if ("", -1) in found else found


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Same shape, same type, same bits."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.detach().reshape(-1).view(torch.uint8), b.detach().reshape(-1).view(torch.uint8))


# ---- law 4: cost ----


def check_cost(subject: Subject, rng: np.random.Generator) -> None:
    """The cost predicted for a plan is the count of the pruned network: PyTorch's FLOP counter and the parameters."""
    judge_cost(subject, {}, subject.build())
    keep = random_keep(subject.graph, rng)
    judge_cost(subject, keep, applied(subject, COST, keep))


def judge_cost(subject: Subject, keep: Keep, pruned: nn.Module) -> None:
    """The same, of a network that is already pruned."""
    cost = subject.graph.cost(_plan(subject.graph, keep)) if keep else subject.graph.cost()
    said = cost.macs, cost.params
    counted = count_macs(pruned, subject.inputs), sum(p.numel() for p in pruned.parameters())
    if said != counted:
        raise subject.broken(COST, f"(macs, params) said {said}, counted {counted}, {_short(keep)}")


@torch.no_grad()
def count_macs(model: nn.Module, inputs: Any) -> int:
    """Multiply-accumulates of one eval forward by PyTorch's own counter, with attention spelled out as products."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call(model.eval(), inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(value=fused)
    return counter.get_total_flops() // 2


# ---- law 6: purity ----


@dataclass(frozen=True)
class Snapshot:
    """Everything about a model and the process that tracing must leave alone."""

    facts: dict[str, object] = field(default_factory=dict)
    bits: dict[str, Tensor] = field(default_factory=dict)

    def differences(self, other: Snapshot) -> list[str]:
        """The names of what changed."""
        names = self.facts.keys() | other.facts.keys()
        facts = {name for name in names if self.facts.get(name) != other.facts.get(name)}
        same = {name for name, bits in self.bits.items() if name in other.bits and same_bits(bits, other.bits[name])}
        return sorted(facts | (self.bits.keys() - same))


def snapshot(model: nn.Module, inputs: Any) -> Snapshot:
    """Identity, bits and gradients of tensors; mode, hooks and attributes of modules; generators and switches."""
    shot = Snapshot()
    for name, tensor in named_tensors(model).items():
        shot.facts[f"object {name}"] = id(tensor), tensor.requires_grad, id(tensor.grad), tensor._version
        shot.bits[name] = tensor.detach().clone()
        if tensor.grad is not None:
            shot.bits[f"gradient of {name}"] = tensor.grad.clone()
    for name, module in model.named_modules(remove_duplicate=False):
        shot.facts[f"mode of {name}"] = module.training
        for key, value in vars(module).items():
            contents = [(k, id(v)) for k, v in value.items()] if isinstance(value, dict) else None
            shot.facts[f"attribute {name}.{key}"] = id(value), contents
    for i, tensor in enumerate(tensors(inputs)):
        shot.bits[f"input {i}"] = tensor.clone()
    shot.bits["torch generator"] = torch.get_rng_state()
    shot.facts["numpy generator"] = str(np.random.get_state())  # noqa: NPY002 - the global generator is what users seed
    shot.facts["python generator"] = random.getstate()
    shot.facts["switches"] = (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
    )
    return shot


def check_purity(subject: Subject) -> None:
    """Tracing leaves a model in mixed modes, with gradients, as it was, and finds the same groups as in eval mode."""
    if footprints(traced_purely(subject)) != footprints(subject.graph):
        raise subject.broken(PURITY, "the groups of a model in train mode are not those of the same model in eval mode")


def traced_purely(subject: Subject) -> sct.Graph:
    """The graph of a model in mixed modes, with gradients, which comes back as it was."""
    model, inputs = subject.native()
    model.train()
    for module in list(model.modules())[1::2]:
        module.training = False
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    before = snapshot(model, inputs)
    graph = sct.trace(model, inputs)
    if changed := before.differences(snapshot(model, inputs)):
        raise subject.broken(PURITY, f"trace changed {', '.join(changed[:8])}")
    return graph


def footprints(graph: sct.Graph) -> set[tuple[int, bool, frozenset[tuple[str, int]]]]:
    """Groups as values, without their names."""
    return {(g.units, g.exact, frozenset((s.tensor, s.dim) for s in g.slices)) for g in graph.groups}


# ---- law 7: parameters keep their identity ----


def check_parameter_identity(subject: Subject, rng: np.random.Generator) -> None:
    """After `apply`, an optimizer made before holds the same parameters, with moments of their shape, and steps."""
    applied_in_place(subject, random_keep(subject.graph, rng))


def applied_in_place(subject: Subject, keep: Keep) -> nn.Module:
    """The pruned network, which is the model itself, with its own parameters, optimizer and modes."""
    model, _ = subject.native()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0, momentum=0.9) if trainable else None
    if optimizer:
        _step(optimizer, trainable)
    before, modes = _objects(model), [module.training for module in model.modules()]
    try:
        returned = sct.apply(_plan(subject.graph, keep), model, optimizer)
    except Exception as error:
        raise subject.broken(OBJECTS, f"apply raised {_what(error)} with {_short(keep)}") from error
    if returned is not model:
        raise subject.broken(OBJECTS, "apply did not return the model itself")
    after = _objects(model)
    if changed := {name for name, fact in before.items() if after.get(name) != fact}:
        raise subject.broken(OBJECTS, f"other Parameter objects, types or requires_grad: {sorted(changed)}")
    if modes != [module.training for module in model.modules()]:
        raise subject.broken(OBJECTS, "apply changed the mode of a module")
    _check_sizes(subject, model, keep)
    if optimizer:
        for parameter in trainable:
            if (moment := optimizer.state[parameter]["momentum_buffer"]).shape != parameter.shape:
                raise subject.broken(OBJECTS, f"a moment of {tuple(parameter.shape)} has {tuple(moment.shape)}")
        _step(optimizer, trainable)
    return model


def _objects(model: nn.Module) -> dict[str, object]:
    return {name: (id(t), t.requires_grad, type(t)) for name, t in model.named_parameters(remove_duplicate=False)}


def _check_sizes(subject: Subject, model: nn.Module, keep: Keep) -> None:
    """Every tensor lost exactly the positions that its slices say."""
    gone = Counter()
    for group in subject.graph.groups:
        removed = removed_units(group, keep)
        for part in group.slices:
            gone[part.tensor, part.dim] += part.index[removed].size
    after = named_tensors(model)
    for (name, dim), lost in gone.items():
        sizes = subject.shapes[name][dim], after[name].shape[dim]
        if sizes[0] - lost != sizes[1]:
            raise subject.broken(OBJECTS, f"{name} dim {dim}: {sizes[0]} less {lost} is now {sizes[1]}")


def _step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


# ---- nothing is left unsaid ----


def check_partition(subject: Subject) -> None:
    """No position of a tensor belongs to two units, or to a unit and a protection, and every index lies inside it."""
    sizes = subject.shapes
    taken: dict[tuple[str, int], np.ndarray] = {}
    for group in subject.graph.groups:
        for part in group.slices:
            if part.tensor not in sizes:
                raise subject.broken(PARTITION, f"{part.tensor} is not a parameter or buffer", group.name)
            if part.index.dtype != np.int64 or part.index.ndim != 2 or len(part.index) != group.units:
                raise subject.broken(
                    PARTITION, f"index of {part.tensor} is {part.index.dtype}{part.index.shape}", group.name
                )
            size = sizes[part.tensor][part.dim]
            if part.index.size and not (part.index.min() >= 0 and part.index.max() < size):
                raise subject.broken(
                    PARTITION, f"index of {part.tensor} dim {part.dim} leaves 0..{size - 1}", group.name
                )
            counts = taken.setdefault((part.tensor, part.dim), np.zeros(size, int))
            np.add.at(counts, part.index.reshape(-1), 1)
            if counts.max() > 1:
                raise subject.broken(
                    PARTITION, f"a position of {part.tensor} dim {part.dim} belongs to two units", group.name
                )
    for protection in subject.graph.protected:
        key = protection.tensor, protection.dim
        if key in taken and taken[key][protection.index].any():
            raise subject.broken(
                PARTITION, f"{protection.tensor} dim {protection.dim} is both in a group and protected"
            )


def unaccounted(subject: Subject, tensor: str, dim: int) -> np.ndarray:
    """The positions along `dim` of a tensor that are in no group and in no protection: the silently forgotten."""
    said = np.zeros(subject.shapes[tensor][dim], bool)
    for group in subject.graph.groups:
        for part in group.slices:
            if (part.tensor, part.dim) == (tensor, dim):
                said[part.index.reshape(-1)] = True
    for protection in subject.graph.protected:
        if (protection.tensor, protection.dim) == (tensor, dim):
            said[protection.index] = True
    return np.flatnonzero(~said)


def subject_of(name: str, model: nn.Module, inputs: Any, second: Any = None) -> Subject:
    """A subject from a model that `deepcopy` copies faithfully."""
    return Subject(name, lambda: copy.deepcopy(model), inputs, second)


def check_all(subject: Subject, seed: int = 0) -> Removal:
    """Every law, sharing traces and pruned networks between them, for networks that are made by the hundred."""
    rng = np.random.default_rng(seed)
    vars(subject)["graph"] = traced_purely(subject)
    check_partition(subject)
    check_ties(subject, np.random.default_rng(seed))
    seen = check_removal(subject, rng)
    judge_identity(subject, applied(subject, IDENTITY, keep_all(subject.graph)))
    keep = random_keep(subject.graph, rng)
    judge_composition(subject, keep, applied_in_place(subject, keep).to(torch.float64), rng)
    pruned = applied(subject, INTERFACE, keep)
    judge_interface(subject, keep, pruned)
    judge_cost(subject, keep, pruned)
    judge_training(subject, keep, pruned)
    return seen
