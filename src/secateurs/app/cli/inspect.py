"""`secateurs inspect`: list a network's groups, its protected channels with reasons, and its cost."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import secateurs as sct
from secateurs.app import models
from secateurs.app.cli.flags import setting
from secateurs.app.report.summary import in_bytes, in_units
from secateurs.errors import InputError

MOST_NUMBERS, MOST_CLASSES = 2**27, 10**6
"""Limits of an input's size, beyond which memory would not be enough."""

MOST_NAMES = 3
"""Number of tensors or operators that are named for each reason."""


@final
@dataclass(frozen=True)
class Question:
    """Arguments of `secateurs inspect`: a network and the shape of its input."""

    model: str = setting(f"the network ({', '.join(models.NAMES)})", "MODEL")
    input: str = setting("shape of an input; what the network was made for, if known", "1x3x224x224", default="")
    classes: int = setting("classes it tells apart", "N", default=10)
    protect: tuple[str, ...] = setting("modules to leave whole", "MODULE", default=())


def inspect(question: Question, console: Console) -> None:
    """Show the groups of channels of a network, its protected channels with reasons, and the cost of one forward pass.

    Weights do not matter.

    example:
      secateurs inspect torchvision:mobilenet_v3_large --input 1x3x224x224
    """
    shape = shape_of(question)
    channels = shape[1] if len(shape) > 1 else 1
    model = models.build(question.model, in_channels=channels, num_classes=question.classes).eval()
    graph = sct.trace(model, torch.zeros(shape), protect=question.protect)
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


def shape_of(question: Question) -> tuple[int, ...]:
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
    dense, whole = graph.widths, graph.cost().macs
    for place, group in enumerate(graph.groups):
        one_less = dense.copy()
        one_less[place] -= 1
        saved = whole - int(graph.costs.at(one_less)[0])
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
