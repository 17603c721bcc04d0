"""`trace`: record a forward pass, label it, form groups, and try them on a shrunken copy until all trials hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from secateurs.errors import InputError, expect, near
from secateurs.graph.graph import Facts, Graph
from secateurs.graph.recording import failed_rules, record
from secateurs.graph.rules import table
from secateurs.graph.search import Finder
from secateurs.network import Network

if TYPE_CHECKING:
    from secateurs.graph.rules import Rules


def trace(
    model: nn.Module | Network, example_inputs: Any, *, protect: Iterable[str] = (), rules: Rules | None = None
) -> Graph:
    """Find every group of channels that must be removed together, and prove on a shrunken copy that removal is right.

    The model runs once on the meta device, in eval mode; where its training forward differs (auxiliary heads), that is
    recorded too. An operator that needs values (which boxes overlap) gets made-up ones; if values could decide which
    operators run, or which parameters are used, real tensors are traced. The model itself is left exactly as it was.

    Args:
        model: any eager `nn.Module`.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        protect: names of modules that stay as they are, with all inside: outputs and inputs.
        rules: operator -> rule, for operators of your own or of a library unknown here; see `secateurs.graph.rules`.

    Raises: ModelError or InputError before any work; TraceError if the model does not run on the example.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> graph = trace(net, torch.randn(1, 3, 8, 8))
    >>> graph.groups
    (Group('0', 8 units, 3 slices),)
    >>> graph.cost().params
    516
    """
    view = Network.of(model)
    shielded = _prefixes(view, protect)
    source, tapes, notes = record(view, example_inputs, table(rules))
    finder = Finder(view, source, tapes, shielded)
    if finder.may_branch():
        source, tapes, notes = record(view, example_inputs, table(rules), real=True)
        finder = Finder(view, source, tapes, shielded)
    units = finder.find()
    notes += failed_rules(finder.tapes) + units.notes
    facts = Facts(finder.shapes, finder.parameters, view.aliases, view.modules, tuple(notes))
    return Graph(units, source, facts)


def _prefixes(view: Network, protect: Iterable[str]) -> tuple[str, ...]:
    expect("protect", protect, Iterable, "Pass a list of module names.")
    if isinstance(protect, str):
        raise InputError(
            f"protect must be a list of module names, not the string {protect!r}: write protect=[{protect!r}]."
        )
    protect = tuple(protect)
    for name in protect:
        expect("protect", name, str, "Pass a list of module names.")
    names = [n for n in view.modules if n]
    for wanted in protect:
        if wanted not in names:
            raise InputError(f"protect names no module {wanted!r}: {near(wanted, names)}.")
    return protect
