"""Learning-rate schedules as values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import final

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from secateurs.app.choices import Shape
from secateurs.errors import InputError


@final
@dataclass(frozen=True)
class Rate:
    """The learning rate relative to its peak, as a function of the finished share of the run.

    shape: "one-cycle" rises from 1/25 by a cosine, then falls by a cosine to 4e-6 (Smith 2018, arXiv:1803.09820, as
    in torch's OneCycleLR); "cosine" falls from 1 to 0 (Loshchilov and Hutter 2017, arXiv:1608.03983); "step"
    is multiplied by `gamma` every `every` epochs, "multi-step" at each of the `milestones` (in epochs); "constant"
    stays.
    cycles: number of equal parts of the run, each with the whole schedule. warmup: epochs in which the rate rises,
    linearly except for one-cycle; None is a fifth of the run for one-cycle, and 0 for the others.

    >>> steps = Rate("multi-step", milestones=(1, 3), gamma=0.1)
    >>> [round(steps.factor(step, steps_per_epoch=2, epochs=4), 3) for step in range(8)]
    [1.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]
    >>> [round(Rate("step", every=2).factor(step, steps_per_epoch=1, epochs=5), 3) for step in range(5)]
    [1.0, 1.0, 0.1, 0.1, 0.01]
    >>> [Rate("cosine", cycles=2).factor(step, steps_per_epoch=2, epochs=2) for step in range(4)]
    [1.0, 0.5, 1.0, 0.5]
    >>> [Rate("cosine").factor(step, steps_per_epoch=1, epochs=2) for step in (0, 1)]
    [1.0, 0.5]
    """

    shape: Shape = "one-cycle"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup: float | None = None
    every: int | None = None
    cycles: int = 1

    def __post_init__(self) -> None:
        """Refuse incomplete or contradictory settings."""
        if self.shape == "multi-step" and not self.milestones:
            raise InputError("a multi-step schedule needs the epochs of its steps, for example --milestones 80 120")
        if self.milestones and self.shape != "multi-step":
            raise InputError(f"milestones {self.milestones} belong to a multi-step schedule, and this is {self.shape}")
        if (self.shape == "step") != (self.every is not None) or (self.every is not None and self.every < 1):
            raise InputError(
                f"every={self.every} and the shape {self.shape!r} do not go together: a step schedule needs the whole "
                "number of epochs between its steps, for example --step-every 30, and no other schedule has any"
            )
        if any(a >= b for a, b in zip((0, *self.milestones), self.milestones, strict=False)):
            raise InputError(f"milestones {self.milestones} are epochs: whole numbers above 0, each above the last")
        if not 0 < self.gamma <= 1:
            raise InputError(f"gamma={self.gamma} is what the rate is multiplied by: above 0 and at most 1")
        if self.cycles < 1:
            raise InputError(f"cycles={self.cycles} is how often the schedule is gone through: 1 or more")
        if self.warmup is not None and self.warmup < 0:
            raise InputError(f"warmup={self.warmup} is a number of epochs: 0 or more")

    def attach(self, optimizer: Optimizer, *, steps_per_epoch: int, epochs: int) -> LRScheduler:
        """Make torch's scheduler for a run of this length; it is stepped after every optimizer step."""
        if self.shape != "one-cycle":
            return LambdaLR(optimizer, partial(self.factor, steps_per_epoch=steps_per_epoch, epochs=epochs))
        if self.cycles > 1:
            raise InputError("a one-cycle schedule goes through one cycle; take cosine, step or multi-step for more")
        rising = 0.2 if self.warmup is None else min(1.0, self.warmup / max(1, epochs))
        peaks = [float(group["lr"]) for group in optimizer.param_groups]
        total = steps_per_epoch * epochs
        return OneCycleLR(optimizer, peaks, total_steps=total, pct_start=rising, cycle_momentum=False)

    def factor(self, step: int, *, steps_per_epoch: int, epochs: int) -> float:
        """The share of the peak rate at optimizer step `step`, counted from 0; torch computes that of one-cycle."""
        length = max(1, steps_per_epoch * epochs // self.cycles)
        step = step % length if step < length * self.cycles else length - 1
        rising = (self.warmup or 0.0) * steps_per_epoch
        if step < rising:
            return (step + 1) / (rising + 1)
        if self.shape == "cosine":
            falling = max(1.0, length - rising)
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - rising) / falling)))
        if self.every is not None:
            return self.gamma ** (step // (self.every * steps_per_epoch))
        return self.gamma ** sum(step >= at * steps_per_epoch for at in self.milestones)
