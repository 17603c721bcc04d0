"""Numeric proof, where labels are not enough: outputs with units zeroed against outputs with units removed, in float64.

Weights are random, so that a difference shows with probability one: a scale that the user initialised to zero hides
nothing. It is used only when the proof by labels fails on a plan whose groups are all exact: at a width of one, for
example, some operators take another path that is equally right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from secateurs.graph.following import follow_patches
from secateurs.graph.prove import surviving
from secateurs.graph.twin import quiet, twin_of
from secateurs.running.aside import aside
from secateurs.running.nested import find_tensors, map_tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from secateurs.graph.grouping import Units
    from secateurs.graph.source import Source
    from secateurs.network import Network
    from secateurs.running.replica import Replica
    from secateurs.types import Mask


_TOLERANCE = 1e-9


def agrees(units: Units, source: Source, view: Network, alive: Mask, keep: Mask) -> bool:
    """True if the shrunken and the masked copy have equal outputs on random weights and inputs."""
    kept = surviving(units, alive, keep)
    patches = follow_patches(units, view, keep, kept)

    def compare(_: Callable[[], None]) -> bool:
        draw = torch.Generator().manual_seed(0)
        values = {name: _random(tensor, draw) for name, tensor in view.tensors.items()}
        silent = {id(t): _silent(name, values[name], kept, units) for name, t in view.tensors.items()}
        small = {id(t): _small(name, values[name], kept) for name, t in view.tensors.items()}
        call = map_tensors((source.args, source.kwargs), lambda t: _random_input(t, draw))
        with quiet(view, real=True):
            masked = _outputs(twin_of(view, silent), call)
            pruned = None if masked is None else _outputs(twin_of(view, small, attributes=patches), call)
        if masked is None or pruned is None:
            return False
        return len(masked) == len(pruned) and all(_equal(a, b) for a, b in zip(masked, pruned, strict=True))

    return aside(compare)


def _outputs(replica: Replica, call: Any) -> list[Tensor] | None:
    """Outputs of a twin on copies of the inputs; None if it does not run."""
    args, kwargs = map_tensors(call, Tensor.clone)
    try:
        return find_tensors(replica.model(*args, **kwargs))
    except (RuntimeError, ValueError, IndexError, AssertionError, TypeError):
        return None


def runs(units: Units, source: Source, view: Network, alive: Mask, keep: Mask) -> bool:
    """True if the shrunken twin runs, and its outputs have the shapes of the whole network's."""
    kept = surviving(units, alive, keep)
    patches = follow_patches(units, view, keep, kept)
    whole = source.tape(view)
    small = source.tape(view, kept=kept, attributes=patches)
    return small.error is None and [t.shape for t in small.outputs] == [t.shape for t in whole.outputs]


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    scale = float(a.abs().max()) if a.numel() else 0.0
    return a.numel() == 0 or bool((a - b).abs().max() <= _TOLERANCE * max(scale, 1e-300))


def _random(tensor: Tensor, draw: torch.Generator) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.detach().clone()
    if tensor.dim() < 2:
        value = torch.rand(tensor.shape, generator=draw, dtype=torch.float64) + 0.5
    else:
        fan_in = max(tensor[0].numel(), 1)
        value = torch.randn(tensor.shape, generator=draw, dtype=torch.float64) / fan_in**0.5
    return value.to(tensor.device)


def _random_input(tensor: Tensor, draw: torch.Generator) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.detach()
    return torch.randn(tensor.shape, generator=draw, dtype=torch.float64).to(tensor.device)


def _small(name: str, value: Tensor, kept: Any) -> Tensor:
    for dim in range(value.dim()):
        if (name, dim) in kept:
            value = value.index_select(dim, torch.as_tensor(kept[name, dim], device=value.device))
    return value


def _silent(name: str, value: Tensor, kept: Any, units: Units) -> Tensor:
    value = value.clone()
    for dim in range(value.dim()):
        if (name, dim) in kept and units.roles.get((name, dim)) != "direction":
            gone = np.setdiff1d(np.arange(value.shape[dim]), kept[name, dim])
            value.index_fill_(dim, torch.as_tensor(gone, device=value.device), 0)
    return value
