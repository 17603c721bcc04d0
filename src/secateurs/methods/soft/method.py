"""Soft filter pruning: SFP, ASFP, SRFP and ASRFP are one method with a rate schedule and a decay schedule.

| method | share of the final rate at epoch t | factor of the selected filters at epoch t |
|---|---|---|
| SFP | 1 | 0 |
| ASFP | rises asymptotically | 0 |
| SRFP | 1 | decays from 1 to 0 |
| ASRFP | rises asymptotically | decays from 1 to 0 |

At the end of every `every`-th epoch the ⌊C·P(t)⌋ filters of a group with the smallest L2 norm are multiplied by
α(t); all filters train on, and the choice is made anew at the next event. After the last event α = 0 and P(t) = P.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal, Self

from secateurs.errors import InputError, check_choice
from secateurs.methods.soft.driver import SoftDriver
from secateurs.session.method import Driver, check_preset
from secateurs.session.run import Run
from secateurs.session.schedule import Asymptotic, Constant, ExponentialDecay, Schedule, ToZero
from secateurs.session.scope import Rates

Unit = Literal["filter", "weight"]
SoftScope = Literal["coupled", "uncoupled", "independent"]

_LINHANG_CAI = (
    "Linhang Cai, Zhulin An, Chuanguang Yang, Yongjun Xu. Softer Pruning, Incremental Regularization. arXiv 2010.09498"
)


@dataclass(frozen=True)
class SFP:
    """Soft filter pruning: the filters of smallest norm are zeroed after every epoch and may recover.

    Y. He et al. 2018. rate: the share of the final rate P that is selected at epoch t of T; decay: factor of the
    selected filters at epoch t. every: epochs between events. unit: "filter" or "weight" (zeros inside dense tensors).
    scope: "coupled" (ours: filters whose outputs are added are selected together, and removed at the end), "uncoupled"
    (groups with one producer), or "independent", the authors' masks: every convolution by itself, those of residual
    streams too, where zero filters stay as zeros; it takes remove= and no budget. norms: also scale the following
    norm's scale and shift, which makes the removal exact; the paper leaves them. remove: explicit removed shares (the
    paper's P for every layer) instead of the budget's.

    Raises InputError for values out of range.

    >>> SFP().rate(0, 200), SFP().decay(0, 200)
    (1.0, 0.0)
    """

    rate: Schedule = Constant()  # noqa: RUF009
    _: KW_ONLY
    decay: Schedule = ToZero()  # noqa: RUF009
    every: int = 1
    unit: Unit = "filter"
    scope: SoftScope = "coupled"
    norms: bool = False
    remove: Rates | None = None
    renamed: ClassVar[Mapping[str, str]] = {"scale_norm": "norms"}
    reference: ClassVar[str] = (
        "Yang He et al. Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks. IJCAI 2018. arXiv "
        "1808.06866"
    )

    def __post_init__(self) -> None:
        check_choice(self, unit=Unit, scope=SoftScope)
        if self.every < 1:
            raise InputError(
                f"every={self.every}: soft pruning acts every 1 or more epochs. Give a whole number from 1."
            )
        if self.scope == "independent" and (self.norms or self.unit != "filter"):
            raise InputError(
                f"scope='independent' with unit={self.unit!r}, norms={self.norms}: the authors' masks are of "
                "whole filters and leave the norms. Leave both out, or take scope='coupled'."
            )

    @classmethod
    def preset(cls, name: Literal["published"] = "published", *, remove: Rates = 0.3) -> Self:
        """Return the authors' code's settings: independent masks at the rate P = remove of every convolution.

        >>> ASFP.preset("published", remove=0.4).scope
        'independent'
        """
        check_preset(cls, name, ("published",))
        return cls(scope="independent", remove=remove)

    def fitted(self, steps_per_epoch: int, epochs: int) -> Self:
        """Return the method itself: its schedules are functions of the share of the run that is over."""
        return self

    def start(self, run: Run) -> Driver:
        """Find the filters and how many go; the model is touched when an optimizer is attached."""
        return SoftDriver(run, self)


@dataclass(frozen=True)
class ASFP(SFP):
    """Asymptotic soft filter pruning: SFP with a rate that grows, fast at first (Y. He et al. 2018).

    See `Asymptotic` for the schedule and `SFP` for the options.

    >>> round(ASFP().rate(25, 200), 6), ASFP().decay(25, 200)
    (0.75, 0.0)
    """

    rate: Schedule = Asymptotic()  # noqa: RUF009
    reference: ClassVar[str] = (
        "Yang He et al. Asymptotic Soft Filter Pruning for Deep Convolutional Neural Networks. "
        "IEEE Transactions on Cybernetics. arXiv 1808.07471, 2018"
    )


@dataclass(frozen=True)
class SRFP(SFP):
    """SofteR filter pruning: SFP with a factor that decays from one to zero (L. Cai et al. 2020).

    The abstract only says "monotonic decreasing"; the exponential is that of the first author's later code. See
    `ExponentialDecay` for the schedule and `SFP` for the options. With ExponentialDecay(start=0) it is SFP.

    >>> SRFP().rate(10, 200), round(SRFP().decay(10, 200), 3)
    (1.0, 0.562)
    """

    _: KW_ONLY
    decay: Schedule = ExponentialDecay()  # noqa: RUF009
    reference: ClassVar[str] = _LINHANG_CAI


@dataclass(frozen=True)
class ASRFP(SFP):
    """Asymptotic softer filter pruning: the rate grows as in ASFP and the factor decays as in SRFP (Cai et al. 2020).

    With ExponentialDecay(start=0) it is ASFP.

    >>> round(ASRFP().rate(25, 200), 6), round(ASRFP().decay(10, 200), 3)
    (0.75, 0.562)
    """

    rate: Schedule = Asymptotic()  # noqa: RUF009
    _: KW_ONLY
    decay: Schedule = ExponentialDecay()  # noqa: RUF009
    reference: ClassVar[str] = _LINHANG_CAI
