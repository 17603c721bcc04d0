"""Schedules of a rate, a decay or a target over a run, as printable values.

A rate schedule maps (t, total) to the share of the final rate, 0 → 1. A decay schedule maps (t, total) to the
factor that selected weights are multiplied by, 1 → 0. Any function of these two
arguments can be used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from secateurs.errors import InputError

Schedule = Callable[[float, float], float]
"""(position, total) → value; both in the same unit, usually epochs."""


@dataclass(frozen=True)
class Clock:
    """`steps_per_epoch` and `epochs` of a run: every position of a schedule is a function of the step number alone.

    Raises InputError for numbers that are not whole and at least 1.

    >>> clock = Clock(steps_per_epoch=10, epochs=3)
    >>> clock.total, clock.epoch(10), clock.ends_epoch(10), clock.ends_epoch(11)
    (30, 1.0, True, False)
    """

    steps_per_epoch: int
    epochs: int

    def __post_init__(self) -> None:
        for name, value in (("steps_per_epoch", self.steps_per_epoch), ("epochs", self.epochs)):
            if not isinstance(value, int) or value < 1:
                raise InputError(
                    f"{name} is {value!r}. Every schedule is a function of the step, so the length of the run must be "
                    f"known. Give {name} as a whole number of at least 1, for example {name}=10."
                )

    @property
    def total(self) -> int:
        """Optimizer steps in the whole run."""
        return self.steps_per_epoch * self.epochs

    def epoch(self, step: int) -> float:
        """Epochs done after `step` optimizer steps."""
        return step / self.steps_per_epoch

    def at(self, step: int) -> Position:
        """Return the position after `step` optimizer steps."""
        return Position(step, self.total)

    def ends_epoch(self, step: int, every: int = 1) -> bool:
        """True if `step` steps complete an epoch whose number is a multiple of `every`, or the run."""
        whole, rest = divmod(step, self.steps_per_epoch)
        return step > 0 and (step == self.total or (rest == 0 and whole % every == 0))


@dataclass(frozen=True)
class Position:
    """Position in a run: `step` of `total` optimizer steps are done.

    >>> Position(step=5, total=20).share
    0.25
    """

    step: int
    total: int

    @property
    def share(self) -> float:
        """Share of the run that is done."""
        return self.step / self.total


@dataclass(frozen=True)
class Constant:
    """The full rate from the start (SFP, SRFP).

    >>> Constant()(0, 200)
    1.0
    """

    def __call__(self, t: float, total: float) -> float:
        """The value at position `t` of `total`."""
        return 1.0


@dataclass(frozen=True)
class Asymptotic:
    """Fast at first, then slow: share(t) = 1 − exp(−k·t), k = ln 4 / (at·T), three quarters of the rate after `at`·T.

    Source: He et al. 2018 (ASFP, arXiv 1808.07471); the closed form is that of the SRFP authors' code. `exact`
    solves the three points (0, 0), (at·T, ¾), (T, 1) instead of the closed form, which only approaches 1. From
    `snap`·T on the share is 1 (0.95 in the CIFAR script, 0.9 in the ImageNet script), so that all filters are
    selected in spite of rounding. at: share of the run at which three quarters of the rate are reached.

    Raises InputError for values out of range.

    >>> [round(0.4 * Asymptotic()(t, 200), 3) for t in (0, 5, 10, 25, 50, 100, 150)]
    [0.0, 0.097, 0.17, 0.3, 0.375, 0.398, 0.4]
    """

    at: float = 0.125
    _: KW_ONLY
    snap: float = 0.95
    exact: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.at < 0.75:
            # The exact form is concave only below the diagonal's ¾.
            raise InputError(f"Asymptotic(at={self.at}): the position of three quarters must lie between 0 and 0.75.")

    def __call__(self, t: float, total: float) -> float:
        """The value at position `t` of `total`."""
        x = t / total
        if x >= self.snap:
            return 1.0
        if not self.exact:
            return 1.0 - 4.0 ** (-x / self.at)
        k = _three_point_rate(self.at)
        return (1.0 - math.exp(-k * x)) / (1.0 - math.exp(-k))


@dataclass(frozen=True)
class OneShot:
    """The whole share at the first round: share(k) = 1.

    >>> OneShot()(1, 10)
    1.0
    """

    def __call__(self, t: float, total: float) -> float:
        """The share after round `t` of `total`."""
        return 1.0


@dataclass(frozen=True)
class Linear:
    """Equal shares: share(k) = k/n after round k of n.

    >>> Linear()(5, 10)
    0.5
    """

    def __call__(self, t: float, total: float) -> float:
        """The share after round `t` of `total`."""
        return min(t / total, 1.0)


@dataclass(frozen=True)
class Cubic:
    """Large shares first: share(k) = 1 − (1 − k/n)³; Zhu & Gupta 2017 (arXiv 1710.01878), equation 1.

    >>> Cubic()(5, 10), Cubic()(10, 10)
    (0.875, 1.0)
    """

    def __call__(self, t: float, total: float) -> float:
        """The share after round `t` of `total`."""
        return 1.0 - (1.0 - min(t / total, 1.0)) ** 3


@dataclass(frozen=True)
class Exponential:
    """Each round removes the same fraction of the units still to be removed, down to 1 %: share(k) ∝ 1 − 100^(−k/n).

    >>> round(Exponential()(5, 10), 4), Exponential()(10, 10)
    (0.9091, 1.0)
    """

    def __call__(self, t: float, total: float) -> float:
        """The share after round `t` of `total`."""
        return (1.0 - 100.0 ** (-min(t / total, 1.0))) / 0.99


@dataclass(frozen=True)
class ToZero:
    """Selected weights are set to zero at once (SFP, ASFP).

    >>> ToZero()(0, 100)
    0.0
    """

    def __call__(self, t: float, total: float) -> float:
        """The value at position `t` of `total`."""
        return 0.0


@dataclass(frozen=True)
class ExponentialDecay:
    """Exponential decay α(t) = α0·exp(−κ·t), κ = −ln(σ / (α0 + σ/100)) / T; 0 from `cut`·T on and below `below`.

    Source: the SRFP first author's later code (GHFP/PGMPF); the SRFP paper's abstract only says "monotonic
    decreasing". `start` is α0 (with 0 it is SFP), `floor` is σ, `cut` is 0.9 in the CIFAR script and 0.8 in the
    ImageNet ones.

    >>> [round(ExponentialDecay()(t, 100), 4) for t in (0, 1, 2, 3, 5, 10, 90)]
    [1.0, 0.8913, 0.7943, 0.7079, 0.5623, 0.3162, 0.0]
    """

    start: float = 1.0
    _: KW_ONLY
    floor: float = 1e-5
    cut: float = 0.9
    below: float = 0.0

    def __call__(self, t: float, total: float) -> float:
        """The value at position `t` of `total`."""
        if self.start == 0.0 or t >= self.cut * total:
            return 0.0
        kappa = -math.log(self.floor / (self.start + 0.01 * self.floor)) / total
        alpha = self.start * math.exp(-kappa * t)
        return alpha if alpha >= self.below else 0.0


def count(units: int, rate: float) -> int:
    """Number of `units` that a removal rate selects: floor(units·rate), robust to rounding, at least one kept.

    >>> count(40, 1 - 0.9), count(10, 1.0)
    (4, 9)
    """
    return max(0, min(units - 1, math.floor(units * rate + 1e-9)))


def count_up(units: int, rate: float) -> int:
    """Number of `units` that a removal rate asks for: ceil(units·rate), robust to rounding, at least one kept.

    >>> count_up(100, 0.55), count_up(10, 1.0)
    (55, 9)
    """
    return max(0, min(units - 1, math.ceil(units * rate - 1e-9)))


def _three_point_rate(at: float) -> float:
    """Solve (1 − e^{−k·at}) / (1 − e^{−k}) = ¾ for k > 0 by bisection: the left side rises from `at` to 1."""
    low, high = 1e-9, 200.0 / at
    for _ in range(200):
        mid = 0.5 * (low + high)
        if math.expm1(-mid * at) / math.expm1(-mid) < 0.75:
            low = mid
        else:
            high = mid
    return 0.5 * (low + high)
