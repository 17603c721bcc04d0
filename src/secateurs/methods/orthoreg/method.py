"""OrthoReg: train filters towards orthonormality, so that single-filter importances add up to that of a set."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar, Literal, Self

from secateurs.errors import InputError, check_choice
from secateurs.methods.orthoreg.driver import OrthoRegDriver
from secateurs.methods.orthoreg.importance import EarlyBird, Reduction
from secateurs.methods.orthoreg.orthogonality import Norm, Weighting
from secateurs.session.method import Driver, check_preset
from secateurs.session.run import Run


@dataclass(frozen=True)
class OrthoReg:
    """OrthoReg: penalised epochs, then a cut of the least important filters of the whole network, in rounds.

    Penalty: `strength`·Σ_l w_l Σ|G_l − I| on the smaller Gram side of every convolution, weight decay off meanwhile;
    w_l ∝ √filters, of 1×1 convolutions √(input channels). Importance: (Σ θ·g)² of a filter, g the mean gradient over
    `samples` samples, or over all data where there are fewer ("mean_then_square", the published code);
    "square_then_mean" squares per batch. Global ranking with no normalisation; at least `floor` of every group stays
    (the published code protects the last filters of a layer there, by mistake, and on ResNets none; here the best).

    Defaults: one round of 25 penalised epochs, then retraining: the published early-bird setting with its fixed ticket
    epoch. `ticket=EarlyBird()` instead cuts when masks are stable. rounds: for iterative pruning; of n rounds that
    remove the share p in all, round k removes p / (k·p + n·(1 − p)) of the remaining. The number of rounds in the
    paper's tables, and its learning rates under Adam, are unknown.

    strength: of the penalty, 1e-2 (VGG, ResNet) or 1e-3 (MobileNet). norm: of G − I, "l1" or "squared". weighting:
    definition of w_l, "published" or "smaller-side". every: steps between penalties. without_decay: no weight
    decay in penalised epochs. ortho_epochs: penalised epochs before a cut. retrain_epochs: epochs between the rounds.
    reduction: of the samples' gradients, see above.

    Raises InputError for values out of range.

    >>> OrthoReg().epochs, OrthoReg(rounds=2).epochs
    (25, 130)
    """

    strength: float = 1e-2
    _: KW_ONLY
    norm: Norm = "l1"
    weighting: Weighting = "published"
    every: int = 1
    without_decay: bool = True
    rounds: int = 1
    ortho_epochs: int = 25
    retrain_epochs: int = 80
    reduction: Reduction = "mean_then_square"
    samples: int = 10_000
    floor: float = 0.05
    ticket: EarlyBird | None = None
    reference: ClassVar[str] = (
        "Ekdeep Singh Lubana, Puja Trivedi, Conrad Hougen, Robert P. Dick, Alfred O. Hero. OrthoReg: Robust Network "
        "Pruning Using Orthonormality Regularization. arXiv 2009.05014"
    )

    def __post_init__(self) -> None:
        check_choice(self, norm=Norm, weighting=Weighting, reduction=Reduction)
        if min(self.ortho_epochs, self.rounds, self.every, self.samples) < 1 or self.retrain_epochs < 0:
            raise InputError(
                f"OrthoReg(rounds={self.rounds}, ortho_epochs={self.ortho_epochs}, "
                f"retrain_epochs={self.retrain_epochs}, every={self.every}, samples={self.samples}): rounds, epochs "
                "with the penalty, its interval and the samples count from 1."
            )

    @property
    def epochs(self) -> int:
        """Epochs until the last cut."""
        return self.rounds * self.ortho_epochs + (self.rounds - 1) * self.retrain_epochs

    @classmethod
    def preset(cls, name: Literal["published", "published-resnet", "published-mobilenet"] = "published") -> Self:
        """Return the authors' code's settings: early-bird tickets of VGG ("published"), ResNets or MobileNets.

        On ResNets the code has no floor (one filter of a layer stays, as here) and never prunes the stem: exclude it.

        >>> OrthoReg.preset("published-mobilenet").strength, OrthoReg.preset("published-resnet").floor
        (0.001, 0.0)
        """
        check_preset(cls, name, ("published", "published-resnet", "published-mobilenet"))
        strength = 1e-3 if name == "published-mobilenet" else 1e-2
        return cls(strength=strength, floor=0.0 if name == "published-resnet" else 0.05)

    def fitted(self, steps_per_epoch: int, epochs: int) -> Self:
        """Return the rounds scaled to a run: about a third of its epochs with the penalty, and half to recover."""
        n = self.rounds
        ortho = max(1, min(self.ortho_epochs, epochs // (3 * n)))
        spare = max(0, epochs // 2 - n * ortho)
        return replace(self, ortho_epochs=ortho, retrain_epochs=min(self.retrain_epochs, spare // max(1, n - 1)))

    def start(self, run: Run) -> Driver:
        """Check the length of the run and the data; the model is not changed."""
        return OrthoRegDriver(run, self)
