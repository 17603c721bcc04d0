"""Numbers that differ from layer to layer: by a pattern of module paths, or by the class of a module."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from secateurs.errors import BudgetError, RecipeError, near
from secateurs.graph.groups import Group
from secateurs.types import is_integer

Pattern = str | type[nn.Module]


@dataclass(frozen=True)
class ByLayer:
    """A number for each module that writes units: pairs (pattern, number).

    A pattern is the path of a module, for all in it too, with `*` for any part of it (`layer4.*`, `*.conv1`), or a
    class, for modules of it and all in them (`nn.Linear`, or a class of your own). Of the patterns that match a module
    a path goes before a class, a longer path before a shorter one, and an inner class before an outer one.

    >>> ByLayer.read("min_keep", {"layer4.*": 32, nn.Linear: 8})
    {'layer4.*': 32, Linear: 8}
    """

    numbers: tuple[tuple[Pattern, int], ...]

    @staticmethod
    def read(what: str, value: Any) -> Any:
        """Return a mapping of patterns as `ByLayer`, checked; leave anything else as it is."""
        if not isinstance(value, Mapping):
            return value
        for pattern, number in value.items():
            known = isinstance(pattern, str) or (isinstance(pattern, type) and issubclass(pattern, nn.Module))
            if not known:
                msg = f"{what} names {pattern!r}, which is no pattern of paths and no class of modules. Give either."
                raise BudgetError(msg)
            if not is_integer(number) or number < 1:
                msg = f"{what}={number!r} of {_name(pattern)} is no whole number of units. Give an int of at least 1."
                raise BudgetError(msg)
        if not value:
            msg = f"{what}={{}} names no layer. Leave it out, or give a pattern and a number."
            raise BudgetError(msg)
        return ByLayer(tuple((pattern, int(number)) for pattern, number in value.items()))

    def __repr__(self) -> str:
        """The mapping that it was made from."""
        return f"{{{', '.join(f'{_name(pattern)}: {number}' for pattern, number in self.numbers)}}}"

    def of(self, what: str, graph: Any) -> dict[str, tuple[int, ...]]:
        """Return, for each group by name, the numbers of the modules that write it; none where no pattern matches.

        what: the name of the option, for messages; graph: a `Graph`, or a part of one.

        Raises RecipeError for a pattern that matches no module which writes a group of the network.
        """
        whole = getattr(graph, "whole", graph)
        used: set[Pattern] = set()
        found: dict[str, tuple[int, ...]] = {}
        for group in whole.groups:
            chosen = [best for path in _writers(group) if (best := self._best(path, group.name, whole, used))]
            found[group.name] = tuple(number for _, number in chosen)
        for pattern, _ in self.numbers:
            if pattern not in used:
                paths = {path for group in whole.groups for path in _writers(group)}
                classes = {type(whole.modules[path]).__name__ for path in paths if path in whole.modules}
                known = paths if isinstance(pattern, str) else classes
                name = pattern if isinstance(pattern, str) else pattern.__name__
                msg = f"{what} of {_name(pattern)} matches no module that writes a prunable group: {near(name, known)}"
                raise RecipeError(msg)
        return found

    def _best(self, path: str, group: str, graph: Any, used: set[Pattern]) -> tuple[tuple[int, ...], int] | None:
        """Return the nearness of the nearest pattern to a module, and its number."""
        nearest: tuple[tuple[int, ...], int] | None = None
        for pattern, number in self.numbers:
            near_by = _nearness(pattern, path, group, graph)
            if near_by is not None:
                used.add(pattern)
                if nearest is None or near_by > nearest[0]:
                    nearest = near_by, number
        return nearest


def combined(numbers: Iterable[int]) -> int:
    """Return the number that all of some are divisors of.

    >>> combined((4, 6)), combined(())
    (12, 1)
    """
    return math.lcm(*numbers)


def _nearness(pattern: Pattern, path: str, group: str, graph: Any) -> tuple[int, ...] | None:
    """Larger is nearer; None where the pattern does not match."""
    if isinstance(pattern, str):
        match = pattern == group or fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")
        return (1, len(pattern)) if match else None
    for depth, around in _around(path):
        module = graph.modules.get(around)
        if isinstance(module, pattern):
            return (0, depth, -type(module).__mro__.index(pattern))
    return None


def _around(path: str) -> Iterator[tuple[int, str]]:
    """A module's path and those of the modules around it, each with its depth; the innermost first."""
    parts = path.split(".") if path else []
    for depth in range(len(parts), -1, -1):
        yield depth, ".".join(parts[:depth])


def _writers(group: Group) -> list[str]:
    """The modules whose outputs a group removes."""
    return list(dict.fromkeys(s.tensor.rpartition(".")[0] for s in group.slices if s.role != "in"))


def _name(pattern: object) -> str:
    return pattern.__name__ if isinstance(pattern, type) else repr(pattern)
