"""Names in questions to `explain`: the output channels of a module, those of a tensor, or the units of a group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from secateurs.errors import InputError, near
from secateurs.graph.explanation import Piece

if TYPE_CHECKING:
    from secateurs.graph.graph import Graph
    from secateurs.graph.groups import Group


def asked_of(graph: Graph, name: str, index: int | Iterable[int]) -> list[Piece]:
    """Return the entries that a name means, or those of its channels `index`.

    A group whose units no module writes (rows of a parameter used as a matrix) is named after a module or tensor whose
    own output channels are others: the group is meant then; those are asked about by the tensor's whole name.

    Raises InputError for a name that means nothing, an index outside, and indices where a module writes several widths.
    """
    tensor = graph.aliases.get(name, name)
    shapes = graph.signature
    wanted = _indices(name, index)
    group = next((g for g in graph.groups if g.name == name), None)
    if group is not None and all(s.role != "out" for s in group.slices):
        return [_of_group(group, wanted)]
    if tensor in shapes:
        keys = [(tensor, _out(graph, tensor))] if shapes[tensor] else []
    elif name in graph.modules:
        keys = _written(graph, name)
    elif group is not None:
        return [_of_group(group, wanted)]
    else:
        known = {*graph.modules, *shapes, *(g.name for g in graph.groups)} - {""}
        close = near(name, known).partition("Known: ")[0] or "secateurs inspect lists the groups"
        raise InputError(f"{name!r} is no module, tensor or group of this graph: {close.strip()}")
    if not keys:
        raise InputError(f"{name!r} has no channels: no parameter or buffer of it has a dimension. Name another.")
    if wanted and len({shapes[t][d] for t, d in keys}) > 1:
        widths = ", ".join(f"{t} ({shapes[t][d]})" for t, d in keys)
        raise InputError(f"{name!r} writes several widths: {widths}. Name one of these tensors.")
    return [Piece(t, d, _checked(name, wanted, shapes[t][d])) for t, d in keys]


def _indices(name: str, index: int | Iterable[int]) -> tuple[int, ...]:
    values = (index,) if isinstance(index, int) else tuple(index)
    if any(isinstance(i, bool) or not hasattr(i, "__index__") for i in values):
        raise InputError(f"The channels of {name!r} are {values!r}. Give whole numbers, such as [3, 5].")
    return tuple(sorted({int(i) for i in values}))


def _checked(name: str, wanted: tuple[int, ...], size: int) -> tuple[int, ...]:
    outside = [i for i in wanted if not 0 <= i < size]
    if outside:
        raise InputError(f"{name!r} has channels 0 to {size - 1}, and no channel {outside[0]}. Give one of these.")
    return wanted or tuple(range(size))


def _out(graph: Graph, tensor: str) -> int:
    """The dimension of a tensor in which its channels lie."""
    roles = graph.inside[0].roles
    dims = range(len(graph.signature[tensor]))
    return next((d for d in dims if roles.get((tensor, d)) == "out"), 0)


def _written(graph: Graph, module: str) -> list[tuple[str, int]]:
    """The dimensions that a module and those in it write: of filters, if it has any, else of whatever it holds."""
    own = [t for t, shape in graph.signature.items() if t.startswith(f"{module}." if module else "") and shape]
    own = [t for t in own if t not in graph.aliases]
    many = [t for t in own if len(graph.signature[t]) > 1]
    return [(t, _out(graph, t)) for t in many or own]


def _of_group(group: Group, wanted: tuple[int, ...]) -> Piece:
    units = _checked(group.name, wanted, group.units)
    found = next((s for s in group.slices if s.role == "out"), group.slices[0])
    return Piece(found.tensor, found.dim, tuple(sorted(int(i) for i in found.index[list(units)].ravel())))
