"""`secateurs inspect`: list a network's groups, its protected channels with reasons, and its cost."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import secateurs as sct
from secateurs.app import models
from secateurs.app.cli.requests import Inspection
from secateurs.app.report.summary import in_bytes, in_units
from secateurs.errors import InputError

MOST_NUMBERS, MOST_CLASSES = 2**27, 10**6
"""Limits of an input's size, beyond which memory would not be enough."""

MOST_NAMES = 3
"""Number of tensors or operators that are named for each reason."""


def inspect(question: Inspection, console: Console) -> None:
    """Show the groups of channels of a network, its protected channels with reasons, and the cost of a forward pass."""
    shape = shape_of(question)
    channels = shape[1] if len(shape) > 1 else 1
    model = models.build(question.model, in_channels=channels, num_classes=question.classes).eval()
    graph = sct.trace(model, torch.zeros(shape), protect=question.protect)
    if question.json:
        console.print_json(json.dumps(_figures(graph)))
        return
    cost, units = graph.cost(), sum(group.units for group in graph.groups)
    console.print(_groups(graph, f"{escape(question.model)} on {'x'.join(map(str, shape))}"))
    console.print(_protected(graph))
    for note in graph.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print(
        f"{len(graph.groups)} groups of {units:,} units. One forward pass: [bold]{in_units(cost.macs)}[/] MACs, "
        f"[bold]{in_units(cost.params)}[/] parameters, [bold]{in_bytes(cost.memory)}[/] of activations.",
        highlight=False,
    )


def _figures(graph: sct.Graph) -> dict[str, Any]:
    """Return the contents of the tables, unshortened."""
    dense = graph.cost()
    return {
        "macs": dense.macs,
        "params": dense.params,
        "memory": dense.memory,
        "groups": [
            {
                "name": group.name,
                "units": group.units,
                "macs_a_unit": saved,
                "exact": group.exact,
                "inexact_because": list(group.inexact_because),
                "tensors": sorted({s.tensor for s in group.slices}),
            }
            for group, saved in zip(graph.groups, _saved(graph), strict=True)
        ],
        "protected": [{"tensor": p.tensor, "dim": p.dim, "reason": p.reason} for p in graph.protected],
        "notes": list(graph.notes),
    }


def _saved(graph: sct.Graph) -> list[int]:
    """Return the multiply-accumulates that one unit of each group costs."""
    dense, whole = graph.widths, graph.cost().macs
    found: list[int] = []
    for place in range(len(graph.groups)):
        one_less = dense.copy()
        one_less[place] -= 1
        found.append(whole - int(graph.costs.at(one_less)[0]))
    return found


def shape_of(question: Inspection) -> tuple[int, ...]:
    """Return the shape of the network's input; checks all arguments before the network is built."""
    models.check_name(question.model)
    shape = _shape(question.input) if question.input else models.native_shape(question.model)
    if shape is None:
        raise InputError(f"{question.model} names no input that it was made for; give its shape: --input 1x3x224x224")
    if math.prod(shape) > MOST_NUMBERS:
        raise InputError(f"--input {question.input} holds over {MOST_NUMBERS:,} numbers; a smaller one shows the same")
    if not 1 <= question.classes <= MOST_CLASSES:
        raise InputError(f"--classes {question.classes} is no number of classes; give one from 1 to {MOST_CLASSES:,}")
    return shape


def _groups(graph: sct.Graph, title: str) -> Table:
    """Table of removable groups, with the costs of one unit of each."""
    shown = Table(title=title, box=box.SIMPLE_HEAVY, title_style="bold", title_justify="left", pad_edge=False)
    shown.add_column("group")
    for heading in ("units", "MACs a unit", "tensors"):
        shown.add_column(heading, justify="right")
    shown.add_column("removal is silence", overflow="fold")
    for group, saved in zip(graph.groups, _saved(graph), strict=True):
        tensors = len({s.tensor for s in group.slices})
        exact = "yes" if group.exact else f"no: {_first(group.inexact_because, '; ')}"
        shown.add_row(escape(group.name), str(group.units), in_units(saved), str(tensors), exact)
    return shown


def _protected(graph: sct.Graph) -> Table:
    """Table of protected tensors, by reason."""
    shown = Table(title="protected", box=box.SIMPLE_HEAVY, title_style="bold", title_justify="left", pad_edge=False)
    shown.add_column("why", ratio=3, overflow="fold")
    shown.add_column("tensors", ratio=2, overflow="fold")
    reasons: dict[str, list[str]] = {}
    for entry in graph.protected:
        reasons.setdefault(_sentence(entry.reason), []).append(f"{escape(entry.tensor)} [dim]dim {entry.dim}[/]")
    for reason, places in reasons.items():
        shown.add_row(escape(reason), _first(places, ", "))
    return shown


def _first(names: Sequence[str], between: str) -> str:
    """Return the first names, and the number of the others.

    >>> _first("abcde", ", ")
    'a, b, c, and 2 more'
    """
    more = [f"and {len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return between.join([*names[:MOST_NAMES], *more])


def _sentence(reason: str) -> str:
    return reason[:1].upper() + reason[1:]


def _shape(text: str) -> tuple[int, ...]:
    """Parse a shape.

    >>> _shape("1x3x32x32")
    (1, 3, 32, 32)
    """
    if not re.fullmatch(r"\d+(x\d+)*", text) or 0 in (sizes := tuple(map(int, text.split("x")))):
        raise InputError(f"--input {text} is no shape; write sizes above 0 joined by x, for example 1x3x224x224")
    return sizes
