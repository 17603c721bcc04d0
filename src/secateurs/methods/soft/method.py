"""Soft filter pruning: SFP, ASFP, SRFP and ASRFP, one engine with a rate schedule and a decay schedule.

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

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from secateurs.methods.soft.driver import SoftDriver, Softness
from secateurs.session.method import Driver
from secateurs.session.run import Run
from secateurs.session.schedule import Asymptotic, Constant, ExponentialDecay, Schedule, ToZero
from secateurs.session.scope import Rates
from secateurs.types import Scope

Unit = Literal["filter", "weight"]


class AbstractSoft(ABC):
    """What the four methods share: how they start."""

    @property
    @abstractmethod
    def softness(self) -> Softness:
        """The method as two schedules and its options."""

    def start(self, run: Run) -> Driver:
        """Find the filters and how many go; the model is touched when an optimizer is attached."""
        return SoftDriver(run, self.softness)

    def fitted(self, steps_per_epoch: int, epochs: int) -> Self:
        """Return the method itself: its schedules are functions of the share of the run that is over."""
        return self


@dataclass(frozen=True)
class SFP(AbstractSoft):
    """Soft filter pruning: the weakest filters are zeroed after every epoch and may grow back.

    Y. He et al. 2018. unit: "filter" or "weight" (zeros inside dense tensors). scope: "uncoupled" keeps groups with
    one producer. scale_norm: also scale the following norm's scale and shift, which makes the removal exact; the
    paper leaves them. remove: explicit removed shares (the paper's P for every layer) instead of the budget's.

    >>> SFP().softness.rate(0, 200), SFP().softness.decay(0, 200)
    (1.0, 0.0)
    """

    every: int = 1
    unit: Unit = "filter"
    scope: Scope = "coupled"
    scale_norm: bool = False
    remove: Rates | None = None
    reference: ClassVar[str] = (
        "Yang He et al. Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks. IJCAI 2018. arXiv "
        "1808.06866"
    )

    @property
    def softness(self) -> Softness:
        """The full rate from the start, at once to zero."""
        return Softness(Constant(), ToZero(), self.every, self.unit, self.scope, self.scale_norm, self.remove)


@dataclass(frozen=True)
class ASFP(AbstractSoft):
    """Asymptotic soft filter pruning: the rate grows, fast at first, and the weakest filters are zeroed.

    Y. He et al. 2018; see `Asymptotic` for the schedule and `SFP` for the options.

    >>> round(ASFP().softness.rate(25, 200), 6)
    0.75
    """

    rate: Schedule = Asymptotic()  # noqa: RUF009
    every: int = 1
    unit: Unit = "filter"
    scope: Scope = "coupled"
    scale_norm: bool = False
    remove: Rates | None = None
    reference: ClassVar[str] = (
        "Yang He et al. Asymptotic Soft Filter Pruning for Deep Convolutional Neural Networks. "
        "IEEE Transactions on Cybernetics. arXiv 1808.07471"
    )

    @property
    def softness(self) -> Softness:
        """A rising rate, at once to zero."""
        return Softness(self.rate, ToZero(), self.every, self.unit, self.scope, self.scale_norm, self.remove)


@dataclass(frozen=True)
class SRFP(AbstractSoft):
    """SofteR filter pruning: the weakest filters are multiplied by a factor that decays from one to zero.

    L. Cai et al. 2020. The abstract only says "monotonic decreasing"; the exponential is that of the first author's
    later code. See `ExponentialDecay` for the schedule and `SFP` for the options. With ExponentialDecay(start=0) it
    is SFP.

    >>> round(SRFP().softness.decay(10, 200), 3)
    0.562
    """

    decay: Schedule = ExponentialDecay()  # noqa: RUF009
    every: int = 1
    unit: Unit = "filter"
    scope: Scope = "coupled"
    scale_norm: bool = False
    remove: Rates | None = None
    reference: ClassVar[str] = (
        "Linhang Cai, Zhulin An, Chuanguang Yang, Yongjun Xu. Softer Pruning, Incremental Regularization. "
        "arXiv 2010.09498"
    )

    @property
    def softness(self) -> Softness:
        """The full rate from the start, slowly to zero."""
        return Softness(Constant(), self.decay, self.every, self.unit, self.scope, self.scale_norm, self.remove)


@dataclass(frozen=True)
class ASRFP(AbstractSoft):
    """Asymptotic softer filter pruning: the rate grows as in ASFP and the factor decays as in SRFP.

    L. Cai et al. 2020. With ExponentialDecay(start=0) it is ASFP.

    >>> round(ASRFP().softness.rate(25, 200), 6), round(ASRFP().softness.decay(10, 200), 3)
    (0.75, 0.562)
    """

    rate: Schedule = Asymptotic()  # noqa: RUF009
    decay: Schedule = ExponentialDecay()  # noqa: RUF009
    every: int = 1
    unit: Unit = "filter"
    scope: Scope = "coupled"
    scale_norm: bool = False
    remove: Rates | None = None
    reference: ClassVar[str] = SRFP.reference

    @property
    def softness(self) -> Softness:
        """A rising rate, slowly to zero."""
        return Softness(self.rate, self.decay, self.every, self.unit, self.scope, self.scale_norm, self.remove)
