"""Obstacles: the reasons for which channels are never removed, the one that keeps most of them first."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from secateurs.graph.groups import Protected


class Obstacle(NamedTuple):
    """A reason, with its operator, module and source line, and the channels that it keeps, by tensor.

    >>> str(Obstacle("it is an output of the model", {"a.weight": 3, "b.weight": 5}))
    '8 channels (b.weight and 1 more) are never removed: it is an output of the model'
    """

    reason: str
    tensors: Mapping[str, int]

    @property
    def channels(self) -> int:
        """Number of protected channels."""
        return sum(self.tensors.values())

    def __str__(self) -> str:
        """Number of channels, largest tensor, and reason."""
        largest = max(self.tensors, key=lambda name: self.tensors[name])
        others = f" and {len(self.tensors) - 1} more" if len(self.tensors) > 1 else ""
        return f"{self.channels} channels ({largest}{others}) are never removed: {self.reason}"


def obstacles(
    protected: Iterable[Protected], roles: Mapping[tuple[str, int], str], shapes: Mapping[str, tuple[int, ...]]
) -> list[Obstacle]:
    """List the reasons of protections. Channels are counted along the dimensions that filters and their like lie in."""
    kept: dict[str, dict[str, int]] = {}
    for p in protected:
        role = roles.get((p.tensor, p.dim))
        if role == "out" or (role is None and p.dim == 0 and len(shapes[p.tensor]) > 1):
            kept.setdefault(p.reason, {})[p.tensor] = int(p.index.size)
    return sorted((Obstacle(*found) for found in kept.items()), key=lambda o: -o.channels)
