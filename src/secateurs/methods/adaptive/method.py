"""Adaptive Pruning: our reconstruction, from the abstract, of a method whose full text could not be read."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from secateurs.errors import InputError, check_choice
from secateurs.methods.adaptive.driver import AdaptiveDriver
from secateurs.session.method import Driver
from secateurs.session.run import Run
from secateurs.session.schedule import Clock

Choice = Literal["learned", "fixed"]


@dataclass(frozen=True)
class AdaptivePruning:
    """Adaptive Pruning, our reconstruction from the abstract: filters are removed and inserted by their profit.

    According to the abstract, criteria are established during training from each filter's profit in its own layer and
    in the next one, and filters are also inserted, so that their number is found. Every formula here is ours:

    own profit P1 = √(η²·U): share of variance between classes, times share not explained by the other filters;
    next layer's profit P2: mean squared gate gradient at the consumers; s = w·log P1 + (1 − w)·log P2, with w
    fitted to measured changes of the loss ("learned") or ½ ("fixed"); s is averaged over rounds.
    Removed: `patience` rounds in a row κ median absolute deviations below the group's median, or correlated above
    `redundant` with a better filter; κ falls while the loss stays near its best. The mean contribution of
    removed filters is added to the layers that read them. Inserted: copies (`secateurs.grow`) in groups without weak or
    redundant filters, while the loss does not fall.

    A round every `round_epochs`, from `after` epochs to `until` of the run. With a budget, enough is removed in
    each round to reach it at `until`, and nothing is inserted above it; without one, the run ends at a stable number of
    filters. Needs data.

    kappa: initial number of deviations below the median at which a filter is weak. criterion: "learned" fits w.
    batches: batches that a round measures. grows: insert filters too. growth: share of a group's units that the first
    insertion adds; each later one adds four fifths of the one before. folds: compensate for removed filters. smooth:
    weight of earlier rounds in the averages. probes: units of a group that a round measures to fit w. probe_samples:
    samples for each of them.

    Raises InputError for values out of range.

    >>> AdaptivePruning().fitted(10, 30).round_epochs
    0.9
    """

    kappa: float = 2.0
    _: KW_ONLY
    patience: int = 3
    redundant: float = 0.95
    criterion: Choice = "learned"
    round_epochs: float = 0.25
    after: float = 5.0
    until: float = 0.7
    batches: int = 8
    grows: bool = True
    growth: float = 0.05
    folds: bool = True
    smooth: float = 0.7
    probes: int = 4
    probe_samples: int = 32
    reference: ClassVar[str] = (
        "Our reconstruction from the abstract of: Ahmadluei, Faez, Masoumi. Adaptive Pruning of Convolutional Neural "
        "Network. Journal of AI and Data Mining 11(1), 2023, 53-67. doi 10.22044/jadm.2022.12337.2380"
    )

    def __post_init__(self) -> None:
        check_choice(self, criterion=Choice)
        if not (self.round_epochs > 0 and self.after >= 0 and 0 < self.until <= 1 and self.patience >= 1):
            raise InputError(
                f"AdaptivePruning(round_epochs={self.round_epochs}, after={self.after}, until={self.until}, "
                f"patience={self.patience}): rounds take time, until is a share of the run, and patience counts "
                f"from 1."
            )

    @classmethod
    def preset(cls, name: Literal["published"] = "published") -> Self:
        """Raise InputError: only the abstract is known, so that there are no published settings."""
        raise InputError(
            f"AdaptivePruning has no preset {name!r}: only its paper's abstract could be read, and no code is known. "
            "Every formula and setting is our reconstruction. Use AdaptivePruning()."
        )

    def start_step(self, clock: Clock) -> int:
        """First step at which filters may be removed or inserted."""
        return int(self.after * clock.steps_per_epoch)

    def round_steps(self, clock: Clock) -> int:
        """Steps between rounds."""
        return max(1, round(self.round_epochs * clock.steps_per_epoch))

    def target_now(self, run: Run) -> NDArray[np.int64]:
        """The intermediate budget at this step: linear from the whole network to the target at the last round."""
        begin, rounds = self.start_step(run.clock), self.round_steps(run.clock)
        end = max(begin + rounds, int(self.until * run.clock.total) - rounds)
        share = min(1.0, max(0.0, (run.step - begin + rounds) / (end - begin + rounds)))
        dense = np.array([*vars(run.origin.cost()).values()], dtype=np.float64)
        goal = np.minimum(run.targets.astype(np.float64), dense)
        return np.ceil(dense + share * (goal - dense)).astype(np.int64)

    def fitted(self, steps_per_epoch: int, epochs: int) -> Self:
        """Return the method with about twenty rounds in the structural part of a run of this length."""
        begin = min(self.after, 0.1 * epochs)
        rounds = max(self.round_epochs, (self.until * epochs - begin) / 20.0, 1.0 / steps_per_epoch)
        return replace(self, after=begin, round_epochs=round(rounds, 3))

    def start(self, run: Run) -> Driver:
        """Draw the batches that profits are measured on; the model is not touched."""
        return AdaptiveDriver(run, self)
