"""Alignment: multiples that runtimes are fast on, by the width of a group."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Alignment:
    """Widths become multiples of the first of `steps` that goes at least twice into the group; none does: any width.

    Kernels that keep 8 or 16 channels of an image together (oneDNN's and ONNX Runtime's blocked layouts) fill a block
    up with zeros, or give way to slower ones, where a width is no multiple. A group of 40 gets 16, 32 or its own 40.

    >>> [Alignment().of(units) for units in (1280, 32, 31, 16, 15)]
    [16, 16, 8, 8, 1]
    """

    steps: tuple[int, ...] = (16, 8)

    def of(self, units: int) -> int:
        """Return the number that the width of a group of this many units is a multiple of."""
        return next((step for step in self.steps if units >= 2 * step), 1)

    def __str__(self) -> str:
        """Words for the multiples.

        >>> str(Alignment()), str(Alignment((8,)))
        ('multiples of 16 (of 8 in groups below 32; any in groups below 16)', 'multiples of 8 (any in groups below 16)')
        """
        first, *rest = self.steps
        edges = zip(self.steps, rest, strict=False)
        words = [f"of {small} in groups below {2 * large}" for large, small in edges]
        return f"multiples of {first} ({'; '.join([*words, f'any in groups below {2 * self.steps[-1]}'])})"
