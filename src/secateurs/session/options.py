"""What drivers read off their methods."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from secateurs.session.importance import EarlyBird
from secateurs.session.penalties.orthogonal import Norm
from secateurs.session.rounds import Rounds
from secateurs.session.run import Run
from secateurs.session.schedule import Clock


class OrthoOptions(Protocol):
    """OrthoReg's settings."""

    @property
    def strength(self) -> float:
        """λ_o."""
        ...

    @property
    def norm(self) -> Norm:
        """Entry-wise L1, or squared."""
        ...

    @property
    def weighting(self) -> Literal["min", "rows"]:
        """What layer weights are the square root of."""
        ...

    @property
    def every(self) -> int:
        """The penalty acts at every so many steps, so many times as strongly."""
        ...

    @property
    def without_decay(self) -> bool:
        """Whether weight decay is zero meanwhile."""
        ...

    @property
    def rounds(self) -> Rounds:
        """How the removal is split."""
        ...

    @property
    def ortho_epochs(self) -> int:
        """Epochs with the penalty before each cut."""
        ...

    @property
    def retrain_epochs(self) -> int:
        """Epochs without it between rounds."""
        ...

    @property
    def epochs(self) -> int:
        """Epochs until the last cut."""
        ...

    @property
    def reduction(self) -> Literal["mean_then_square", "square_then_mean"]:
        """How gradients of batches become one score."""
        ...

    @property
    def samples(self) -> int:
        """Samples that importance is measured on."""
        ...

    @property
    def floor(self) -> float:
        """Share of each group's units that always stays."""
        ...

    @property
    def ticket(self) -> EarlyBird | None:
        """When to draw an early-bird ticket."""
        ...


class AdaptiveOptions(Protocol):
    """Adaptive Pruning's settings."""

    @property
    def until(self) -> float:
        """Share of the run in which filters may come and go."""
        ...

    @property
    def patience(self) -> int:
        """Rounds in a row that make a candidate."""
        ...

    @property
    def kappa(self) -> float:
        """Median absolute deviations below the median that make a candidate, at the start."""
        ...

    @property
    def redundant(self) -> float:
        """Correlation above which a unit is redundant."""
        ...

    @property
    def smooth(self) -> float:
        """ρ: memory of the running score."""
        ...

    @property
    def criterion(self) -> Literal["learned", "fixed"]:
        """Whether the combination of profits is learnt from probes."""
        ...

    @property
    def batches(self) -> int:
        """Batches that profits are measured on."""
        ...

    @property
    def probes(self) -> int:
        """Units of each group probed in a round."""
        ...

    @property
    def probe_samples(self) -> int:
        """Samples that a probe's loss is measured on."""
        ...

    @property
    def grows(self) -> bool:
        """Whether filters may be inserted."""
        ...

    @property
    def growth(self) -> float:
        """γ: share of a group that its first growth adds."""
        ...

    @property
    def folds(self) -> bool:
        """Whether removed filters' work is handed on."""
        ...

    def start_step(self, clock: Clock) -> int:
        """First step at which filters may come and go."""
        ...

    def round_steps(self, clock: Clock) -> int:
        """Steps between rounds."""
        ...

    def target_now(self, run: Run) -> NDArray[np.int64]:
        """The budget as it should stand at this step."""
        ...
