"""New values of module attributes under a plan: counts that the forward uses, and sizes of standard modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateurs.graph.fitting import fitting
from secateurs.graph.integers import held, rebuilt
from secateurs.graph.label_arrays import chosen
from secateurs.graph.propagate import Misaligned

if TYPE_CHECKING:
    from torch import nn

    from secateurs.graph.grouping import Units
    from secateurs.network import Network
    from secateurs.types import Mask


def follow_values(units: Units, modules: dict[str, nn.Module], keep: Mask) -> dict[tuple[str, str], Any]:
    """Return (module path, attribute) -> value, for attributes that count kept units, or describe such a width."""
    values: dict[tuple[str, str], Any] = {}
    for f in units.follows:
        of = units.units(f.labels)
        count = int(chosen(keep, of).sum())
        old = held(modules[f.module], f.attribute)
        value = (count,) if isinstance(old, (tuple, list)) else count
        if values.setdefault((f.module, f.attribute), value) != value:
            raise Misaligned(
                f"{f.module}.{f.attribute} would have to be both {values[f.module, f.attribute]} and {value}"
            )
    for f in units.described:
        key = f.module, f.attribute
        count = int(chosen(keep, units.units(f.labels)).sum())
        if key not in values and count != held(modules[f.module], f.attribute):
            values[key] = count
    return values


def follow_patches(units: Units, view: Network, keep: Mask, kept: Any) -> dict[tuple[int, str], Any]:
    """Return (id of a module, attribute) -> the value that the shrunken twin needs."""
    places: dict[str, dict[str, Any]] = {}
    for (path, place), value in follow_values(units, view.modules, keep).items():
        places.setdefault(path, {})[place] = value
    for path in {name.rpartition(".")[0] for name, _ in kept}:
        if path in view.modules:
            places[path] = _fitted(view, path, kept, places.get(path, {}))
    return {
        (id(view.modules[path]), name): value
        for path, found in places.items()
        for name, value in rebuilt(view.modules[path], found).items()
    }


def _fitted(view: Network, path: str, kept: Any, follows: dict[str, Any]) -> dict[str, Any]:
    """Return the attribute values that `apply` would write into a module whose tensors shrink."""
    module = view.modules[path]

    def shape_of(name: str) -> tuple[int, ...] | None:
        first = f"{path}.{name}" if path else name
        first = view.aliases.get(first, first)
        if first not in view.tensors:
            return None
        shape = view.tensors[first].shape
        return tuple(len(kept[first, d]) if (first, d) in kept else n for d, n in enumerate(shape))

    return {**fitting(module, shape_of, lambda name: follows.get(name, getattr(module, name))), **follows}
