"""GReg-1 and GReg-2: a growing L2 penalty drives chosen filters towards zero before they are removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar, Literal, Self

from secateurs.errors import InputError, check_choice
from secateurs.graph.groups import Role
from secateurs.methods.greg.driver import GrowingDriver
from secateurs.methods.greg.growth import GrowingL2, Growth
from secateurs.session.method import Driver, check_preset
from secateurs.session.run import Run
from secateurs.session.scope import Rates
from secateurs.types import Scope

Unit = Literal["filter", "weight"]

REFERENCE = (
    "Huan Wang, Can Qin, Yulun Zhang, Yun Fu. Neural Pruning via Growing Regularization. ICLR 2021. arXiv 2012.09243"
)


RENAMED = {"ratio": "kept_over_removed"}
"""Settings of earlier versions and their present names, for messages about old recipes."""

_GROWTH = Growth(step=1e-4, ceiling=1.0, every=10)
_PICK = Growth(step=1e-5, ceiling=0.01, every=10)

Preset = Literal["published", "published-imagenet"]
_PRESETS = {"published": (10, 10_000), "published-imagenet": (5, 40_000)}
"""Steps between rises, and steps to stabilise."""


@dataclass(frozen=True)
class GReg1:
    """GReg-1: the smallest filters are chosen at once; their penalty grows until they are negligible.

    Every `growth.every` steps the factor of the chosen units rises by `growth.step`; each step adds factor·W to their
    gradient. A group is finished when the factor exceeds `growth.ceiling` or the mean magnitude of its kept units is
    `kept_over_removed` times that of the chosen ones (smoothed by 0.9); then `stabilise` steps follow, and the units
    are removed.

    Score: mean |W| of a filter (of coupled producers: the mean over members). Defaults are those of the paper's
    ImageNet code but for `growth.every`, 10 as in its CIFAR commands (5 for ImageNet) and `stabilise` (40 000 for
    ImageNet).

    unit: "filter" or "weight" (zeros inside dense tensors). scope: "uncoupled" keeps the paper's layers, groups
    with one producer. norms: also penalise the following norm's scale and shift, which the paper does not. remove:
    explicit removed shares instead of the budget's. decoupled: None follows the optimizer (decoupled under Adam).

    Raises InputError for values out of range.

    >>> GReg1().steps, GReg1().fitted(10, 30).steps
    (110001, 148)
    """

    growth: Growth = _GROWTH
    _: KW_ONLY
    stabilise: int = 10_000
    kept_over_removed: float = 1000.0
    unit: Unit = "filter"
    scope: Scope = "coupled"
    norms: bool = False
    remove: Rates | None = None
    decoupled: bool | None = None
    reference: ClassVar[str] = REFERENCE
    renamed: ClassVar[Mapping[str, str]] = RENAMED

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def preset(cls, name: Preset = "published") -> Self:
        """Return the authors' code's settings: those of its CIFAR commands ("published"), or of ImageNet.

        >>> GReg1.preset("published-imagenet").growth.every
        5
        """
        check_preset(cls, name, _PRESETS)
        every, stabilise = _PRESETS[name]
        return cls(replace(_GROWTH, every=every), stabilise=stabilise, scope="uncoupled")

    @property
    def steps(self) -> int:
        """Optimizer steps until removal, if `kept_over_removed` does not end the growth earlier."""
        return self.growth.steps + self.stabilise

    def fitted(self, steps_per_epoch: int, epochs: int) -> Self:
        """Return the schedule scaled to a run: 40 % of its steps to grow, 10 % to stabilise, 50 % to recover."""
        total = steps_per_epoch * epochs
        if self.steps <= total // 2:
            return self
        every = max(1, min(self.growth.every, total // 100))
        return replace(
            self,
            growth=_scaled(self.growth, total * 4 // 10, every),
            stabilise=min(self.stabilise, max(1, total // 10)),
        )

    def start(self, run: Run) -> Driver:
        """Choose the smallest units by the present weights, and start the driver."""
        return GrowingDriver(
            run, self, GrowingL2(self.growth, None, 0.0, self.kept_over_removed, _roles(norms=self.norms))
        )


@dataclass(frozen=True)
class GReg2:
    """GReg-2: a small penalty on all filters separates them by curvature; then the smallest are chosen, as in GReg-1.

    While picking, the factor of every unit rises by `pick.step` up to `pick.ceiling`. Flat directions shrink fastest,
    d ln|w| / dλ = −1/(h + λ), so that magnitudes then sort by curvature. After that the chosen units' factor rises
    from there by `growth.step`, and the kept units' factor is *set* to `recover`, a constant negative penalty (from the
    authors' code; the paper's wording is unknown).

    Raises InputError for values out of range.

    >>> GReg2().steps
    119001
    """

    growth: Growth = _GROWTH
    _: KW_ONLY
    pick: Growth = _PICK
    recover: float = -1e-4
    stabilise: int = 10_000
    kept_over_removed: float = 1000.0
    unit: Unit = "filter"
    scope: Scope = "coupled"
    norms: bool = False
    remove: Rates | None = None
    decoupled: bool | None = None
    reference: ClassVar[str] = REFERENCE
    renamed: ClassVar[Mapping[str, str]] = RENAMED

    def __post_init__(self) -> None:
        _check(self)
        if self.pick.ceiling >= self.growth.ceiling or self.pick.every != self.growth.every:
            raise InputError(
                f"GReg2: picking up to {self.pick.ceiling} every {self.pick.every} steps does not lead into growth "
                f"up to {self.growth.ceiling} every {self.growth.every}. One factor rises through both. Give pick a "
                "lower ceiling and the same every."
            )

    @classmethod
    def preset(cls, name: Preset = "published") -> Self:
        """Return the authors' code's settings: those of its CIFAR commands ("published"), or of ImageNet."""
        check_preset(cls, name, _PRESETS)
        every, stabilise = _PRESETS[name]
        growth, pick = replace(_GROWTH, every=every), replace(_PICK, every=every)
        return cls(growth, pick=pick, stabilise=stabilise, scope="uncoupled")

    @property
    def steps(self) -> int:
        """Optimizer steps until removal, if `kept_over_removed` does not end the growth earlier."""
        picks = self.pick.climbs
        rises = Growth(step=self.growth.step, ceiling=self.growth.ceiling - self.pick.factor(picks)).rises
        return (picks + rises - 1) * self.growth.every + 1 + self.stabilise

    def fitted(self, steps_per_epoch: int, epochs: int) -> Self:
        """Return the schedule scaled to a run: 10 % of its steps to pick, 30 % to grow, 10 % to stabilise."""
        total = steps_per_epoch * epochs
        if self.steps <= total // 2:
            return self
        every = max(1, min(self.growth.every, total // 100))
        growth, pick = _scaled(self.growth, total * 3 // 10, every), _scaled(self.pick, total // 10, every)
        return replace(self, growth=growth, pick=pick, stabilise=min(self.stabilise, max(1, total // 10)))

    def start(self, run: Run) -> Driver:
        """Start the driver; units are chosen when picking ends."""
        penalty = GrowingL2(self.growth, self.pick, self.recover, self.kept_over_removed, _roles(norms=self.norms))
        return GrowingDriver(run, self, penalty)


def _roles(*, norms: bool) -> tuple[Role, ...]:
    return ("out", "bias", "scale", "shift") if norms else ("out",)


def _scaled(growth: Growth, steps: int, every: int) -> Growth:
    """The same ceiling, passed within `steps`: larger rises."""
    return Growth(
        step=max(growth.step, growth.ceiling / max(1, (steps - 1) // every)), ceiling=growth.ceiling, every=every
    )


def _check(method: GReg1 | GReg2) -> None:
    check_choice(method, unit=Unit, scope=Scope)
    if method.stabilise < 0 or method.kept_over_removed <= 1.0:
        raise InputError(
            f"GReg with stabilise={method.stabilise}, kept_over_removed={method.kept_over_removed}: stabilise counts "
            "steps (0 or more), and kept_over_removed divides the mean magnitude of the kept units by that of the "
            "others, so that it is above 1."
        )
