"""What one forward pass on the example inputs shows of the maps that units are written to and read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.evidence.purity import untouched
from secateurs.graph import Graph, Group
from secateurs.graph.inputs import as_call
from secateurs.graph.values import Site

Shapes = dict[str, list[tuple[int, ...]]]


@dataclass(frozen=True)
class Maps:
    """elements: per group, elements of the output maps that one unit writes, over all layers and executions (ΔM).

    rows: per module that reads units, rows of its input per sample: 1, or the number of windows or tokens folded into
    the batch; missing where calls of the module differ.
    """

    elements: tuple[float, ...]
    rows: dict[str, int]


def measure_maps(graph: Graph, model: nn.Module, example: Any, groups: Sequence[Group]) -> Maps:
    """Run the model once, in eval mode and without a trace, and read off the shapes."""
    sites = {group.name: graph.sites(group.name) for group in groups}
    written = {g: [s for s in found if s.writes and s.port == "output"] for g, found in sites.items()}
    read = {s.module for found in sites.values() for s in found if s.reads and s.port == "input"}
    outputs: Shapes = {site.module: [] for found in written.values() for site in found}
    inputs: Shapes = {path: [] for path in read}
    modules = dict(model.named_modules(remove_duplicate=False))
    args, kwargs = as_call(example)
    with untouched(model) as stack, torch.no_grad():
        for path in outputs:
            stack.callback(modules[path].register_forward_hook(partial(_note_output, outputs[path])).remove)
        for path in inputs:
            stack.callback(modules[path].register_forward_pre_hook(partial(_note_input, inputs[path])).remove)
        model(*args, **kwargs)
    samples = samples_of((*args, *kwargs.values())) or 1
    elements = (sum(_per_unit(site, outputs[site.module]) for site in written[group.name]) for group in groups)
    rows = {path: {shape[0] for shape in shapes} for path, shapes in inputs.items()}
    even = {
        path: found.pop() // samples for path, found in rows.items() if len(found) == 1 and not min(found) % samples
    }
    return Maps(tuple(value or 1.0 for value in elements), even)


def samples_of(inputs: tuple[Any, ...]) -> int | None:
    """The batch size of a forward call: rows of its first tensor, or the length of a list of images.

    >>> samples_of((torch.zeros(4, 3),)), samples_of(([torch.zeros(3, 5, 5)] * 2,)), samples_of(())
    (4, 2, None)
    """
    for value in inputs:
        if isinstance(value, Tensor) and value.dim() > 0:
            return value.shape[0]
        if isinstance(value, list | tuple) and value:
            return len(value)  # pyright: ignore[reportUnknownArgumentType]
    return None


def _per_unit(site: Site, shapes: Sequence[tuple[int, ...]]) -> float:
    """Elements per unit: the map without the units' dimension, times the positions that a unit owns there."""
    return sum(torch.Size(shape).numel() / shape[site.dim] * site.index.shape[1] for shape in shapes)


def _note_output(seen: list[tuple[int, ...]], module: nn.Module, args: Any, output: Any) -> None:
    if isinstance(output, Tensor):
        seen.append(tuple(output.shape))


def _note_input(seen: list[tuple[int, ...]], module: nn.Module, args: Any) -> None:
    if args and isinstance(args[0], Tensor):
        seen.append(tuple(args[0].shape))
