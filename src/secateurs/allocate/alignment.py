"""Alignment: the multiple that a group's width is rounded to, depending on how wide the group is."""

from __future__ import annotations

from dataclasses import dataclass

from secateurs.errors import BudgetError


@dataclass(frozen=True)
class Alignment:
    """Round widths to multiples that depend on the width of the group.

    steps: pairs (units, multiple), the widest first: a group of at least so many units gets that multiple; below the
    last pair any width is allowed. Kernels that store 8 or 16 channels together (the blocked layouts of oneDNN and ONNX
    Runtime) pad incomplete blocks with zeros, or are replaced by slower kernels. Narrow groups have the smaller
    multiple, so that several widths remain to choose from. Raises BudgetError for steps of another form.

    >>> [Alignment().of(units) for units in (1280, 128, 127, 16, 15)]
    [16, 16, 8, 8, 1]
    """

    steps: tuple[tuple[int, int], ...] = ((128, 16), (16, 8))

    def __post_init__(self) -> None:
        """Refuse steps that are not pairs (units, multiple)."""
        least = [units for units, _ in self.steps]
        if not self.steps or least != sorted(set(least), reverse=True) or any(m < 1 for _, m in self.steps):
            msg = (
                f"steps={self.steps!r} are not pairs (units, multiple), the widest first, such as ((128, 16), (16, 8))."
            )
            raise BudgetError(msg)

    def of(self, units: int) -> int:
        """Return the number that the width of a group of this many units is a multiple of."""
        return next((multiple for least, multiple in self.steps if units >= least), 1)

    @property
    def finest(self) -> int:
        """The smallest multiple."""
        return min(multiple for _, multiple in self.steps)

    def __str__(self) -> str:
        """Describe the multiples in words.

        >>> str(Alignment()), str(Alignment(((16, 8),)))
        ('multiples of 16 (8 in groups below 128, any in groups below 16)', 'multiples of 8 (any in groups below 16)')
        """
        below = [least for least, _ in self.steps]
        then = [str(multiple) for _, multiple in self.steps[1:]] + ["any"]
        rest = ", ".join(f"{word} in groups below {least}" for word, least in zip(then, below, strict=True))
        return f"multiples of {self.steps[0][1]} ({rest})"
