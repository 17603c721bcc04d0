"""Callbacks: the best epoch and the history, and progress output during training."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor, nn
from typing_extensions import override


@final
@dataclass(frozen=True)
class Epoch:
    """Figures of one epoch; `epoch` counts from 1. A loss is None where it was infinite or not a number."""

    epoch: int
    train_loss: float | None
    loss: float | None
    accuracy: float
    """On the validation split, a fraction."""

    def better_than(self, other: "Epoch | None") -> bool:
        """Higher validation accuracy; among equals, lower validation loss.

        >>> Epoch(2, 0.1, 0.3, 0.98).better_than(Epoch(1, 0.2, 0.4, 0.98))
        True
        """
        return other is None or (self.accuracy, -_or_infinite(self.loss)) > (other.accuracy, -_or_infinite(other.loss))


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def _or_infinite(loss: float | None) -> float:
    return math.inf if loss is None else loss


@final
class Progress(Callback):
    """Keep every epoch's figures and the best one's weights inside the checkpoint, so that one file resumes all.

    keeps: keep the weights; not in a run that prunes, whose best epoch is one before pruning. averaged: the validated
    weights are a moving average, which is in the model only during validation.
    """

    def __init__(self, model: nn.Module, *, keeps: bool = True, averaged: bool = False) -> None:
        super().__init__()
        self.model = model
        self.keeps = keeps
        self.history: tuple[Epoch, ...] = ()
        self.best: Epoch | None = None
        self.weights: dict[str, Tensor] = {}
        self._averaged = averaged
        self._validated: dict[str, Tensor] = {}

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._averaged:
            self._validated = self._copied()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        train, loss = (_finite(found[f"{part}/loss"]) for part in ("train", "validation"))
        epoch = Epoch(trainer.current_epoch + 1, train, loss, found["validation/accuracy"])
        self.history = (*self.history, epoch)
        if self.keeps and epoch.train_loss is not None and epoch.better_than(self.best):
            self.best = epoch
            self.weights = self._validated if self._averaged else self._copied()

    def _copied(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    @override
    def state_dict(self) -> dict[str, Any]:
        best = asdict(self.best) if self.best else None
        return {"history": [asdict(epoch) for epoch in self.history], "best": best, "weights": self.weights}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = tuple(Epoch(**epoch) for epoch in state_dict["history"])
        self.best = Epoch(**state_dict["best"]) if state_dict["best"] else None
        self.weights = state_dict["weights"]


@final
class Bar(RichProgressBar):
    """Lightning's progress bar with the validation accuracy only, so that it fits on a line."""

    @override
    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        accuracy = trainer.callback_metrics.get("validation/accuracy")
        return {} if accuracy is None else {"validation": f"{100 * float(accuracy):.1f} %"}


@final
class Lines(Callback):
    """Print one line per epoch, if a progress bar cannot be drawn."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self.say = say

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = trainer.callback_metrics
        self.say(
            f"  epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: loss {float(found['train/loss']):.3f}, "
            f"validation {100 * float(found['validation/accuracy']):.2f} %"
        )
