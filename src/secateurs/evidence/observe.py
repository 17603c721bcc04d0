"""Compute all the evidence that a criterion needs, in one pass over the data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call  # pyright: ignore[reportUnknownVariableType]

from secateurs.errors import EvidenceError, InputError, near
from secateurs.evidence.derivatives import Derivatives, Differentiable, Statistic
from secateurs.evidence.kinds import Activations, Evidence, GateGradients, Gradients, Need, Needs, Weights, describe
from secateurs.evidence.streams import Sited, Streams, open_streams, probe
from secateurs.network import Network
from secateurs.running.batches import Batch, check_loss, cross_entropy, read_batches, summed_loss
from secateurs.running.process import all_or_nothing
from secateurs.running.replica import Replica
from secateurs.running.untouched import device_of, untouched
from secateurs.types import Loss


class Traced(Sited, Protocol):
    """The part of a graph that `observe` uses."""

    @property
    def signature(self) -> Mapping[str, tuple[int, ...]]:
        """Every parameter and buffer name of the traced model, with its shape."""
        ...

    @property
    def aliases(self) -> Mapping[str, str]:
        """Alias of a tied tensor -> its canonical name."""
        ...


class Asks(Protocol):
    """An object with needs, such as a criterion."""

    @property
    def needs(self) -> Needs:
        """The evidence it must be given, by the names under which it reads it."""
        ...


@all_or_nothing
def observe(
    graph: Traced,
    model: nn.Module | Network,
    needs: Asks | Needs | Iterable[Need],
    *,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    batches: int | None = None,
    groups: Collection[str] | None = None,
) -> Evidence:
    """Compute the evidence that a criterion needs; the model is not changed.

    graph: what `trace` returned for this model. needs: a criterion; or a mapping of names to needs; or needs without
    names, which are then their own keys. Equal needs are gathered once. data: an iterable of (inputs, targets) batches
    or dicts of keyword inputs, read once and only if a need requires it; batches are moved to the model's device. loss:
    a function of (outputs, targets), cross entropy by default; a scalar is taken as the mean over samples, a vector as
    one loss a sample. batches: the most batches to read. groups: gather activations of these groups only.

    A copy of the module objects runs in eval mode, on detached views of the parameters and copies of the buffers: the
    model's gradients, statistics, `requires_grad` and attributes do not change, and frozen weights are no obstacle. A
    loss must therefore use the outputs only, not attributes that the forward sets. Random generators are restored.

    Raises InputError for a wrong argument or a graph of another model, ModelError for NaN or infinite weights,
    EvidenceError if data is missing or empty, or the model or loss fails on a batch.
    """
    who = "the caller" if isinstance(needs, Iterable) else repr(needs)
    named = _by_name(needs if isinstance(needs, Iterable) else needs.needs, who)
    network = Network.of(model)
    weights = read_weights(graph, network)
    found: dict[Need, Any] = {Weights: weights}
    costly: dict[Need, Any] = {}
    for name, need in named.items():
        if need is not Weights:
            costly.setdefault(need, name)
    if costly:
        if batches is not None and batches < 1:
            msg = f"batches={batches} reads no data. Pass a number of at least 1, or None for all."
            raise InputError(msg)
        if data is None:
            msg = (
                f"{who} needs {' and '.join(_told(named, costly))}, and no data was given. It is measured by running "
                "the model. Pass data=, an iterable of (inputs, targets) batches, or use a criterion of weights alone."
            )
            raise EvidenceError(msg)
        work = Pass(
            Replica(network, around=False).model,
            weights,
            open_streams(graph, costly, _chosen(graph, groups)),
            needs=tuple(costly),
            loss=check_loss(loss) or cross_entropy,
        )
        found |= work.over(read_batches(data, device_of(network.model), batches))
    return Evidence(MappingProxyType({name: found[need] for name, need in named.items()}))


def _by_name(needs: Needs | Iterable[Need], who: str) -> dict[Any, Need]:
    """Check that every need is a kind of evidence; a need without a name is its own key."""
    named = dict(needs) if isinstance(needs, Mapping) else {need: need for need in needs}
    for name, need in named.items():
        if need not in (Weights, Gradients) and not isinstance(need, Activations | GateGradients | Derivatives):
            called = "" if name is need else f"as {describe(name)} "
            msg = f"{who} needs {called}{describe(need)}, which is no evidence. {_KINDS}"
            raise EvidenceError(msg)
    return named


def _told(named: Mapping[Any, Need], costly: Iterable[Need]) -> list[str]:
    """Describe the needs that require data, by the criterion's names."""
    return [describe(n) if n is need else f"{describe(need)} as {n!r}" for n, need in named.items() if need in costly]


_KINDS = "Ask for Weights, Gradients, Activations(...), GateGradients(...) or Derivatives(...)."


def read_weights(graph: Traced, network: Network) -> Weights:
    """Return views of all tensors by canonical name, after checking names, shapes, and that parameters are finite."""
    signature, aliases = graph.signature, graph.aliases
    shapes = network.shapes
    for name in sorted(shapes.keys() | signature.keys()) if shapes != signature else ():
        have, traced = shapes.get(name), signature.get(name)
        if have is None or traced is None or have != tuple(traced):
            msg = (
                f"tensor {name!r} is {_of(have)} in the model and {_of(traced)} in the graph. Scores would be read "
                "from the wrong entries. Trace this model anew, or pass the model that was traced."
            )
            raise InputError(msg)
    tensors = {n: t.detach() for n, t in network.with_values.named.items() if n not in aliases}
    return Weights(MappingProxyType(tensors), frozenset(network.buffers.keys() & tensors.keys()))


def _of(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {tuple(shape)}"


def _chosen(graph: Traced, names: Collection[str] | None) -> list[Any]:
    known = {group.name: group for group in graph.groups}
    for name in names or ():
        if name not in known:
            msg = f"there is no group {name!r}: {near(name, known)}"
            raise InputError(msg)
    return [group for name, group in known.items() if names is None or name in names]


@dataclass(eq=False)
class Pass:
    """One pass over the data, on detached views of the parameters and copies of the buffers of the model."""

    model: nn.Module
    weights: Weights
    streams: Streams
    needs: tuple[Need, ...]
    loss: Loss
    wants_gradients: bool = field(init=False)
    statistics: dict[Derivatives, Statistic] = field(init=False)
    tensors: dict[str, Tensor] = field(init=False)
    sums: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        """Make the views and copies of the model's tensors, and the sums of gradients."""
        self.wants_gradients = Gradients in self.needs
        self.statistics = {need: need.make() for need in self.needs if isinstance(need, Derivatives)}
        self.tensors, self.sums = {}, {}
        for name, tensor in self.weights.tensors.items():
            if name in self.weights.buffers:
                self.tensors[name] = tensor.clone()
                continue
            learnt = (self.wants_gradients or bool(self.statistics)) and tensor.is_floating_point()
            self.tensors[name] = tensor.detach().requires_grad_(learnt)
            if learnt:
                self.sums[name] = torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))

    def over(self, data: Iterable[Batch]) -> dict[Need, Any]:
        """Run over the data and return the result of each need."""
        samples, device = 0, device_of(self.model)
        passes = max((statistic.passes for statistic in self.statistics.values()), default=1)
        data = list(data) if passes > 1 else data
        with untouched(self.model) as stack:
            for number, batch in enumerate(data):
                if number == 0 and self.streams.streams:
                    probe(self.streams, self.model, lambda size, b=batch: self._forward(_few(b, size), 0))
                    self.streams.watch(self.model, stack)
                for part in batch.singles() if self.streams.folded else (batch,):
                    self._run(part, number)
                    self.streams.close(part.size, device)
                samples += batch.size
                self._differentiate(batch, number, 0)
            for turn in range(1, passes):
                for number, batch in enumerate(data):
                    self._differentiate(batch, number, turn)
        if not samples:
            msg = "data yielded no batch. Evidence is averaged over samples. Pass a loader that is not empty or spent."
            raise EvidenceError(msg)
        return {need: self._result(need, samples) for need in self.needs}

    def _differentiate(self, batch: Batch, number: int, turn: int) -> None:
        """Update the statistics that take part in this pass with a batch."""
        whole = Differentiable(
            {name: self.tensors[name] for name in self.sums},
            batch.size,
            lambda: self._forward(batch, number),
            lambda outputs: summed_loss(outputs, batch, self.loss, number),
        )
        for statistic in self.statistics.values():
            if turn < statistic.passes:
                with torch.enable_grad():
                    statistic.update(whole, turn)

    def _run(self, batch: Batch, number: int) -> None:
        """Run one forward pass, and one backward pass if a need requires gradients."""
        gated = any(isinstance(stream.need, GateGradients) for stream in self.streams.streams)
        if not (gated or self.wants_gradients):
            if self.statistics and not self.streams.streams:
                return
            with torch.no_grad():
                self._forward(batch, number)
            return
        with torch.enable_grad():
            total = summed_loss(self._forward(batch, number), batch, self.loss, number)
            leaves = [self.tensors[name] for name in self.sums] + self.streams.anchors
            if not total.requires_grad:
                msg = (
                    f"the loss of batch {number} does not depend on the model through differentiable operators. "
                    "There is no gradient to take. Check the loss, and that forward does not detach or use no_grad."
                )
                raise EvidenceError(msg)
            grads = torch.autograd.grad(total, leaves, allow_unused=True)
        for name, grad in zip(self.sums, grads, strict=False):
            if grad is not None:
                self.sums[name].add_(grad)

    def _forward(self, batch: Batch, number: int) -> Any:
        try:
            return functional_call(self.model, self.tensors, batch.args, dict(batch.kwargs))
        except Exception as error:
            msg = (
                f"the model did not run on batch {number}: {type(error).__name__}: {error}. Evidence is measured on "
                "batches like those the model was traced with. Check the structure, shapes and dtypes of the data."
            )
            raise EvidenceError(msg) from error

    def _result(self, need: Need, samples: int) -> Any:
        if need is Gradients:
            means = {name: sum_ / samples for name, sum_ in self.sums.items()}
            return Gradients(MappingProxyType(means), samples)
        if isinstance(need, Derivatives):
            return MappingProxyType(dict(self.statistics[need].result()))
        mine = [stream for stream in self.streams.streams if stream.need == need]
        return MappingProxyType({stream.group.name: stream.accumulator.result() for stream in mine})


def _few(batch: Batch, size: int) -> Batch:
    """The first one or two samples of a batch, repeating the only one if need be."""
    return batch.rows(torch.tensor([0, min(1, batch.size - 1)][:size]))
