"""IncReg: incremental regularisation, a penalty factor for every group of weights that moves with its rank."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar, Literal, Self

from secateurs.errors import InputError, check_choice
from secateurs.methods.increg.driver import IncRegDriver
from secateurs.methods.increg.punish import Punish
from secateurs.session.method import Driver, check_preset
from secateurs.session.run import Run
from secateurs.session.scope import Rates
from secateurs.types import Scope

Unit = Literal["filter", "column"]


@dataclass(frozen=True)
class IncReg:
    """Incremental regularisation: unimportant units' penalty factors rise, important ones' fall, until the ceiling.

    At every step, per layer (or coupled group) with R units still to lose:
    a = Σ|W|, its rank r among the units, h the mean of r over all steps, ρ the rank of h among the remaining units;
    λ ← max(λ + A·Δ(ρ), 0), gradient += λ·W, and a unit with λ ≥ T is zero from then on. punish: Δ, see `Punish`.

    Source: the authors' Caffe code. step = A = half of a weight decay of 5e-4 (the run's weight decay is to be half
    the usual one, too); ceiling = T; the code multiplies T by a factor of the stage, 2.45 for the first 20 %. limit:
    steps (ours): units near R hardly move, so after this many steps those of lowest mean rank are removed.

    unit: "column", the paper's im2col columns (masks; an input channel whose columns are all zero is removed with the
    filters that feed it), or "filter": coupled filters, with one factor per coupled group and the mean over members
    of their mean |W| as score (ours). remove: explicit shares. scope: "coupled", or "uncoupled" for groups with
    one producer only. decoupled: None follows the optimizer (decoupled under Adam).

    Raises InputError for values out of range.

    >>> IncReg().fitted(10, 30).limit
    150
    """

    step: float = 2.5e-4
    _: KW_ONLY
    ceiling: float = 2.5
    punish: Punish = Punish()  # noqa: RUF009
    limit: int = 30_000
    unit: Unit = "filter"
    scope: Scope = "coupled"
    remove: Rates | None = None
    decoupled: bool | None = None
    reference: ClassVar[str] = (
        "Huan Wang et al. Structured Pruning for Efficient ConvNets via Incremental Regularization. "
        "IJCNN 2019. arXiv 1804.09461"
    )

    def __post_init__(self) -> None:
        check_choice(self, unit=Unit, scope=Scope)
        if not (self.step > 0 and self.ceiling > 0) or self.limit < self.ceiling / self.step:
            raise InputError(
                f"IncReg(step={self.step}, ceiling={self.ceiling}, limit={self.limit}): no unit can reach the ceiling "
                "in fewer than ceiling/step steps. Give positive numbers and a limit of at least "
                f"{math.ceil(self.ceiling / self.step) if self.step > 0 else 'that'}."
            )

    @classmethod
    def preset(cls, name: Literal["published", "paper-commit"] = "published") -> Self:
        """Return the authors' code's settings: im2col columns, T times the factor 2.45 of a first stage of 20 %.

        "paper-commit": with R + 1 in the punish function, as in the commit that says it reproduces the paper.

        >>> IncReg.preset().unit, IncReg.preset("paper-commit").punish.paper_commit
        ('column', True)
        """
        check_preset(cls, name, ("published", "paper-commit"))
        return cls(ceiling=6.13, punish=Punish(paper_commit=name == "paper-commit"), unit="column", scope="uncoupled")

    def fitted(self, steps_per_epoch: int, epochs: int) -> Self:
        """Return the schedule scaled to a run: the limit at half of it, and the ceiling within a third of that."""
        limit = max(1, steps_per_epoch * epochs // 2)
        return self if self.limit <= limit else replace(self, limit=limit, step=3.0 * self.ceiling / limit)

    def start(self, run: Run) -> Driver:
        """Find the units and their number to remove; the model is not changed."""
        return IncRegDriver(run, self)
