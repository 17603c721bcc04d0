"""Auxiliary classifiers on intermediate features: fitted once, then added to a loss, without touching the model."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateurs.errors import EvidenceError, InputError
from secateurs.evidence import Reads
from secateurs.graph import Graph
from secateurs.graph.groups import Site
from secateurs.running.batches import cross_entropy, read_batch
from secateurs.running.hooks import hooked
from secateurs.running.untouched import device_of, untouched
from secateurs.types import Loss

RIDGE = 1e-3
"""Weight of the squared norm of a classifier's coefficients, beside its mean cross entropy on standardised features."""

Classifier = tuple[Tensor, Tensor]
"""Weight [classes, channels] and bias [classes], on pooled features."""


@contextmanager
def with_classifiers(
    graph: Graph, model: nn.Module, data: Sequence[Any], *, count: int, loss: Loss | None
) -> Generator[Loss]:
    """Add the losses of `count` auxiliary classifiers to a loss, for as long as the context lasts.

    The classifiers are spread evenly over the modules that read prunable units, in forward order. Each is a softmax
    regression on the mean of the module's input over positions, fitted to `data` by L-BFGS (deterministic), and then
    fixed. Yields a loss of (outputs, targets): the given one plus the sum of theirs.
    """
    places = spread(graph, count)
    seen: dict[str, Tensor] = {}

    def keep(place: Site) -> Any:
        def note(x: Tensor) -> Tensor:
            seen[place.module] = _pooled(x, place.dim)
            return x

        return note

    def total(outputs: Any, targets: Any) -> Tensor:
        value = (loss or cross_entropy)(outputs, targets)
        for place in places:
            weight, bias = fitted[place.module]
            x = seen[place.module]
            value = value + F.cross_entropy(F.linear(x, weight.to(x), bias.to(x)), targets)
        return value

    with ExitStack() as stack:
        for place in places:
            stack.enter_context(hooked(model, (place.module, "input"), keep(place)))
        features, targets = _observed(model, data, seen)
        fitted = {name: fit(x, targets) for name, x in features.items()}
        yield total


def spread(graph: Graph, count: int) -> tuple[Site, ...]:
    """Choose `count` of the modules that read prunable units, evenly in forward order."""
    found: dict[str, Site] = {}
    for group in graph.groups:
        for site in Reads()(graph.sites(group.name)):
            found.setdefault(site.module, site)
    if len(found) < count:
        message = (
            f"auxiliary={count} classifiers do not fit: {len(found)} modules read prunable units. Each needs one. "
            "Ask for fewer."
        )
        raise InputError(message)
    sites = tuple(found.values())
    return tuple(sites[(k + 1) * len(sites) // (count + 1)] for k in range(count))


def fit(x: Tensor, targets: Tensor) -> Classifier:
    """Fit a softmax regression of classes [n] on features [n, channels]: mean cross entropy plus a small ridge."""
    x = x.to(torch.float64)
    mean, std = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    z = (x - mean) / std
    weight = torch.zeros(int(targets.max()) + 1, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(len(weight), dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(z, weight, bias), targets) + RIDGE * weight.square().sum()
        value.backward()  # pyright: ignore[reportUnknownMemberType]
        return value

    with torch.enable_grad():
        optimizer.step(closure)  # pyright: ignore[reportUnknownMemberType, reportArgumentType]
    scaled = weight.detach() / std
    return scaled, bias.detach() - scaled @ mean


def _observed(model: nn.Module, data: Sequence[Any], seen: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """Run the model over the data; return the pooled features by module, and the targets."""
    features: dict[str, list[Tensor]] = {}
    targets: list[Tensor] = []
    with untouched(model), torch.no_grad():
        for number, raw in enumerate(data):
            batch = read_batch(raw, number, device_of(model))
            if not isinstance(batch.targets, Tensor) or batch.targets.dim() != 1 or batch.targets.is_floating_point():
                message = (
                    f"the targets of batch {number} are no class indices. Auxiliary classifiers are fitted to classes. "
                    "Yield (inputs, class indices), or set auxiliary=0."
                )
                raise EvidenceError(message)
            model(*batch.args, **batch.kwargs)
            targets.append(batch.targets)
            for name, x in seen.items():
                features.setdefault(name, []).append(x)
    if not targets:
        message = (
            "data yielded no batch. Auxiliary classifiers are fitted to it. Pass a loader that is not empty or spent."
        )
        raise EvidenceError(message)
    return {name: torch.cat(parts) for name, parts in features.items()}, torch.cat(targets)


def _pooled(x: Tensor, dim: int) -> Tensor:
    """Mean over all but samples (dimension 0) and channels."""
    moved = x.movedim(dim, 1)
    return moved.flatten(2).mean(2) if moved.dim() > 2 else moved
