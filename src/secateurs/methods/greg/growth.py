"""GReg's growing L2 penalty: a factor per unit that rises by a fixed step, kept as a whole number of steps."""

from __future__ import annotations

from dataclasses import dataclass

from secateurs.errors import InputError


@dataclass(frozen=True)
class Growth:
    """A penalty factor that grows by `step` every `every` optimizer steps until `ceiling`.

    The factor after n rises is n·step, a product and not a sum of n terms: 10 000 additions of 1e-4 in float32
    drift, and the ceiling would be crossed an update early or late. Source: Wang et al. 2021 (GReg, arXiv
    2012.09243), published code.

    >>> growth = Growth(step=1e-4, ceiling=1.0, every=10)
    >>> growth.rises, growth.steps, growth.factor(100)
    (10001, 100001, 0.01)
    """

    step: float
    ceiling: float
    every: int = 1

    def __post_init__(self) -> None:
        if not (self.step > 0.0 and self.ceiling > 0.0 and self.every >= 1):
            raise InputError(f"{self}: step and ceiling must be positive, and every at least 1.")

    @property
    def rises(self) -> int:
        """Rises until the factor exceeds the ceiling."""
        return int(self.ceiling / self.step + 1e-9) + 1

    @property
    def steps(self) -> int:
        """Optimizer steps until the factor exceeds the ceiling; the first rise is at the first step."""
        return (self.rises - 1) * self.every + 1

    def factor(self, rises: int) -> float:
        """The factor after `rises` rises."""
        return rises * self.step
