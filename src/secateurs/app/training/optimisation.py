"""Training settings as one frozen value: SGD, its learning rate, and the options of a training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from secateurs.app.choices import Precision
from secateurs.app.training.rates import Rate
from secateurs.errors import InputError


@final
@dataclass(frozen=True)
class Stepping:
    """Options of a training step, besides SGD itself.

    precision: of the forward and backward pass. channels_last: images and weights with their channels last in memory.
    accumulate: batches whose gradients are summed before a step. clip: largest norm of all gradients together; None
    for no clipping. ema: the decay of an exponential moving average of the weights, which is validated and kept in
    the weights' place (Polyak and Juditsky 1992); 0 keeps the weights themselves.
    mixup, cutmix: the parameter of the Beta distribution by which two images of a batch are mixed (Zhang et al. 2018,
    arXiv:1710.09412), or one is pasted into the other (Yun et al. 2019, arXiv:1905.04899); 0 mixes none; of both, one
    is drawn for each batch.

    >>> Stepping(accumulate=4).steps(batches=10)
    3
    """

    precision: Precision = "32-true"
    channels_last: bool = False
    accumulate: int = 1
    clip: float | None = None
    ema: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.accumulate < 1:
            raise InputError(f"accumulate={self.accumulate} is a number of batches a step: 1 or more")
        if self.clip is not None and not 0 < self.clip < float("inf"):
            raise InputError(f"clip={self.clip} is the largest norm of the gradients: a number above 0")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema={self.ema} is the decay of an average: from 0 (none) to below 1, for example 0.999")
        for name, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if not 0 <= value < float("inf"):
                raise InputError(f"{name}={value} is a parameter of a Beta distribution: 0 (none) or more")

    def steps(self, batches: int) -> int:
        """The optimizer steps of an epoch of so many batches."""
        return -(-batches // self.accumulate)


@final
@dataclass(frozen=True)
class Optimisation:
    """SGD with momentum, and how its learning rate moves from step to step.

    lr: the peak rate. decay_norms: let biases and norms' scales and shifts decay as well, as papers' codes do.
    label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016, arXiv:1512.00567).

    >>> Optimisation(epochs=20, lr=0.1).momentum
    0.9
    """

    epochs: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    rate: Rate = Rate()  # noqa: RUF009 (frozen)
    nesterov: bool = True
    decay_norms: bool = False
    label_smoothing: float = 0.0
    stepping: Stepping = Stepping()

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.epochs < 0:
            raise InputError(f"{self.epochs} epochs cannot be trained; ask for 0 (none) or more")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"a learning rate of {self.lr} trains nothing; choose one above 0, for example 0.1")
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"a weight decay of {self.weight_decay} is no decay; choose 0 or more, for example 5e-4")
        if not 0 <= self.momentum < 1:
            raise InputError(f"a momentum of {self.momentum} never forgets; choose 0 or more and less than 1")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label smoothing of {self.label_smoothing} leaves no label; choose from 0 to below 1")
