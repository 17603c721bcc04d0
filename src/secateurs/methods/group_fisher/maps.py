"""ΔM of Group Fisher: the activation elements that one unit writes in a forward pass on the example inputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.graph import Graph, Group
from secateurs.graph.groups import Site
from secateurs.running.nested import as_call
from secateurs.running.untouched import untouched

Shapes = dict[str, list[tuple[int, ...]]]


def measure_elements(graph: Graph, model: nn.Module, example: Any, groups: Sequence[Group]) -> tuple[float, ...]:
    """Per group, elements of the output maps that one unit writes, over all layers and executions (ΔM).

    The model runs once, in eval mode and without a trace.
    """
    written = {g.name: [s for s in graph.sites(g.name) if s.writes and s.port == "output"] for g in groups}
    outputs: Shapes = {site.module: [] for found in written.values() for site in found}
    modules = dict(model.named_modules(remove_duplicate=False))
    args, kwargs = as_call(example)
    with untouched(model) as stack, torch.no_grad():
        for path in outputs:
            stack.callback(modules[path].register_forward_hook(partial(_note_output, outputs[path])).remove)
        model(*args, **kwargs)
    found = (sum(_per_unit(site, outputs[site.module]) for site in written[group.name]) for group in groups)
    return tuple(value or 1.0 for value in found)


def _per_unit(site: Site, shapes: Sequence[tuple[int, ...]]) -> float:
    """Elements per unit: the map without the units' dimension, times the positions that a unit owns there."""
    return sum(torch.Size(shape).numel() / shape[site.dim] * site.index.shape[1] for shape in shapes)


def _note_output(seen: list[tuple[int, ...]], module: nn.Module, args: Any, output: Any) -> None:
    if isinstance(output, Tensor):
        seen.append(tuple(output.shape))
